"""The kernel of memory: its width is the one at which the log foretells itself best."""

import numpy as np

from sona.learning.buffer import TrajectoryBuffer
from sona.learning.neighbours import WIDTHS, foretelling_width


def remember(points, routes, quality):
    buffer = TrajectoryBuffer(points.shape[1], len(points))
    for point, route, outcome in zip(points, routes, quality, strict=True):
        buffer.append(
            (point / np.linalg.norm(point)).astype(np.float32), int(route), float(outcome)
        )
    return buffer


def test_few_outcomes_leave_the_width_as_it_is():
    rng = np.random.default_rng(0)
    buffer = remember(rng.standard_normal((8, 4)), np.zeros(8), np.ones(8))
    assert foretelling_width(buffer) == WIDTHS[0]


def test_where_luck_decides_between_routes_the_kernel_widens():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((600, 8))
    routes = 2 * (points[:, 0] > 0) + rng.integers(0, 2, 600)  # two of four work on each side
    assert foretelling_width(remember(points, routes, np.ones(600))) == WIDTHS[1]


def test_where_neighbours_say_all_the_kernel_stays_narrow():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, 32))
    routes = np.repeat(np.arange(200), 4)  # four near copies each: the 16th neighbour is a stranger
    points = centres[routes] + 0.55 * rng.standard_normal((800, 32))
    assert foretelling_width(remember(points, routes, np.ones(800))) == WIDTHS[0]
