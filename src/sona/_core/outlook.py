"""The NumPy meaning of what a query may expect of each route.

A fitted model says what a route is worth in general; the outcomes remembered near the query
correct it. Both are checked once, when they are put together: a decision is one call.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sona._core import contracts
from sona._core.arrays import FloatArray
from sona._core.codes import RowCodes
from sona._core.expectation import neighbour_weights
from sona._core.search import top_k

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]

# Outcomes of a route scatter by this much at least.
_LEAST_SCATTER = 0.05
_TINY = 1e-300
_NOTHING = np.empty(0)


class CellModel:
    """What an outcome model expects of each route, by the cells that a query falls in.

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
    codes : RowCodes, optional
        Of the centroids, none of which is longer than 1: rules most of them out, with the same
        answer.

    Raises
    ------
    ShapeError, DTypeError, RangeError

    Notes
    -----
    The arrays are kept, not copied.
    """

    def __init__(
        self,
        rows: FloatArray,
        starts: _Ints,
        table: FloatArray,
        variance: FloatArray,
        level: _Floats,
        doubted: int,
        codes: RowCodes | None = None,
    ) -> None:
        contracts.check_model(rows, starts, table, variance, level, doubted, codes)
        self._rows, self._table, self._variance = rows, table, variance
        self._level, self._doubted = level, doubted
        ends = [*starts[1:].tolist(), len(table)]
        self._spans = list(zip(starts.tolist(), ends, strict=True))

    def means(self, x: FloatArray) -> tuple[_Floats, _Floats]:
        """Return what is expected of each route for a query, and its variance.

        Parameters
        ----------
        x : ndarray of float32, shape (dim,)
            At most of length 1 where there are codes.

        Returns
        -------
        mean, variance : ndarray of float64, shape (n_routes,)

        Notes
        -----
        Costs one product with all rows: 20 microseconds at 565 x 384, where the rows are in the
        cache; with codes a third of them is read.
        """
        contracts.check_query(x, self._rows.shape[1])
        products = self._rows @ x
        cells = [start + int(products[start:end].argmax()) for start, end in self._spans]
        linear = products[len(self._table) :]
        mean = self._level + linear + self._table[cells].sum(axis=0)
        return mean, self._variance[cells[: self._doubted]].mean(axis=0, dtype=np.float64)


class Outlook:
    """What queries may expect of each route, as long as nothing new is learned.

    The model is corrected by how wrong it was near the query, and weighed against what goes only
    by what was tried there.

    Parameters
    ----------
    model : CellModel or None
        Knows the first routes.
    rows : ndarray of float32, shape (room, dim)
        The queries that are remembered.
    codes : RowCodes
        Of them.
    n : int
        How many there are: the first of the rows and of each column.
    whole, real : ndarray of int64 and float64, shapes (2, room) and (4, room)
        Columns of what is remembered: the number of the route and the order of arrival; quality,
        weight, length and what the model said (NaN where it was not asked yet).
    levels : ndarray of float64, shape (n_routes, 6)
        Per route, as in :func:`follow`.
    overall : ndarray of float64, shape (3,)
        Likewise.
    learned : int
        Rows of this order on are unknown to the model and weigh `fresh` more, wherever they are.
    neighbours : int
        Remembered rows that are looked at, at least 1.
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

    Raises
    ------
    ShapeError, DTypeError, RangeError

    Notes
    -----
    The arrays are kept, not copied: what is written to them counts at once.
    """

    def __init__(
        self,
        model: CellModel | None,
        rows: FloatArray,
        codes: RowCodes,
        n: int,
        whole: _Ints,
        real: _Floats,
        levels: _Floats,
        overall: _Floats,
        learned: int,
        neighbours: int,
        width: float,
        nth: int,
        fresh: float,
        residual_prior: float,
        trust: float,
        low: float,
        memory_prior: float,
        edge: float,
    ) -> None:
        known = None if model is None else (model._rows.shape[1], len(model._level))
        contracts.check_outlook(
            known, rows, codes, n, whole, real, levels, overall, neighbours, nth
        )
        self._model, self._rows, self._n = model, rows, n
        self._whole, self._real, self._levels, self._overall = whole, real, levels, overall
        self._learned, self._neighbours, self._width, self._nth = learned, neighbours, width, nth
        self._fresh, self._residual_prior = fresh, residual_prior
        self._trust, self._low, self._memory_prior = trust, low, memory_prior
        self._edge = edge

    def expect(
        self, x: FloatArray, ask: Callable[[_Ints], object]
    ) -> tuple[list[float], list[float]] | None:
        """Return expected quality and its standard deviation of each route for a query.

        Parameters
        ----------
        x : ndarray of float32, shape (dim,)
            At most of length 1.
        ask : callable
            Given the numbers of the rows nearest to the query where the model was not asked
            about some of them; notes what it says of these.

        Returns
        -------
        (expected, deviation) or None
            A number per route each; None where the model has nothing to say even then.

        Raises
        ------
        ShapeError, DTypeError
        RangeError
            A row is of a route outside the levels.
        """
        contracts.check_query(x, self._rows.shape[1])
        rows, similarities = np.empty(0, np.int64), np.empty(0, np.float32)
        if self._n:
            rows, similarities = top_k(self._rows, self._n, x, min(self._neighbours, self._n))
        mean = doubt = level = _NOTHING
        if self._model is not None:
            (mean, doubt), level = self._model.means(x), self._model._level
        contracts.check_routes(self._whole[0, rows], len(self._levels))
        if np.isnan(self._real[3, rows]).any():
            ask(rows)
            if np.isnan(self._real[3, rows]).any():
                return None
        route, order = self._whole[:, rows]
        quality, mass, _, fitted = self._real[:, rows]
        n, m = len(self._levels), len(mean)
        prior, worth, total, count = self._levels[:, :4].T
        overall = self._overall
        known = np.isfinite(prior)
        now = (total + worth * np.where(known, prior, overall[0] / overall[1])) / (count + worth)
        expected = now.copy()
        expected[:m] += mean - level
        scatter = max(float(np.sqrt(overall[2] / overall[1])), _LEAST_SCATTER)
        # The variance of a level that came with the model is part of the model's own.
        variance = scatter**2 / np.where(known, np.inf, count + 1.0)
        variance[:m] += doubt
        if len(rows):
            trust = self._trust
            voice = mass * neighbour_weights(similarities, self._nth, self._width)
            weight = voice + np.where(order >= self._learned, self._fresh * mass, 0.0)
            support = np.bincount(route, weight, n) + self._residual_prior
            expected += np.bincount(route, weight * (quality - fitted - now[route]), n) / support
            variance *= self._residual_prior / support
            heard = np.bincount(route, voice, n)
            total = np.bincount(route, voice * np.clip(quality, 0.0, 1.0), n)
            local = (total + self._memory_prior * self._low) / (heard + self._memory_prior)
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
        return _inside(expected, self._edge).tolist(), np.sqrt(variance).tolist()


def _inside(expected: _Floats, edge: float) -> _Floats:
    """Bend what a linear model says into (0, 1), keeping the order: clipping would make ties."""
    low = edge * np.exp(np.minimum(expected / edge - 1.0, 0.0))
    high = 1.0 - edge * np.exp(np.minimum((1.0 - expected) / edge - 1.0, 0.0))
    return np.where(expected < edge, low, np.where(expected > 1.0 - edge, high, expected))
