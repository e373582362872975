"""The learning step against the numerical gradient of its loss, in float64, on every backend."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sona.errors import DTypeError, NonFiniteError, RangeError, ShapeError

RULE = {"temperature": 0.1, "rate": 0.05, "decay": 0.0, "max_norm": 1e9, "damping": 0.3}


class Case:
    """Random unit patterns with values, an adapter, an embedding, and room for the answers."""

    def __init__(self, backend: ModuleType, dim: int, rank: int, n: int, k: int) -> None:
        rng = np.random.default_rng([dim, rank, n, k])
        self.backend = backend
        self.adapter = backend.LowRankAdapter(dim, rank, 0.5)
        self.adapter.weights[:] = rng.standard_normal((2 * rank, dim)) / np.sqrt(dim)
        self.x = rng.standard_normal(dim).astype(np.float32)
        rows = rng.standard_normal((n, dim))
        self.centroids = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        self.values = rng.uniform(0.1, 0.9, n).astype(np.float32)
        self.indices = np.zeros(k, dtype=np.int64)
        self.similarities = np.zeros(k, dtype=np.float32)

    def step(self, target: float = 1.0, **rule: Any) -> float:
        return float(
            self.backend.decision_step(
                self.adapter,
                self.x,
                self.centroids,
                self.values,
                target,
                self.indices,
                self.similarities,
                **{**RULE, **rule},
            )
        )

    def loss(self, weights: Any, target: float) -> float:
        """The loss over the patterns that the step chose."""
        rank = self.adapter.rank
        x = self.x.astype(np.float64)
        y = x + self.adapter.scaling * weights[rank:].T @ (weights[:rank] @ x)
        z = self.centroids[self.indices].astype(np.float64) @ y / np.linalg.norm(y)
        a = np.exp((z - z.max()) / RULE["temperature"])
        e = float(a @ self.values[self.indices] / a.sum())
        return -float(target * np.log(e) + (1.0 - target) * np.log(1.0 - e))

    def direction(self, target: float) -> Any:
        weights = self.adapter.weights.astype(np.float64)
        gradient = np.empty_like(weights)
        for place in np.ndindex(*weights.shape):
            up, down = weights.copy(), weights.copy()
            up[place] += 1e-6
            down[place] -= 1e-6
            gradient[place] = (self.loss(up, target) - self.loss(down, target)) / 2e-6
        rank = self.adapter.rank
        scaled = self.adapter.scaling * weights
        damping = RULE["damping"] * np.eye(rank)
        # Each factor's rows are mixed by the inverse Gram matrix of the other one.
        gradient[:rank] = np.linalg.solve(
            scaled[rank:] @ scaled[rank:].T + damping, gradient[:rank]
        )
        gradient[rank:] = np.linalg.solve(
            scaled[:rank] @ scaled[:rank].T + damping, gradient[rank:]
        )
        return gradient


@pytest.mark.parametrize("dim", [2, 3, 8, 17, 33])
@pytest.mark.parametrize(("rank", "n", "k"), [(1, 2, 2), (2, 9, 5), (5, 40, 12), (2, 6, 6)])
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_moves_along_the_preconditioned_gradient(
    backend: ModuleType, dim: int, rank: int, n: int, k: int, target: float
) -> None:
    case = Case(backend, dim, rank, n, k)
    before = case.adapter.weights.copy()
    case.step(target, rate=0.0)
    np.testing.assert_array_equal(case.adapter.weights, before)
    direction = case.direction(target)
    case.step(target, decay=0.01)
    np.testing.assert_allclose(
        case.adapter.weights,
        0.99 * before - RULE["rate"] * direction,
        atol=2e-5 * max(1.0, np.abs(direction).max()),
    )


def test_every_size_against_the_reference(backend: ModuleType, dim: int) -> None:
    from sona._core import reference

    for rank, n, k in [(1, 1, 1), (2, 300, 5), (3, 33, 33), (16, 100, 32)]:
        ours, theirs = Case(backend, dim, rank, n, k), Case(reference, dim, rank, n, k)
        rule = {"decay": 0.001, "max_norm": 1.0}
        assert ours.step(0.8, **rule) == pytest.approx(theirs.step(0.8, **rule), abs=1e-4)
        np.testing.assert_allclose(ours.similarities, theirs.similarities, atol=1e-5)
        np.testing.assert_allclose(ours.adapter.weights, theirs.adapter.weights, atol=1e-3)


def test_reports_the_nearest_patterns(backend: ModuleType, dim: int) -> None:
    case = Case(backend, dim, 2, 50, 7)
    y = case.adapter.apply(case.x).astype(np.float64)
    true = case.centroids @ (y / np.linalg.norm(y))
    case.step()
    np.testing.assert_allclose(case.similarities, np.sort(true)[::-1][:7], atol=1e-5)
    np.testing.assert_allclose(true[case.indices], case.similarities, atol=1e-5)
    assert len(set(case.indices)) == 7


def test_learning_lowers_the_loss(backend: ModuleType) -> None:
    case = Case(backend, 64, 2, 20, 20)
    first = case.step(1.0, rate=0.2, max_norm=1.0)
    for _ in range(200):
        last = case.step(1.0, rate=0.2, max_norm=1.0)
    assert last > first + 0.1


def test_every_rank_learns_its_own_direction(backend: ModuleType) -> None:
    case = Case(backend, 32, 4, 20, 8)
    before = case.adapter.weights.copy()
    case.step()
    moves = case.adapter.weights - before
    assert (np.linalg.norm(moves, axis=1) > 0).all()
    # One outcome moves all columns of B along g, by amounts that their own h decides.
    amounts = np.linalg.norm(moves[4:], axis=1)
    assert np.ptp(amounts / amounts.max()) > 0.05


def test_the_step_is_bounded(backend: ModuleType) -> None:
    case = Case(backend, 32, 2, 20, 8)
    before = case.adapter.weights.copy()
    case.step(0.0, rate=1.0, max_norm=0.01)
    assert np.linalg.norm(case.adapter.weights - before) <= 0.01 * 1.001


@pytest.mark.parametrize("why", ["zero x", "equal values", "one pattern", "zero weights"])
def test_without_a_gradient_nothing_moves(backend: ModuleType, dim: int, why: str) -> None:
    case = Case(backend, dim, 2, 20, 1 if why == "one pattern" else 8)
    if why == "zero x":
        case.x[:] = 0.0
    elif why == "equal values":
        case.values[:] = 0.7
    elif why == "zero weights":
        case.adapter.weights[:] = 0.0
    before = case.adapter.weights.copy()
    for target in (0.0, 1.0):
        expected = case.step(target, decay=0.1, rate=1.0)
        assert 0.0 <= expected <= 1.0
    np.testing.assert_array_equal(case.adapter.weights, before)


def test_certainty_that_was_wrong_stays_finite(backend: ModuleType) -> None:
    case = Case(backend, 16, 2, 8, 8)
    case.values[:] = 1.0
    case.values[0] = 0.999
    case.step(0.0, max_norm=1.0)
    case.values[:] = 0.0
    case.values[0] = 1e-7
    case.step(1.0, max_norm=1.0)
    assert np.isfinite(case.adapter.weights).all()


def test_a_long_hostile_stream_stays_bounded(backend: ModuleType) -> None:
    case = Case(backend, 8, 2, 6, 6)
    for i in range(3000):
        case.step(float(i % 2), rate=0.1, decay=0.01, max_norm=1.0)
    assert np.linalg.norm(case.adapter.weights) <= 0.1 / 0.01 * 1.01


def test_refusals_change_nothing(backend: ModuleType) -> None:
    case = Case(backend, 16, 2, 8, 4)
    before = case.adapter.weights.copy()
    for name, value in [
        ("temperature", 0.0),
        ("temperature", np.nan),
        ("rate", -1.0),
        ("decay", 1.5),
        ("max_norm", 0.0),
        ("damping", 0.0),
    ]:
        with pytest.raises(RangeError, match=f"`{name}`"):
            case.step(**{name: value})
    for target in (-0.1, 7.0, np.nan):
        with pytest.raises(RangeError, match="`target`"):
            case.step(target)
    good = {name: getattr(case, name) for name in ("x", "centroids", "values", "indices")}
    for name, value, error in [
        ("x", np.ones(15, dtype=np.float32), ShapeError),
        ("x", np.ones(16), DTypeError),
        ("x", np.full(16, np.nan, dtype=np.float32), NonFiniteError),
        ("centroids", np.ones((8, 15), dtype=np.float32), ShapeError),
        ("values", np.ones(7, dtype=np.float32), ShapeError),
        ("indices", np.zeros(4, dtype=np.int32), DTypeError),
        ("indices", np.zeros(3, dtype=np.int64), ShapeError),
        ("indices", np.zeros(9, dtype=np.int64), RangeError),
    ]:
        setattr(case, name, value)
        with pytest.raises(error):
            case.step()
        setattr(case, name, good[name])
    np.testing.assert_array_equal(case.adapter.weights, before)
