"""The arguments that each kernel takes, checked with one wording for both backends.

Kernels take only arrays that are ready (exact dtype, C-contiguous, aligned): converting is the
business of `as_vector` and `as_matrix`, at the door of the public classes.
"""

from __future__ import annotations

import itertools
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from sona._core.arrays import FloatArray, as_matrix, as_vector, require, require_count
from sona._core.codes import RowCodes
from sona.errors import RangeError, ShapeError


def as_factor(value: Any, shape: tuple[int, int], name: str) -> FloatArray:
    """Return `value` as float32 of exactly `shape`."""
    array = as_matrix(value, None, name)
    if array.shape != shape:
        raise ShapeError(f"`{name}` must have shape {shape}; got {array.shape}")
    return array


# How the bits of a 16-bit row may be meant, in the order that the kernels know them.
BIT_FORMATS = ["float16", "bfloat16"]


def check_bits(x: Any, dim: int, format: str, out: Any) -> str:
    if format not in BIT_FORMATS:
        raise RangeError(f"`format` must be one of {BIT_FORMATS}; got {format!r}")
    shape = np.shape(x)
    if len(shape) not in (1, 2) or shape[-1] != dim:
        raise ShapeError(f"`x` must have shape ({dim},) or (n, {dim}); got {shape}")
    require(x, shape, np.uint16, "x")
    if out is not None:
        require(out, shape, np.uint16, "out", writable=True)
    return format


def check_step(
    dim: int, x: Any, centroids: Any, values: Any, indices: Any, similarities: Any
) -> None:
    n = _shape(centroids, 2, "centroids")[0]
    k = _shape(indices, 1, "indices")[0]
    require(x, (dim,), np.float32, "x")
    as_vector(x, dim, "x")
    require(centroids, (n, dim), np.float32, "centroids")
    require(values, (n,), np.float32, "values")
    require_count(k, 1, n, "k")
    require(indices, (k,), np.int64, "indices", writable=True)
    require(similarities, (k,), np.float32, "similarities", writable=True)


def check_outcome(
    below: int, dim: int, x: Any, centroids: Any, values: Any, gate: Any, similarities: Any, k: int
) -> None:
    if below != dim:
        raise ShapeError(f"`lower` must be of dimension {dim} as `upper` is; got {below}")
    n = _shape(centroids, 2, "centroids")[0]
    require(x, (dim,), np.float32, "x")
    as_vector(x, dim, "x")
    require(centroids, (n, dim), np.float32, "centroids")
    require(values, (n,), np.float32, "values")
    check_gate(gate)
    require(similarities, (n,), np.float32, "similarities", writable=True)
    require_count(k, 1, n, "k")


def check_gate(gate: Any) -> None:
    require(gate, (10,), np.float64, "gate", writable=True)


def check_similarities_to(rows: Any, x: Any, out: Any) -> None:
    n, dim = _shape(rows, 2, "rows")
    require(rows, (n, dim), np.float32, "rows")
    require(x, (dim,), np.float32, "x")
    require(out, (n,), np.float32, "out", writable=True)


def check_expected_values(outcomes: Any, out: Any) -> None:
    n = _shape(outcomes, 2, "outcomes")[0]
    require(outcomes, (n, 3), np.float64, "outcomes")
    m = _shape(out, 1, "out")[0]
    require(out, (m,), np.float32, "out", writable=True)
    require_count(m, 0, n, "the length of `out`")


def check_similarities(similarities: Any, outcomes: Any) -> None:
    n = _shape(similarities, 1, "similarities")[0]
    require(similarities, (n,), np.float32, "similarities")
    require_count(n, 1, len(outcomes) - 1, "the length of `similarities`")


def check_cells(unit: Any, outcomes: Any, sums: Any, sizes: Any, centroids: Any) -> None:
    room, dim = _shape(sums, 2, "sums")
    require(sums, (room, dim), np.float64, "sums", writable=True)
    require(sizes, (room,), np.float64, "sizes", writable=True)
    require(centroids, (room, dim), np.float32, "centroids", writable=True)
    require(outcomes, (room + 1, 3), np.float64, "outcomes", writable=True)
    require(unit, (dim,), np.float32, "unit")


