"""The NumPy meaning of what remembered outcomes tell: each other, and of memory and model.

They are columns: `whole` (2, room), the number of the route and the order of arrival, and `real`
(4, room), quality, weight, length and what the model said (NaN where it was not asked yet).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sona._core import contracts
from sona._core.arrays import FloatArray

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]

# Below this a kernel would be a choice of the single nearest row.
_LEAST_SCALE = 1e-4
_TINY = 1e-300


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
    whole, real : ndarray of int64 and float64, shapes (2, room) and (4, room)
        Columns of what is remembered.
    nth : int
    width : float
        Of the kernel, as a share of the distance of the `nth` row.

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
