"""The bounded memory: keeps the newest, counts what it drops, survives saving."""

import numpy as np
import pytest

from sona.errors import RangeError
from sona.learning.buffer import TrajectoryBuffer


def directions(rng, n, dim=8):
    x = rng.standard_normal((n, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 300, 700])
def test_keeps_the_newest_and_counts_the_rest(rng, n):
    buffer = TrajectoryBuffer(8, capacity=8)
    points = directions(rng, n)
    for i, x in enumerate(points):
        buffer.append(x, i % 3, i / n)
    assert (len(buffer), buffer.seen, buffer.dropped) == (min(n, 8), n, max(n - 8, 0))
    order = buffer.columns("order")
    assert sorted(order) == list(range(max(n - 8, 0), n))
    np.testing.assert_array_equal(buffer.columns("route"), order % 3)
    np.testing.assert_allclose(buffer.embeddings, points[order], atol=1e-6)


def test_finds_what_was_appended_last(rng):
    buffer = TrajectoryBuffer(8, capacity=1_000)
    points = directions(rng, 600)
    for i, x in enumerate(points):
        buffer.append(x, 0, 1.0)
        if i % 97 == 0:
            rows, similarities = buffer.nearest(x, 1)
            assert buffer.columns("order")[rows[0]] == i
            assert similarities[0] == pytest.approx(1.0, abs=1e-5)


def test_survives_saving(rng):
    buffer = TrajectoryBuffer(8, capacity=20)
    for x in directions(rng, 33):
        buffer.append(x, 1, 0.5, 2.0)
    again = TrajectoryBuffer.from_arrays(8, 20, buffer.arrays())
    for x in directions(rng, 5):
        buffer.append(x, 2, 0.25)
        again.append(x, 2, 0.25)
    assert again.dropped == buffer.dropped == 18
    for name, array in buffer.arrays().items():
        # Rows are brought to unit length once more, which may turn a last bit.
        np.testing.assert_allclose(again.arrays()[name], array, rtol=1e-6, atol=1e-7)


def test_needs_room():
    with pytest.raises(RangeError, match="`capacity`"):
        TrajectoryBuffer(8, capacity=0)


def test_a_full_buffer_that_began_with_more_than_its_capacity_is_saved_and_read(rng):
    rows = rng.standard_normal((12, 3)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    first = TrajectoryBuffer(3, 12)
    for row in rows:
        first.append(row, 0, 0.5)
    heir = TrajectoryBuffer.from_arrays(3, 4, first.arrays())  # 12 rows, and 4 of its own
    for row in rows:
        heir.append(row, 1, 0.25)
    again = TrajectoryBuffer.from_arrays(3, 4, heir.arrays())
    assert len(again) == len(heir) == heir.capacity == 16
    for one in (heir, again):
        one.append(rows[0], 2, 1.0)
    for name in ("route", "order", "quality"):
        assert again.columns(name).tolist() == heir.columns(name).tolist()