def check_cell(cell: int, accepted: bool, outcomes: Any) -> None:
    require_count(cell, 0, len(outcomes) - 1 - bool(accepted), "cell")


def check_settle(sums: Any, centroids: Any) -> None:
    n, dim = _shape(sums, 2, "sums")
    require(sums, (n, dim), np.float64, "sums")
    require(centroids, (n, dim), np.float32, "centroids", writable=True)


def check_store_row(rows: Any, row: int, x: Any) -> None:
    n, dim = _shape(rows, 2, "rows")
    require(rows, (n, dim), np.float32, "rows", writable=True)
    require(x, (dim,), np.float32, "x")
    require_count(row, 0, n - 1, "row")


def check_follow(levels: Any, overall: Any, runs: Any, route: int) -> None:
    n = _shape(levels, 2, "levels")[0]
    require(levels, (n, 6), np.float64, "levels", writable=True)
    require(overall, (3,), np.float64, "overall", writable=True)
    require(runs, (n, 8), np.float64, "runs", writable=True)
    require_count(route, 0, n - 1, "route")


def check_model(
    rows: Any,
    starts: Any,
    table: Any,
    variance: Any,
    level: Any,
    doubted: int,
    codes: RowCodes | None,
) -> None:
    n_cells, n_routes = _shape(table, 2, "table")
    dim = _shape(rows, 2, "rows")[1]
    n_views = _shape(starts, 1, "starts")[0]
    require(rows, (n_cells + n_routes, dim), np.float32, "rows")
    require(starts, (n_views,), np.int64, "starts")
    require(table, (n_cells, n_routes), np.float32, "table")
    require(variance, (len(variance), n_routes), np.float32, "variance")
    require(level, (n_routes,), np.float64, "level")
    require_count(doubted, 1, n_views, "doubted")
    ends = [*starts.tolist(), n_cells]
    if ends[0] != 0 or any(a >= b for a, b in itertools.pairwise(ends)):
        raise RangeError(f"`starts` must rise from 0 to below {n_cells}; got {starts}")
    require_count(len(variance), ends[doubted], None, "the length of `variance`")
    _check_codes(codes, n_cells, dim)


def check_outlook(
    known: tuple[int, int] | None,
    rows: Any,
    codes: RowCodes,
    n: int,
    whole: Any,
    real: Any,
    levels: Any,
    overall: Any,
    neighbours: int,
    nth: int,
) -> None:
    """`known` is the dimension of the model and the number of routes that it knows."""
    capacity, dim = _shape(rows, 2, "rows")
    require(rows, (capacity, dim), np.float32, "rows")
    _check_codes(codes, capacity, dim)
    _check_columns(whole, real)
    require_count(n, 0, min(capacity, whole.shape[1]), "n")
    n_routes = _shape(levels, 2, "levels")[0]
    require(levels, (n_routes, 6), np.float64, "levels")
    require(overall, (3,), np.float64, "overall")
    if known is not None:
        if known[0] != dim:
            raise ShapeError(f"`model` must be of dimension {dim}; got {known[0]}")
        require_count(known[1], 0, n_routes, "the number of the model's routes")
    require_count(neighbours, 1, None, "neighbours")
    require_count(nth, 1, None, "nth")


def check_query(x: Any, dim: int) -> None:
    require(x, (dim,), np.float32, "x")


def check_precedents(
    rows: Any, before: Any, near: Any, similarities: Any, whole: Any, real: Any, nth: int
) -> None:
    _check_neighbours(rows, near, similarities, whole, real, nth)
    require(before, (len(rows),), np.int64, "before")


