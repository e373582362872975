"""The NumPy meaning of what a query may expect of each route.

A fitted model says what a route is worth in general; the outcomes remembered near the query
correct it. Remembered outcomes are columns: `whole` (2, room), the number of the route and the
order of arrival, and `real` (4, room), quality, weight, length and what the model said (NaN where
it was not asked yet).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sona._core import contracts
from sona._core.arrays import FloatArray
from sona._core.codes import RowCodes

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]

# Below this a kernel would be a choice of the single nearest row.
_LEAST_SCALE = 1e-4
# Outcomes of a route scatter by this much at least.
_LEAST_SCATTER = 0.05
_TINY = 1e-300


def model_means(
    rows: FloatArray,
    starts: _Ints,
    table: FloatArray,
    variance: FloatArray,
    level: _Floats,
    doubted: int,
    x: FloatArray,
    codes: RowCodes | None = None,
) -> tuple[_Floats, _Floats]:
    """Return what an outcome model expects of each route for a query, and its variance.

    Parameters
    ----------
    rows : ndarray of float32, shape (n_cells + n_routes, dim)
        Centroids of all clusterings, then what is linear in the query for each route.
    starts : ndarray of int64, shape (n_views,)
        First cell of each clustering, ascending from 0; none is empty.
    table : ndarray of float32, shape (n_cells, n_routes)
        What a query in the cell adds.
    variance : ndarray of float32, shape (m, n_routes)
        Of the cells of the first `doubted` clusterings, whose mean is the result's.
    level : ndarray of float64, shape (n_routes,)
    doubted : int
        At least 1.
    x : ndarray of float32, shape (dim,)
        At most of length 1 where there are `codes`.
    codes : RowCodes, optional
        Of the centroids, none of which is longer than 1: rules most of them out, with the same
        answer.

    Returns
    -------
    mean, variance : ndarray of float64, shape (n_routes,)

    Notes
    -----
    Costs one product with all rows: 20 microseconds at 565 x 384, where the rows are in the
    cache; with codes a third of them is read.
    """
    contracts.check_model(rows, starts, table, variance, level, doubted, x, codes)
    n_cells = len(table)
    products = rows @ x
    ends = [*starts[1:].tolist(), n_cells]
    cells = [
        start + int(products[start:end].argmax())
        for start, end in zip(starts.tolist(), ends, strict=True)
    ]
    mean = level + products[n_cells:] + table[cells].sum(axis=0)
    return mean, variance[cells[:doubted]].mean(axis=0, dtype=np.float64)


def expectations(
    levels: _Floats,
    overall: _Floats,
    mean: _Floats,
    doubt: _Floats,
    level: _Floats,
    rows: _Ints,
    similarities: FloatArray,
    whole: _Ints,
    real: _Floats,
    learned: int,
    width: float,
    nth: int,
    fresh: float,
    residual_prior: float,
    trust: float,
    low: float,
    memory_prior: float,
    edge: float,
) -> tuple[_Floats, _Floats] | None:
    """Return expected quality and its standard deviation of each route for a query.

    The model is corrected by how wrong it was near the query, and weighed against what goes only
    by what was tried there.

    Parameters
    ----------
    levels : ndarray of float64, shape (n, 6)
        Per route, as in :func:`follow`.
    overall : ndarray of float64, shape (3,)
        Likewise.
    mean, doubt, level : ndarray of float64, shape (m,)
        What the model expects of the first m routes, its variance, and the model's own levels.
    rows : ndarray of int64, shape (k,)
        The remembered rows nearest to the query, best first.
    similarities : ndarray of float32, shape (k,)
    whole, real : ndarray of int64 and float64, shapes (2, room) and (4, room)
        Columns of what is remembered.
    learned : int
        Rows of this order on are unknown to the model and weigh `fresh` more, wherever they are.
    width : float
        Of the kernel, as a share of the distance of the `nth` row.
    nth : int
    fresh, residual_prior : float
    trust : float
        Weight in [0, 1] of what goes by the near rows alone.
    low, memory_prior : float
        What a route is worth there that was not tried, and the kernel mass behind it.
    edge : float
        Expectations are bent into (0, 1) from here on.

    Returns
    -------
    (expected, deviation) or None
        Each of shape (n,); None where the model was not asked about one of the rows yet.

    Raises
    ------
    RangeError
        A row is of a route outside the levels.
    """
    contracts.check_expectations(
        levels, overall, mean, doubt, level, rows, similarities, whole, real
    )
    route, order = whole[:, rows]
    quality, mass, _, fitted = real[:, rows]
    if np.isnan(fitted).any():
        return None
    n, m = len(levels), len(mean)
    contracts.check_routes(route, n)
    prior, worth, total, count = levels[:, :4].T
    known = np.isfinite(prior)
    now = (total + worth * np.where(known, prior, overall[0] / overall[1])) / (count + worth)
    expected = now.copy()
    expected[:m] += mean - level
    scatter = max(float(np.sqrt(overall[2] / overall[1])), _LEAST_SCATTER)
    # The variance of a level that came with the model is part of the model's own.
    variance = scatter**2 / np.where(known, np.inf, count + 1.0)
    variance[:m] += doubt
    if len(rows):
        voice = mass * neighbour_weights(similarities, nth, width)
        weight = voice + np.where(order >= learned, fresh * mass, 0.0)
        support = np.bincount(route, weight, n) + residual_prior
        expected += np.bincount(route, weight * (quality - fitted - now[route]), n) / support
        variance *= residual_prior / support
        heard = np.bincount(route, voice, n)
        total = np.bincount(route, voice * np.clip(quality, 0.0, 1.0), n)
        local = (total + memory_prior * low) / (heard + memory_prior)
        squares = np.bincount(route, np.square(voice) / mass, n)
        voices = np.square(heard) / np.maximum(squares, _TINY)
        smooth = (local * voices + 0.5) / (voices + 1.0)
        apart = expected - local
        variance = (
            (1.0 - trust) * variance
            + trust * smooth * (1.0 - smooth) / (voices + 1.0)
            + trust * (1.0 - trust) * np.square(apart)
        )
        expected = expected - trust * apart
    return _inside(expected, edge), np.sqrt(variance)


def precedents(
    rows: _Ints,
    before: _Ints,
    near: _Ints,
    similarities: FloatArray,
    whole: _Ints,
    real: _Floats,
    nth: int,
    width: float,
) -> tuple[_Floats, _Floats]:
    """Return kernel mass and mean quality of what preceded remembered rows: their like, near them.

    Parameters
    ----------
    rows, before : ndarray of int64, shape (m,)
        Remembered rows, and for each the order before which a row precedes it.
    near : ndarray of int64, shape (m, k)
        The rows nearest to each, best first, itself among them.
    similarities : ndarray of float32, shape (m, k)
    whole, real : ndarray
        As for :func:`expectations`.
    nth : int
    width : float
        Of the kernel, likewise.

    Returns
    -------
    mass, mean : ndarray of float64, shape (m,)
    """
    contracts.check_precedents(rows, before, near, similarities, whole, real, nth)
    same = whole[0][near] == whole[0][rows][:, None]
    voices = real[1][near] * neighbour_weights(similarities, nth, width) * same
    voices *= whole[1][near] < before[:, None]
    mass = voices.sum(axis=1)
    return mass, (voices * real[0][near]).sum(axis=1) / np.maximum(mass, _TINY)


def judge(
    rows: _Ints,
    near: _Ints,
    similarities: FloatArray,
    whole: _Ints,
    real: _Floats,
    n: int,
    levels: _Floats,
    overall: _Floats,
    contest: _Floats,
    choice: _Floats,
    nth: int,
    width: float,
    memory_prior: float,
    choice_prior: float,
    fade: float,
    said_fade: float,
) -> None:
    """Let remembered rows judge, one after another, what could be expected of them.

    Parameters
    ----------
    rows : ndarray of int64, shape (m,)
        The model was asked about each.
    near, similarities, whole, real, nth, width
        As for :func:`precedents`.
    n : int
        Rows that are remembered, the first of each column.
    levels, overall : ndarray of float64, shapes (n_routes, 6) and (3,)
        As in :func:`follow`; takes what the model said of the rows, fading by `said_fade`.
    contest : ndarray of float64, shape (3,)
        Squared errors of what memory recalls and of what the model says, and the number of
        rows; all fade.
    choice : ndarray of float64, shape (2,)
        Log-likelihood of the routes by the `nth` nearest other rows, less that by their overall
        shares; and the number of rows. Both fade.
    memory_prior, choice_prior : float
        Kernel mass that a quality of one half is worth, and rows that the shares are.
    fade, said_fade : float
    """
    contracts.check_judge(
        rows, near, similarities, whole, real, n, levels, overall, contest, choice, nth
    )
    contracts.check_judged(rows, whole, real, n, len(levels))
    route, weight = whole[0], real[1]
    totals = np.bincount(route[:n], weight[:n], len(levels))
    mass, mean = precedents(rows, whole[1][rows], near, similarities, whole, real, nth, width)
    recalled = (mass * mean + memory_prior * 0.5) / (mass + memory_prior)
    others = near != rows[:, None]
    others &= others.cumsum(axis=1) <= nth
    votes = np.where(others, weight[near], 0.0)
    agreed = np.where(route[near] == route[rows][:, None], votes, 0.0).sum(axis=1)
    count = others.sum(axis=1)
    agree = count * agreed / np.maximum(votes.sum(axis=1), _TINY)
    for i, row in enumerate(rows.tolist()):
        own, quality, fitted = route[row], real[0, row], real[3, row]
        if len(levels) > 1 and count[i]:
            share = (totals[own] - weight[row] + 1.0) / (totals.sum() - weight[row] + len(levels))
            told = (agree[i] + choice_prior * share) / (count[i] + choice_prior)
            choice[:] = fade * choice + (np.log(told / share), 1.0)
        levels[own, 4:] = said_fade * levels[own, 4:] + (fitted, 1.0)
        prior, worth, total, seen = levels[own, :4].tolist()
        prior = prior if prior == prior else float(overall[0] / overall[1])
        modelled = fitted + (total + worth * prior) / (seen + worth)
        errors = np.square((recalled[i] - quality, modelled - quality))
        contest[:] = fade * contest + (*errors, 1.0)


def neighbour_weights(similarities: FloatArray, nth: int, width: float) -> _Floats:
    """Return the weights of neighbours, which fall with distance relative to that of the nth one.

    Parameters
    ----------
    similarities : ndarray of float32, shape (..., k)
        Best first.
    nth : int
    width : float
        Share of the nth distance at which a weight has fallen to 1/e.

    Returns
    -------
    ndarray of float64, shape (..., k)
    """
    distance = 1.0 - similarities.astype(np.float64)
    scale = width * distance[..., min(nth, distance.shape[-1]) - 1]
    weights: _Floats = np.exp(-distance / np.maximum(scale, _LEAST_SCALE)[..., None])
    return weights


def _inside(expected: _Floats, edge: float) -> _Floats:
    """Bend what a linear model says into (0, 1), keeping the order: clipping would make ties."""
    low = edge * np.exp(np.minimum(expected / edge - 1.0, 0.0))
    high = 1.0 - edge * np.exp(np.minimum((1.0 - expected) / edge - 1.0, 0.0))
    return np.where(expected < edge, low, np.where(expected > 1.0 - edge, high, expected))
