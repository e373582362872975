"""One outcome in the bank: the step through two adapters, the gate, the cells; on every backend."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sona._core import aligned_zeros, reference
from sona.errors import DTypeError, NonFiniteError, RangeError, ShapeError

START = (20.0, 0.5, 0.5, 0.1, 0.1, 0.03, 0.0, 0.15, 0.4, 200.0)
RULE = {"temperature": 0.03, "rate": 0.1, "decay": 0.005, "max_norm": 1.0, "damping": 0.3}


def unit(x: Any) -> Any:
    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    return (x / np.where(norms > 0.0, norms, 1.0)).astype(np.float32)


class Case:
    """A bank, two adapters and a gate."""

    def __init__(self, backend: ModuleType, dim: int, n: int = 40, base_rank: int = 5) -> None:
        rng = np.random.default_rng([dim, n])
        self.backend = backend
        self.lower = backend.LowRankAdapter(dim, base_rank)
        self.upper = backend.LowRankAdapter(dim, 2, 0.7)
        for adapter in (self.lower, self.upper):
            weights = rng.standard_normal(adapter.weights.shape) / np.sqrt(dim)
            adapter.weights[:] = 0.3 * weights
        self.centroids = unit(rng.standard_normal((n, dim)))
        self.x = unit(self.centroids[0] + 0.3 * rng.standard_normal(dim) / np.sqrt(dim))
        self.values = rng.uniform(0.1, 0.9, n).astype(np.float32)
        self.gate = np.array(START)
        self.similarities = np.zeros(n, np.float32)

    def step(self, target: float = 1.0, k: int | None = None, **rule: float) -> float:
        k = min(16, len(self.centroids)) if k is None else k
        return float(
            self.backend.outcome_step(
                self.lower,
                self.upper,
                self.x,
                self.centroids,
                self.values,
                target,
                self.gate,
                self.similarities,
                k,
                **{**RULE, **rule},
            )
        )


def apart(case: Case, adapter: Any, x: Any, target: float, rate: float, decay: float) -> float:
    """The same decision by the kernel that searches for itself."""
    k = min(16, len(case.centroids))
    rooms = np.zeros(k, np.int64), np.zeros(k, np.float32)
    step = case.backend.decision_step
    return float(
        step(adapter, x, case.centroids, case.values, target, *rooms, 0.03, rate, decay, 1.0, 0.3)
    )


@pytest.mark.parametrize("open_", [True, False])
def test_is_the_gate_and_the_step_in_one(backend: ModuleType, dim: int, open_: bool) -> None:
    ours, theirs = Case(backend, dim), Case(backend, dim)
    if not open_:
        ours.gate[5] = theirs.gate[5] = -0.05
    for target in (1.0, 0.0, 0.3):
        trust = backend.gate_trust(theirs.gate)
        assert (trust > 0.0) == open_
        x = theirs.lower.apply(theirs.x)
        decay = 0.0 if trust > 0.0 else RULE["decay"]
        expected = apart(theirs, theirs.upper, x, target, RULE["rate"] * trust, decay)
        blank = backend.LowRankAdapter(dim, 1)
        judged = apart(theirs, blank, theirs.x, target, 0.0, 0.0)
        backend.gate_observe(theirs.gate, judged, target)
        assert ours.step(target) == pytest.approx(expected, abs=1e-4)
        np.testing.assert_allclose(ours.gate, theirs.gate, atol=1e-5)
        np.testing.assert_allclose(ours.upper.weights, theirs.upper.weights, atol=2e-3)
        np.testing.assert_allclose(ours.similarities, ours.centroids @ ours.x, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 12, 100, 300])
def test_every_size_against_the_reference(backend: ModuleType, dim: int, n: int) -> None:
    ours, theirs = Case(backend, dim, n), Case(reference, dim, n)
    for target in (0.8, 0.1):
        assert ours.step(target) == pytest.approx(theirs.step(target), abs=1e-4)
    np.testing.assert_allclose(ours.gate, theirs.gate, atol=1e-5)
    np.testing.assert_allclose(ours.similarities, theirs.similarities, atol=1e-5)
    np.testing.assert_allclose(ours.upper.weights, theirs.upper.weights, atol=2e-3)


def test_more_ranks_than_dimensions(backend: ModuleType) -> None:
    ours, theirs = Case(backend, 3, 9, base_rank=16), Case(reference, 3, 9, base_rank=16)
    assert ours.step() == pytest.approx(theirs.step(), abs=1e-4)


def test_a_zero_query_teaches_nothing_and_is_judged(backend: ModuleType, dim: int) -> None:
    case = Case(backend, dim)
    case.x[:] = 0.0
    before = case.upper.weights.copy()
    assert 0.0 <= case.step(0.0) <= 1.0
    np.testing.assert_array_equal(case.upper.weights, before)
    assert case.gate[0] == 21.0


def test_a_hostile_stream_stays_bounded_and_shuts_the_gate(backend: ModuleType) -> None:
    case = Case(backend, 16, 10)
    for i in range(2_000):
        case.x = case.centroids[i % 10]
        case.step(float(case.values[i % 10] < 0.5))
    assert backend.gate_trust(case.gate) == 0.0
    assert np.linalg.norm(case.upper.weights) < 20.0 * RULE["rate"]


def test_refusals_change_nothing(backend: ModuleType) -> None:
    case = Case(backend, 16, 8)
    before = case.upper.weights.copy(), case.gate.copy()
    for name, value, error in [
        ("x", np.ones(15, np.float32), ShapeError),
        ("x", np.ones(16), DTypeError),
        ("x", np.full(16, np.inf, np.float32), NonFiniteError),
        ("lower", backend.LowRankAdapter(15, 2), ShapeError),
        ("centroids", np.ones((8, 15), np.float32), ShapeError),
        ("values", np.ones(7, np.float32), ShapeError),
        ("gate", np.ones(8), ShapeError),
        ("similarities", np.ones(7, np.float32), ShapeError),
    ]:
        good = getattr(case, name)
        setattr(case, name, value)
        with pytest.raises(error, match=f"`{name}`"):
            case.step()
        setattr(case, name, good)
    for target in (-0.1, 7.0, np.nan):
        with pytest.raises(RangeError, match="`target`"):
            case.step(target)
    for k in (0, 9):
        with pytest.raises(RangeError, match="`k`"):
            case.step(k=k)
    np.testing.assert_array_equal(case.upper.weights, before[0])
    np.testing.assert_array_equal(case.gate, before[1])


class Cells:
    """Three cells with room for two more, and the table of one route."""

    def __init__(self, backend: ModuleType, dim: int) -> None:
        rng = np.random.default_rng(dim)
        self.backend = backend
        self.sums = np.zeros((5, dim))
        self.sums[:3] = 4.0 * rng.standard_normal((3, dim))
        self.sizes = np.array([4.0, 4.0, 4.0, 0.0, 0.0])
        self.centroids = np.zeros((5, dim), np.float32)
        backend.settle(self.sums, self.centroids)
        self.outcomes = np.zeros((6, 3))

    def arrays(self) -> tuple[Any, ...]:
        return self.outcomes, self.sums, self.sizes, self.centroids

    def place(self, x: Any, accepted: bool = True, room: bool = False, by: bool = False) -> int:
        near = np.empty(3, np.float32)
        self.backend.similarities_to(self.centroids[:3], x, near)
        return int(
            self.backend.place_outcome(near, x, 0.5, accepted, *self.arrays(), 0.98, room, by)
        )


def test_an_outcome_joins_its_nearest_cell(backend: ModuleType, dim: int) -> None:
    cells = Cells(backend, dim)
    x = unit(0.8 * cells.centroids[1] + np.float32(1e-3))
    sum_ = cells.sums[1] + x
    cell = cells.place(x)
    assert float(cells.centroids[cell] @ x) >= float((cells.centroids[:3] @ x).max()) - 1e-5
    assert cells.outcomes[cell].tolist() == [1.0, 0.5, 0.25]
    assert cells.sizes[cell] == 5.0
    if cell == 1:
        np.testing.assert_allclose(cells.sums[1], sum_)
    np.testing.assert_allclose(cells.centroids[:3], unit(cells.sums[:3]), atol=1e-6)
    assert cells.outcomes.sum() == 1.75


def test_a_failure_is_counted_and_moves_nothing(backend: ModuleType) -> None:
    cells = Cells(backend, 16)
    before = cells.sums.copy(), cells.centroids.copy()
    assert cells.place(cells.centroids[2], accepted=False) == 2
    assert cells.outcomes[2, 0] == 1.0
    np.testing.assert_array_equal(cells.sums, before[0])
    np.testing.assert_array_equal(cells.centroids, before[1])


def test_strangers_found_cells_and_find_home_by_route(backend: ModuleType) -> None:
    cells = Cells(backend, 16)
    stranger = unit(cells.centroids[0] + 2.0 * cells.centroids[1])
    assert cells.place(stranger, room=True) == -1
    assert cells.place(stranger, by=True) == -2
    assert not cells.outcomes.any()
    cells.outcomes[0] = (1.0, 1.0, 1.0)
    cells.outcomes[1] = (1.0, 0.0, 0.0)  # tried, and never any good
    assert cells.place(stranger, by=True) == 0
    assert cells.place(stranger, by=False) == 1
    assert cells.place(cells.centroids[1].copy(), room=True, by=True) == 1


def test_counting_in_a_cell_of_ones_own_choice(backend: ModuleType) -> None:
    cells = Cells(backend, 8)
    x = unit(np.ones(8))
    backend.count_outcome(3, x, 1.0, True, *cells.arrays())
    backend.count_outcome(5, x, 0.25, False, *cells.arrays())
    np.testing.assert_allclose(cells.centroids[3], x, atol=1e-7)
    assert cells.outcomes[5].tolist() == [1.0, 0.25, 0.0625]
    with pytest.raises(RangeError, match="`cell`"):
        backend.count_outcome(5, x, 1.0, True, *cells.arrays())
    with pytest.raises(ShapeError, match="`unit`"):
        backend.count_outcome(0, x[:7].copy(), 1.0, True, *cells.arrays())


def test_expected_values_shrink_to_the_route(backend: ModuleType) -> None:
    table = np.array([[10.0, 8.0, 8.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    values = np.empty(3, np.float32)
    backend.expected_values(table, values, 1.0, 0.0, 20.0)
    mean = 8.5 / 13.0
    np.testing.assert_allclose(values, [(8 + 20 * mean) / 30, mean, 20 * mean / 22], rtol=1e-6)
    with pytest.raises(ShapeError, match="`outcomes`"):
        backend.expected_values(table[:, :2].copy(), values, 1.0, 0.0, 20.0)


def test_rows_are_stored_and_compared(backend: ModuleType, dim: int) -> None:
    rows, x = np.zeros((3, dim), np.float32), np.arange(1, dim + 1, dtype=np.float32)
    backend.store_row(rows, 1, x)
    assert backend.same_vector(rows[1], x)
    assert not backend.same_vector(rows[0], x)
    assert not backend.same_vector(x, np.append(x, np.float32(0.0)))
    assert not rows[[0, 2]].any()
    with pytest.raises(RangeError, match="`row`"):
        backend.store_row(rows, 3, x)


def test_levels_and_runs_follow_the_reference(backend: ModuleType) -> None:
    rng = np.random.default_rng(0)
    rooms = []
    for _ in range(2):
        levels = np.zeros((3, 6))
        levels[:, :2] = np.nan, 20.0
        levels[1, 0], levels[2, 4:] = 0.6, (1.0, 8.0)
        rooms.append((levels, np.array([1.0, 2.0, 0.25]), np.zeros((3, 8))))
    alarms = 0
    for order in range(600):
        route, good = int(rng.integers(3)), 0.8 if order < 400 else 0.1
        outcome = (route, float(rng.random() < good), 1.0 + order % 2, order, 0.5, 18.0, 2.0)
        mine, theirs = (
            module.follow(*room, *outcome)
            for module, room in zip((backend, reference), rooms, strict=True)
        )
        assert mine == theirs
        assert not mine or order > 400
        alarms += mine == 2
        for a, b in zip(*rooms, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        if mine:
            for _, _, runs in rooms:
                runs[route] = 0.0
    assert alarms >= 3
    with pytest.raises(RangeError, match="`route`"):
        backend.follow(*rooms[0], 3, 1.0, 1.0, 0, 0.5, 18.0, 2.0)


def test_an_outcome_is_put_where_a_search_finds_it(backend: ModuleType, dim: int) -> None:
    rng = np.random.default_rng(dim)
    rows, codes = aligned_zeros((200, dim)), backend.RowCodes(200, dim)
    whole, real = np.zeros((2, 200), np.int64), np.zeros((4, 200))
    units = unit(rng.standard_normal((200, dim)))
    columns = rows, codes, whole, real
    for i in range(200):
        backend.put_outcome(*columns, i, units[i].copy(), i % 3, 1_000 + i, 0.25, 2.0, 0.5)
    np.testing.assert_array_equal(rows, units)
    assert whole[:, 7].tolist() == [1, 1_007]
    assert real[:3, 7].tolist() == [0.25, 2.0, 0.5]
    assert np.isnan(real[3]).all()
    _, similarities = backend.top_k(rows, 200, units, 1, 1, codes)
    np.testing.assert_allclose(similarities[:, 0], 1.0, atol=1e-5)
    with pytest.raises(RangeError, match="`row`"):
        backend.put_outcome(*columns, 200, units[0].copy(), 0, 0, 0.0, 1.0, 1.0)
    with pytest.raises(ShapeError, match="`unit`"):
        backend.put_outcome(*columns, 0, np.ones(dim + 1, np.float32), 0, 0, 0.0, 1.0, 1.0)
