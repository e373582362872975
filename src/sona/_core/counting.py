"""The NumPy meaning of counting one outcome in the cells of a bank.

The cells of a bank are three arrays with room for more of them: `sums` (room, dim) and `sizes`
(room,) of the unit vectors that joined each cell, `centroids` (room, dim), the sums at unit
length. A route has a table `outcomes` (room + 1, 3): how many, their qualities' sum and sum of
squares, per cell; the last row is for outcomes that came before there was a cell.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sona._core import contracts
from sona._core.arrays import FloatArray

_Floats = npt.NDArray[np.float64]


def similarities_to(rows: FloatArray, x: FloatArray, out: FloatArray) -> None:
    """Write the product of each row of shape (n, dim) with `x` to `out` of shape (n,)."""
    contracts.check_similarities_to(rows, x, out)
    np.dot(rows, x, out=out)


def expected_values(
    outcomes: _Floats, out: FloatArray, blind: float, floor: float, strength: float
) -> None:
    """Write what a route is expected to be worth in each cell.

    The mean of its outcomes there and of `strength` more outcomes of worth
    ``blind * mean + floor``, where the mean is the route's over all cells, one half at first.

    Parameters
    ----------
    outcomes : ndarray of float64, shape (m, 3)
        The route's table.
    out : ndarray of float32, shape (n,)
        n at most m.
    blind, floor, strength : float
    """
    contracts.check_expected_values(outcomes, out)
    count, total = outcomes[: len(out), 0], outcomes[: len(out), 1]
    prior = blind * (total.sum() + 0.5) / (count.sum() + 1.0) + floor
    out[:] = (total + strength * prior) / (count + strength)


def place_outcome(
    similarities: FloatArray,
    unit: FloatArray,
    quality: float,
    accepted: bool,
    outcomes: _Floats,
    sums: _Floats,
    sizes: _Floats,
    centroids: FloatArray,
    same: float,
    room: bool,
    by_route: bool,
) -> int:
    """Count an outcome in the cell it belongs to.

    That is the nearest one; for one that is accepted and less similar than `same` to any cell,
    a new one while there is `room`, and else, `by_route`, the nearest in which its route ever
    achieved something.

    Parameters
    ----------
    similarities : ndarray of float32, shape (n,)
        Of the cells to the vector; n at least 1.
    unit : ndarray of float32, shape (dim,)
        Unit length or zero.
    quality : float
    accepted : bool
        Whether the vector may move the cell.
    outcomes, sums, sizes, centroids : ndarray
        The cells, with the table of the outcome's route; updated.
    same : float
    room, by_route : bool

    Returns
    -------
    int
        The cell; -1 where it should be a new one and -2 where the route has none of its own:
        nothing was counted then.
    """
    contracts.check_cells(unit, outcomes, sums, sizes, centroids)
    contracts.check_similarities(similarities, outcomes)
    cell = int(similarities.argmax())
    if accepted and similarities[cell] < np.float32(same):
        if room:
            return -1
        if by_route:
            worked = np.flatnonzero(outcomes[: len(similarities), 1] > 0.0)
            if not len(worked):
                return -2
            cell = int(worked[similarities[worked].argmax()])
    count_outcome(cell, unit, quality, accepted, outcomes, sums, sizes, centroids)
    return cell


def count_outcome(
    cell: int,
    unit: FloatArray,
    quality: float,
    accepted: bool,
    outcomes: _Floats,
    sums: _Floats,
    sizes: _Floats,
    centroids: FloatArray,
) -> None:
    """Count an outcome in one cell, the last row of `outcomes` among them where not accepted."""
    contracts.check_cells(unit, outcomes, sums, sizes, centroids)
    contracts.check_cell(cell, accepted, outcomes)
    outcomes[cell] += (1.0, quality, quality * quality)
    if accepted:
        sums[cell] += unit
        sizes[cell] += 1.0
        settle(sums[cell : cell + 1], centroids[cell : cell + 1])


def settle(sums: _Floats, centroids: FloatArray) -> None:
    """Write rows of `sums` at unit length to `centroids`, except where they are zero."""
    contracts.check_settle(sums, centroids)
    norms = np.sqrt(np.square(sums).sum(axis=1))[:, None]
    np.divide(sums, norms, out=centroids, where=norms > 0.0, casting="same_kind")


def store_row(rows: FloatArray, row: int, x: FloatArray) -> None:
    """Copy a vector of shape (dim,) into a row of shape (n, dim)."""
    contracts.check_store_row(rows, row, x)
    rows[row] = x


def follow(
    levels: _Floats,
    overall: _Floats,
    runs: _Floats,
    route: int,
    quality: float,
    weight: float,
    order: int,
    slack: float,
    threshold: float,
    limit: float,
) -> int:
    """Count an outcome in the level of its route, and notice when the route turns.

    Parameters
    ----------
    levels : ndarray of float64, shape (n, 6)
        Per route: prior mean (NaN: the overall one) and how many outcomes it is worth; total and
        count of outcomes; sum and weight of what a model said of some of them, whose mean is
        taken off each, shrunk by 4 more of 0.
    overall : ndarray of float64, shape (3,)
        Total and count of all outcomes, and their squared errors.
    runs : ndarray of float64, shape (n, 8)
        Per route and side (better, worse): cumulative sum of scaled errors, length, sum of errors
        and order of the first outcome of the run.
    route : int
    quality, weight : float
        Mean of `weight` outcomes.
    order : int
        Of the outcome among all.
    slack, threshold, limit : float
        Of the cumulative sums; see :class:`sona.learning.levels.Levels`.

    Returns
    -------
    int
        1 or 2 where the route seems to have turned better or worse, else 0.
    """
    contracts.check_follow(levels, overall, runs, route)
    prior, trust, total, count, said, of = map(float, levels[route])
    prior = prior if prior == prior else float(overall[0] / overall[1])
    taken = quality - said / (of + 4.0)
    error = taken - (total + trust * prior) / (count + trust)
    levels[route, 2:4] += (weight * taken, weight)
    overall += (weight * taken, weight, weight * error * error)
    scaled = error / max(math.sqrt(overall[2] / overall[1]), 0.05)
    turned = 0
    for side, sign in enumerate((1.0, -1.0)):
        run = runs[route, 4 * side : 4 * side + 4]
        sum_ = run[0] + sign * min(max(scaled, -limit), limit) - slack
        if sum_ <= 0.0:
            run[:] = (0.0, 0.0, 0.0, order + 1)
            continue
        run[:3] = (sum_, run[1] + 1.0, run[2] + error)
        if sum_ > threshold and not turned:
            turned = side + 1
    return turned


def same_vector(x: FloatArray, y: FloatArray) -> bool:
    """Whether two vectors are the same, or equal in every component."""
    contracts.check_same_vector(x, y)
    return x is y or bool(np.array_equal(x, y))