def check_judge(
    rows: Any,
    near: Any,
    similarities: Any,
    whole: Any,
    real: Any,
    n: int,
    levels: Any,
    overall: Any,
    contest: Any,
    choice: Any,
    nth: int,
) -> None:
    _check_neighbours(rows, near, similarities, whole, real, nth)
    require_count(n, 0, whole.shape[1], "n")
    require(levels, (_shape(levels, 2, "levels")[0], 6), np.float64, "levels", writable=True)
    require(overall, (3,), np.float64, "overall")
    require(contest, (3,), np.float64, "contest", writable=True)
    require(choice, (2,), np.float64, "choice", writable=True)


def check_judged(
    rows: npt.NDArray[np.int64],
    whole: npt.NDArray[np.int64],
    real: npt.NDArray[np.float64],
    n: int,
    n_routes: int,
) -> None:
    check_routes(whole[0, :n], n_routes)
    if np.isnan(real[3, rows]).any():
        raise RangeError("`rows` must have been put to the model; one was not")


def _check_neighbours(
    rows: Any, near: Any, similarities: Any, whole: Any, real: Any, nth: int
) -> None:
    m, k = _shape(near, 2, "near")
    require_count(k, 1, None, "the rows near each")
    require_count(nth, 1, None, "nth")
    require(rows, (m,), np.int64, "rows")
    require(near, (m, k), np.int64, "near")
    require(similarities, (m, k), np.float32, "similarities")
    _check_columns(whole, real)
    check_rows(rows, whole)
    check_rows(near, whole)


