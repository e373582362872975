"""What a query may expect of each route: the model, memory, and their judge; on every backend."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sona._core import reference
from sona.errors import DTypeError, RangeError, ShapeError

RULE = {
    "learned": 30,
    "width": 0.2,
    "nth": 4,
    "fresh": 0.5,
    "residual_prior": 10.0,
    "trust": 0.4,
    "low": 0.2,
    "memory_prior": 0.05,
    "edge": 0.05,
}
JUDGE = {
    "nth": 4,
    "width": 0.2,
    "memory_prior": 0.05,
    "choice_prior": 4.0,
    "fade": 0.9,
    "said_fade": 0.95,
}


def nobody(rows: Any) -> None:
    raise AssertionError("asked")


class World:
    """Remembered outcomes of a few routes, levels of all but one of them, and a model."""

    def __init__(self, dim: int = 24, n: int = 50, n_routes: int = 5) -> None:
        rng = np.random.default_rng([dim, n, n_routes])
        points = rng.standard_normal((n, dim))
        self.points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
        self.whole = np.array([rng.integers(0, n_routes, n), rng.permutation(n)])
        self.real = np.array(
            [rng.random(n), rng.integers(1, 4, n), np.ones(n), 0.1 * rng.standard_normal(n)]
        )
        self.levels = rng.uniform(0.5, 20.0, (n_routes, 6))
        self.levels[:, 2] = 0.6 * self.levels[:, 3]
        self.levels[:, 0] = rng.random(n_routes)
        self.levels[-1, 0] = np.nan
        self.overall = np.array([6.0, 10.0, 0.9])
        self.starts = np.array([0, 7, 12])
        self.rows = rng.standard_normal((15 + n_routes, dim)).astype(np.float32)
        self.table = rng.standard_normal((15, n_routes)).astype(np.float32)
        self.variance = rng.random((12, n_routes)).astype(np.float32)
        self.level = rng.random(n_routes)

    def near(self, query: Any, k: int) -> tuple[Any, Any]:
        similarities = self.points @ query
        rows = np.argsort(-similarities, axis=0, kind="stable")[:k].astype(np.int64)
        return rows, np.take_along_axis(similarities, rows, axis=0)

    def model(self, backend: ModuleType, **other: Any) -> Any:
        given = {
            "rows": self.rows,
            "starts": self.starts,
            "table": self.table,
            "variance": self.variance,
            "level": self.level,
            "doubted": 2,
        }
        return backend.CellModel(**{**given, **other})

    def modelling(self, backend: ModuleType, known: int) -> Any:
        """A model of the first routes."""
        return self.model(
            backend,
            rows=self.rows[: 15 + known],
            table=self.table[:, :known].copy(),
            variance=self.variance[:, :known].copy(),
            level=self.level[:known],
        )

    def outlook(self, backend: ModuleType, k: int = 20, known: int = 4, **other: Any) -> Any:
        codes = backend.RowCodes(*self.points.shape)
        backend.encode_rows(self.points, codes, 0)
        given = {
            "model": self.modelling(backend, known) if known else None,
            "rows": self.points,
            "codes": codes,
            "n": len(self.points) if k else 0,
            "whole": self.whole,
            "real": self.real,
            "levels": self.levels,
            "overall": self.overall,
            "neighbours": max(k, 1),
        }
        return backend.Outlook(**{**given, **RULE, **other})

    def expect(self, backend: ModuleType, k: int = 20, known: int = 4, **other: Any) -> Any:
        found = self.outlook(backend, k, known, **other).expect(self.points[3], nobody)
        return tuple(np.array(numbers) for numbers in found)

    def looked_up(self, m: int = 6, k: int = 9) -> dict[str, Any]:
        rows = np.arange(m) * 3
        near, similarities = self.near(self.points[rows].T, k)
        return {
            "rows": rows,
            "near": np.ascontiguousarray(near.T),
            "similarities": np.ascontiguousarray(similarities.T),
            "whole": self.whole,
            "real": self.real,
        }


def test_the_model_adds_its_levels_the_linear_part_and_one_cell_of_each_view(backend):
    world = World()
    mean, doubt = world.model(backend).means(world.points[0])
    products = world.rows.astype(np.float64) @ world.points[0]
    cells = [products[:7].argmax(), 7 + products[7:12].argmax(), 12 + products[12:15].argmax()]
    assert mean == pytest.approx(world.level + products[15:] + world.table[cells].sum(0), abs=1e-5)
    assert doubt == pytest.approx(world.variance[cells[:2]].mean(axis=0))


@pytest.mark.parametrize("dim", [1, 3, 24, 65, 384])
def test_codes_spare_the_model_reading_and_change_no_bit(backend, dim):
    rng = np.random.default_rng(dim)
    queries = rng.standard_normal((200, dim))
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    # Cells around the queries, some as near as rounding can tell, some the same.
    near = queries[rng.integers(0, 20, 120)] + rng.choice([0.0, 1e-6, 0.5], (120, 1)) * (
        rng.standard_normal((120, dim)) / dim**0.5
    )
    cells = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    codes = backend.RowCodes(120, dim)
    backend.encode_rows(cells, codes, 0)
    starts = np.array([0, 60, 100])
    table = rng.standard_normal((120, 2)).astype(np.float32)
    rows = np.concatenate([cells, rng.standard_normal((2, dim)).astype(np.float32)])
    given = (rows, starts, table, table[:100] ** 2, np.array([0.4, 0.6]), 2)
    models = [backend.CellModel(*given, c) for c in (None, codes)]
    for query in [*queries, np.zeros(dim, np.float32)]:
        plain, coded = (model.means(query) for model in models)
        assert all(np.array_equal(a, b) for a, b in zip(plain, coded, strict=True))


def test_codes_must_be_of_the_centroids(backend):
    with pytest.raises(ShapeError, match="codes"):
        World().model(backend, codes=backend.RowCodes(14, 24))


@pytest.mark.parametrize("trust", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("k", [0, 1, 20, 50])
def test_backends_expect_the_same(backend, k, trust):
    world = World()
    # What the model says is summed in float32: one cell's worth is the same in any order.
    world.rows[15:], world.table[7:] = 0.0, 0.0
    expected, deviation = world.expect(backend, k, trust=trust)
    for ours, theirs in zip(
        (expected, deviation), world.expect(reference, k, trust=trust), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-9)
    assert ((expected > 0.0) & (expected < 1.0)).all()


def test_an_unknown_route_goes_by_the_overall_mean_and_a_known_one_by_its_own(backend):
    world = World()
    world.levels[:, 3] = world.levels[:, 2] = 0.0
    expected, deviation = world.expect(backend, 0, known=0)
    assert expected[-1] == pytest.approx(0.6)
    assert expected[:-1] == pytest.approx(world.levels[:-1, 0])
    assert deviation[-1] == pytest.approx(0.3)
    assert (deviation[:-1] == 0.0).all()


def test_memory_alone_says_what_was_tried_and_little_of_what_was_not(backend):
    world = World(n_routes=3)
    world.whole[0] = np.arange(50) % 2
    world.real[0] = world.whole[0] == 0
    expected, deviation = world.expect(backend, 20, known=3, trust=1.0)
    assert expected[1] < expected[2] < expected[0]
    assert expected[2] == pytest.approx(RULE["low"])
    assert (deviation > 0.0).all()


def test_expectations_keep_their_order_where_they_leave_the_unit_interval(backend):
    world = World()
    world.levels[:] = (0.5, 1.0, 0.0, 0.0, 0.0, 0.0)
    world.rows[:], world.table[:] = 0.0, [0.4, 1.4, 1.5, -0.5, 0.0]
    world.table[5:] = 0.0
    world.starts = np.array([0, 5, 12])
    expected, _ = world.expect(backend, 0)
    assert 0.0 < expected[3] < expected[0] < expected[1] < expected[2] < 1.0


def test_a_row_that_the_model_was_not_asked_about_is_asked_for_first(backend):
    world = World()
    wanted = world.expect(backend)
    rows, _ = world.near(world.points[3], 20)
    said = world.real[3, rows[7]]
    world.real[3, rows[7]] = np.nan
    asked = []

    def ask(near: Any) -> None:
        asked.append(near)
        world.real[3, rows[7]] = said

    outlook = world.outlook(backend)
    found = outlook.expect(world.points[3], ask)
    assert [near.tolist() for near in asked] == [rows.tolist()]
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
    world.real[3, rows[7]] = np.nan
    assert outlook.expect(world.points[3], asked.append) is None


def test_what_asking_raises_comes_out(backend):
    world = World()
    world.real[3] = np.nan
    with pytest.raises(AssertionError, match="asked"):
        world.expect(backend)


def test_backends_agree_on_what_came_before(backend):
    world = World()
    asked = {**world.looked_up(), "before": np.full(6, 25), "nth": 4, "width": 0.2}
    mass, mean = backend.precedents(**asked)
    assert mass == pytest.approx(reference.precedents(**asked)[0], rel=1e-9)
    assert mean == pytest.approx(reference.precedents(**asked)[1], rel=1e-9)
    none = backend.precedents(**{**asked, "before": np.zeros(6, np.int64)})
    assert (none[0] == 0.0).all()


def judged(backend: ModuleType, world: World) -> tuple[Any, Any, Any]:
    levels, contest, choice = world.levels.copy(), np.array([0.5, 0.4, 2.0]), np.array([1.0, 1.0])
    backend.judge(
        **world.looked_up(),
        **JUDGE,
        n=50,
        levels=levels,
        overall=world.overall,
        contest=contest,
        choice=choice,
    )
    return levels, contest, choice


@pytest.mark.parametrize("n_routes", [1, 5])
def test_backends_judge_the_same(backend, n_routes):
    world = World(n_routes=n_routes)
    for ours, theirs in zip(judged(backend, world), judged(reference, world), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, nan_ok=True)


def test_routes_that_follow_the_query_are_told_from_a_lottery(backend):
    world = World(n_routes=2)
    lottery = judged(backend, world)[2]
    near, _ = world.near(world.points[0], 50)
    world.whole[0, near] = np.arange(50) >= 25
    assert judged(backend, world)[2][0] > lottery[0]


@pytest.mark.parametrize(
    ("other", "error"),
    [
        ({"starts": np.array([1, 7, 12])}, RangeError),
        ({"starts": np.array([0, 7, 7])}, RangeError),
        ({"starts": np.array([0, 7, 15])}, RangeError),
        ({"doubted": 3}, RangeError),
        ({"doubted": 0}, RangeError),
        ({"level": np.zeros(4)}, ShapeError),
    ],
)
def test_a_model_that_does_not_fit_together_is_refused(backend, other, error):
    with pytest.raises(error):
        World().model(backend, **other)


@pytest.mark.parametrize(
    ("other", "error"),
    [
        ({"levels": np.zeros((3, 6))}, RangeError),
        ({"levels": np.zeros((5, 5))}, ShapeError),
        ({"real": np.zeros((4, 49))}, ShapeError),
        ({"rows": np.zeros((50, 23), np.float32)}, ShapeError),
        ({"n": 51}, RangeError),
        ({"neighbours": 0}, RangeError),
        ({"nth": 0}, RangeError),
    ],
)
def test_an_outlook_that_does_not_fit_together_is_refused(backend, other, error):
    with pytest.raises(error):
        World().outlook(backend, **other)


def test_a_route_outside_the_levels_is_refused(backend):
    with pytest.raises(RangeError, match="routes"):
        World().expect(backend, known=0, levels=np.ones((1, 6)))


def test_a_query_of_another_kind_is_refused(backend):
    world = World()
    outlook, model = world.outlook(backend), world.model(backend)
    for query, error in ((np.zeros(24), DTypeError), (np.zeros(23, np.float32), ShapeError)):
        with pytest.raises(error):
            model.means(query)
        with pytest.raises(error):
            outlook.expect(query, nobody)


def test_nobody_judges_before_the_model_was_asked(backend):
    world = World()
    world.real[3, 3] = np.nan
    with pytest.raises(RangeError, match="put to the model"):
        judged(backend, world)
    world.whole[0, 3] = 9
    with pytest.raises(RangeError, match="routes"):
        judged(backend, world)
