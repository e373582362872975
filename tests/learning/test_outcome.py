"""The fitted model of outcomes: levels beside difficulty, and doubt where outcomes are few."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sona.learning.levels import Levels
from sona.learning.outcome import OutcomeModel, Points

DIM = 16


def regions(rng, n):
    """Queries of two regions, and which."""
    region = rng.integers(0, 2, n)
    x = np.eye(2, DIM, dtype=np.float32)[region]
    x = x + 0.15 * rng.standard_normal(x.shape).astype(np.float32)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), region


def fit(x, route, quality):
    points = Points(x, route, quality.astype(np.float64), np.ones(len(x)))
    return OutcomeModel.fit(points, 2, 20, 0)


def test_a_route_that_was_given_the_harder_queries_is_not_worse_for_it(rng):
    x, hard = regions(rng, 3_000)
    route = np.where(rng.random(3_000) < 0.8, hard, 1 - hard)
    quality = rng.random(3_000) < np.where(hard, 0.4, 0.9)
    raw = [quality[route == r].mean() for r in range(2)]
    level = fit(x, route, quality).level
    assert raw[0] - raw[1] > 0.25
    assert abs(level[0] - level[1]) < 0.05


def test_a_route_that_is_better_on_the_same_queries_stays_better(rng):
    x, hard = regions(rng, 3_000)
    route = np.where(rng.random(3_000) < 0.8, hard, 1 - hard)
    quality = rng.random(3_000) < np.where(hard, 0.4, 0.8) + 0.2 * (route == 1)
    level = fit(x, route, quality).level
    assert 0.1 < level[1] - level[0] < 0.3


def test_few_outcomes_leave_open_whether_quality_depends_on_the_query(rng):
    doubts = []
    for n in (64, 3_000):
        x, _ = regions(rng, n)
        model = fit(x, rng.integers(0, 2, n), rng.random(n) < 0.7)
        _, variance = model.expect(x[0])
        of_level = model.noise / (model.count + 1.0)
        doubts.append(float((variance - of_level).mean()))
    assert doubts[0] > 0.003
    assert doubts[1] < 0.001


# What is squared must not be so small that its square is subnormal and loses its digits.
_DEVIATION = st.just(0.0) | st.floats(1e-150, 0.5)


@given(st.integers(0, 300), _DEVIATION, _DEVIATION)
def test_what_is_drawn_is_never_more_than_the_doubt_and_rises_with_it(n, one, other):
    levels = Levels()
    levels.grow(1)
    for i in range(n):
        levels.follow(0, float(i % 3 > 0), 1.0, i)
    low, high = sorted((one, other))
    assert levels.at_stake(0, low) <= low * (1 + 1e-9)
    assert levels.at_stake(0, low) <= levels.at_stake(0, high) * (1 + 1e-9)


def test_doubt_about_a_route_counts_in_full_and_small_local_doubt_little(rng):
    levels = Levels()
    levels.grow(1)
    for i in range(1_000):
        levels.follow(0, float(rng.random() < 0.6), 1.0, i)
    of_route = float(np.sqrt(levels.totals[2] / levels.totals[1] / 1_020))
    assert levels.at_stake(0, of_route) > 0.99 * of_route
    assert levels.at_stake(0, 0.03) < 0.6 * 0.03
    assert levels.at_stake(0, 0.4) > 0.95 * 0.4