def check_rows(rows: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> None:
    room = whole.shape[1]
    if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < room:
        raise RangeError(f"rows must be in [0, {room}); got {rows.min()} to {rows.max()}")


def check_routes(route: npt.NDArray[np.int64], n: int) -> None:
    if route.size and not 0 <= int(route.min()) <= int(route.max()) < n:
        raise RangeError(f"routes must be in [0, {n}); got {route.min()} to {route.max()}")


def _check_columns(whole: Any, real: Any) -> None:
    room = _shape(whole, 2, "whole")[1]
    require(whole, (2, room), np.int64, "whole")
    require(real, (4, room), np.float64, "real")


def check_put_outcome(
    rows: Any, codes: RowCodes, whole: Any, real: Any, row: int, unit: Any
) -> None:
    n, dim = _shape(rows, 2, "rows")
    room = _shape(whole, 2, "whole")[1]
    require(rows, (n, dim), np.float32, "rows", writable=True)
    _check_codes(codes, n, dim)
    require(whole, (2, room), np.int64, "whole", writable=True)
    require(real, (4, room), np.float64, "real", writable=True)
    require(unit, (dim,), np.float32, "unit")
    require_count(row, 0, min(n, room) - 1, "row")


def check_same_vector(x: Any, y: Any) -> None:
    for value, name in ((x, "x"), (y, "y")):
        require(value, _shape(value, 1, name), np.float32, name)


def check_unit_rows(x: Any) -> None:
    if getattr(x, "ndim", 0) not in (1, 2):
        raise ShapeError(f"`x` must have shape (dim,) or (n, dim); got {np.shape(x)}")
    require(x, x.shape, np.float32, "x")


def check_assign(
    points: Any,
    centroids: Any,
    labels: Any,
    similarities: Any,
    n_threads: int,
    codes: RowCodes | None,
    moved: Any,
) -> None:
    n, dim = _shape(points, 2, "points")
    k = _shape(centroids, 2, "centroids")[0]
    require(points, (n, dim), np.float32, "points")
    require(centroids, (k, dim), np.float32, "centroids")
    require_count(k, 1, None, "n_clusters")
    require(labels, (n,), np.int32, "labels", writable=True)
    if similarities is not None:
        require(similarities, (n,), np.float32, "similarities", writable=True)
    require_count(n_threads, 1, None, "n_threads")
    _check_codes(codes, n, dim)
    if moved is not None:
        require(moved, (k,), np.bool_, "moved")
        outside = (labels < 0) | (labels >= k)
        if outside.any():
            refuse_label(labels, None, int(outside.argmax()), k)


def check_accumulate(
    points: Any, labels: Any, weights: Any, sums: Any, counts: Any, before: Any
) -> None:
    n, dim = _shape(points, 2, "points")
    k = _shape(sums, 2, "sums")[0]
    require(points, (n, dim), np.float32, "points")
    require(labels, (n,), np.int32, "labels")
    if weights is not None:
        require(weights, (n,), np.float64, "weights")
    require(sums, (k, dim), np.float64, "sums", writable=True)
    require(counts, (k,), np.float64, "counts", writable=True)
    if before is not None:
        require(before, (n,), np.int32, "before")


def check_squared_distances(points: Any, seeds: Any) -> None:
    n, dim = _shape(points, 2, "points")
    m = _shape(seeds, 2, "seeds")[0]
    require(points, (n, dim), np.float32, "points")
    require(seeds, (m, dim), np.float32, "seeds")


def check_encode_rows(rows: Any, codes: RowCodes, start: int) -> None:
    n, dim = _shape(rows, 2, "rows")
    capacity, width = codes.codes.shape
    require(rows, (n, dim), np.float32, "rows")
    if RowCodes(0, dim).codes.shape[1] != width:
        raise ShapeError(f"`codes` must be for rows of length {dim}; got room for {width}")
    require_count(start, 0, capacity - n, "start")


def check_top_k(
    rows: Any, n: int, queries: Any, k: int, n_threads: int, codes: RowCodes | None
) -> None:
    capacity, dim = _shape(rows, 2, "rows")
    require(rows, (capacity, dim), np.float32, "rows")
    require_count(n, 1, capacity, "n")
    shape = np.shape(queries)
    if len(shape) not in (1, 2) or shape[-1] != dim:
        raise ShapeError(f"`queries` must have shape ({dim},) or (m, {dim}); got {shape}")
    require(queries, shape, np.float32, "queries")
    require_count(k, 1, n, "k")
    require_count(n_threads, 1, None, "n_threads")
    _check_codes(codes, capacity, dim)


def check_rule(
    target: float,
    temperature: float,
    rate: float,
    decay: float,
    max_norm: float,
    damping: float,
) -> None:
    """Raise RangeError unless the numbers of a decision step make sense (NaN never does)."""
    if not 0.0 <= target <= 1.0:
        raise RangeError(f"`target` must be in [0, 1]; got {target}")
    if not 0.0 < temperature < np.inf:
        raise RangeError(f"`temperature` must be positive; got {temperature}")
    if not 0.0 <= rate < np.inf:
        raise RangeError(f"`rate` must not be negative; got {rate}")
    if not 0.0 <= decay <= 1.0:
        raise RangeError(f"`decay` must be in [0, 1]; got {decay}")
    if not max_norm > 0.0:
        raise RangeError(f"`max_norm` must be positive; got {max_norm}")
    if not 0.0 < damping < np.inf:
        raise RangeError(f"`damping` must be positive; got {damping}")


def refuse_label(
    labels: npt.NDArray[np.int32],
    before: npt.NDArray[np.int32] | None,
    row: int,
    n_clusters: int,
) -> NoReturn:
    if 0 <= labels[row] < n_clusters and before is not None:
        raise RangeError(f"`before` must be in [-1, {n_clusters}); got {before[row]} at [{row}]")
    raise RangeError(f"`labels` must be in [0, {n_clusters}); got {labels[row]} at [{row}]")


def _check_codes(codes: RowCodes | None, capacity: int, dim: int) -> None:
    if codes is not None and codes.codes.shape != (capacity, RowCodes(0, dim).codes.shape[1]):
        raise ShapeError(
            f"`codes` must have room for {capacity} rows of length {dim}; got room of shape "
            f"{codes.codes.shape}"
        )


def _shape(x: Any, ndim: int, name: str) -> tuple[int, ...]:
    """The shape of `x`, once it is known to have `ndim` dimensions."""
    shape = getattr(x, "shape", ())
    if len(shape) != ndim:
        raise ShapeError(f"`{name}` must have {ndim} dimensions; got shape {shape}")
    return tuple(shape)
