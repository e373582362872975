"""Clusters by their sums: centroids, sizes, and a table of outcomes per route.

Everything in a cell is a sum, so cells merge by adding and nothing is counted twice or lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sona import _core
from sona.checks import check_text
from sona.learning.cone import LEAST_SPREAD, spread_of
from sona.learning.stored import require_stored, stored
from sona.types import FloatArray

if TYPE_CHECKING:
    from sona.learning.reasoning_bank import Outcomes

__all__ = ["Cells"]

_Floats = NDArray[np.float64]
# Members of all cells together that vouch for the scatter of each.
_HELP = 4.0
# What counts that were merged and taken apart again may be off by.
_ROUNDING = 1e-3
# Row of outcomes that came before there was a cell to count them in.
_UNPLACED = -1
# From so many cells on, a search reads their 8-bit codes first.
_CODED = 512


class Cells:
    """A growing set of cells.

    Parameters
    ----------
    dim : int

    Attributes
    ----------
    sums : ndarray of shape (len, dim), float64
        Sum of the unit vectors that joined each cell.
    sizes : ndarray of shape (len,), float64
        How many did.
    centroids : ndarray of shape (len, dim), float32
        Sums at unit length; zero where only zero vectors joined.
    n : int
        Their number.
    similarities : ndarray of shape (n,), float32
        Room for the similarities of a query to all of them.
    routes : list of str or None
        Routes that the tables know, None among them for requests without one.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.routes: list[str | None] = []
        self._number: dict[str | None, int] = {}
        self.n = 0
        self._sums = np.zeros((8, dim))
        self._sizes = np.zeros(8)
        self._centroids = _core.aligned_zeros((8, dim))
        # (route, cell, count | total | squares); the last cell holds what is unplaced.
        self._outcomes = np.zeros((4, 9, 3))
        # Codes of the centroids, made by the first search that wants them, and the cells whose
        # centroid has changed since.
        self._codes: _core.RowCodes | None = None
        self._moved: set[int] = set()
        self._spread: float | None = None
        self._view()

    def __len__(self) -> int:
        return self.n

    @property
    def sums(self) -> _Floats:
        return self._sums[: self.n]

    @property
    def sizes(self) -> _Floats:
        return self._sizes[: self.n]

    @property
    def spread(self) -> float:
        """Of the centroids, as of when cells last came or went, or were clustered.

        See :mod:`sona.learning.cone`.
        """
        if self._spread is None:
            self._spread = spread_of(self.centroids)
        return self._spread

    def found(self) -> int:
        """Add an empty cell and return its number; the first takes what was unplaced."""
        if self.n == len(self._sizes):
            self._grow()
        self.n += 1
        if self.n == 1:
            self._outcomes[:, 0] = self._outcomes[:, _UNPLACED]
            self._outcomes[:, _UNPLACED] = 0.0
        self._move(self.n - 1)
        self._view()
        return self.n - 1

    def nearest_many(self, units: FloatArray) -> NDArray[np.int64]:
        """Return the nearest cell of each row."""
        if not self.n:
            return np.full(len(units), _UNPLACED)
        nearest: NDArray[np.int64] = (units @ self.centroids.T).argmax(axis=1)
        return nearest

    def nearest(self, query: FloatArray, k: int) -> tuple[NDArray[np.int64], FloatArray]:
        """Return the `k` cells nearest to a unit query and their similarities, best first."""
        return _core.top_k(self._centroids, self.n, query, k, codes=self._coded())

    def add(
        self,
        cell: int,
        route: str | None,
        quality: float,
        times: float,
        total: FloatArray | None,
    ) -> None:
        """Count outcomes of one mean in a cell, which the sum of their vectors moves if given."""
        table = self._own_table(route)
        table[cell] += times * np.array([1.0, quality, quality * quality])
        if total is not None:
            self._sums[cell] += total
            self._sizes[cell] += times
            one = slice(cell, cell + 1)
            _core.settle(self._sums[one], self._centroids[one])
            self._move(cell)

    def join_many(self, labels: NDArray[np.int64], units: FloatArray) -> None:
        """Let rows move the cells of their labels."""
        np.add.at(self._sums, labels, units)
        self._sizes[: self.n] += np.bincount(labels, minlength=self.n)[: self.n]
        self._settle()

    def place(
        self,
        unit: FloatArray,
        route: str | None,
        quality: float,
        accepted: bool,
        same: float,
        room: bool,
        by_route: bool,
    ) -> int:
        """Count an outcome where :attr:`similarities` say; see :func:`sona._core.place_outcome`."""
        table = self._table_of.get(route)
        if table is None:
            table = self._own_table(route)
        cell = _core.place_outcome(
            self.similarities,
            unit,
            quality,
            accepted,
            table,
            self._sums,
            self._sizes,
            self._centroids,
            same,
            room,
            by_route,
        )
        if self._codes is not None:
            self._move(cell)
        return cell

    def count(
        self, cell: int, unit: FloatArray, route: str | None, quality: float, accepted: bool
    ) -> None:
        """Count an outcome in a cell, which it moves if accepted; -1 while there is none."""
        table = self._own_table(route)
        place = len(self._sizes) if cell == _UNPLACED else cell
        _core.count_outcome(
            place, unit, quality, accepted, table, self._sums, self._sizes, self._centroids
        )
        self._move(cell)

    def count_many(self, labels: NDArray[np.int64], outcomes: Outcomes) -> None:
        """Count outcomes in the cells of their labels."""
        np.add.at(self._outcomes, *self._entries(labels, outcomes))

    def take_out(self, labels: NDArray[np.int64], outcomes: Outcomes) -> None:
        """Take outcomes off the cells of their labels, which they were counted in and moved.

        What is left of a cell without members, or of a route without outcomes, is exactly zero.
        """
        np.subtract.at(self._outcomes, *self._entries(labels, outcomes))
        self._outcomes[self._outcomes[:, :, 0] == 0.0] = 0.0
        members = outcomes.units[outcomes.accepted]
        joined = labels[outcomes.accepted].astype(np.int32)
        _core.accumulate(members, joined, np.full(len(members), -1.0), self._sums, self._sizes)
        self._sums[self._sizes == 0.0] = 0.0
        self._settle()

    def expect(self, route: str | None, blind: float, floor: float, strength: float) -> FloatArray:
        """Expected quality of a route per cell; see :func:`sona._core.expected_values`.

        Its place is used again by the next call.
        """
        table = self._table_of.get(route)
        if table is None:
            table = np.zeros((self.n, 3))
        _core.expected_values(table, self._values, blind, floor, strength)
        return self._values

    def outcomes(self, cell: int) -> list[tuple[str | None, float, float, float]]:
        """Return route, count, total and squares of each route with outcomes in a cell."""
        return self._named(self._outcomes[:, cell])

    def route_totals(self) -> list[tuple[str | None, float, float, float]]:
        """Return the same over all cells and what is unplaced."""
        return self._named(self._outcomes.sum(axis=1))

    def _named(self, sums: _Floats) -> list[tuple[str | None, float, float, float]]:
        return [
            (route, count, total, squares)
            for route, (count, total, squares) in zip(self.routes, sums.tolist(), strict=False)
            if count > 0.0
        ]

    def leading_routes(self) -> list[str | None]:
        """The route with the largest total in each cell."""
        if not self.routes:
            return [None] * self.n
        totals = self._outcomes[: len(self.routes), : self.n, 1]
        return [self.routes[number] for number in totals.argmax(axis=0).tolist()]

    def take(self, other: Cells, labels: NDArray[np.int64]) -> None:
        """Add the cells of `other` to the cells of their labels."""
        np.add.at(self._sums, labels, other.sums)
        np.add.at(self._sizes, labels, other.sizes)
        for number, route in enumerate(other.routes):
            row = self._row(route)
            np.add.at(self._outcomes[row], labels, other._outcomes[number, : other.n])
        self._settle()

    def take_unplaced(self, other: Cells) -> None:
        """Take over what `other` could not place."""
        cell = _UNPLACED if not self.n else int(self._sizes[: self.n].argmax())
        for number, route in enumerate(other.routes):
            row = self._row(route)
            self._outcomes[row, cell] += other._outcomes[number, _UNPLACED]

    def merge(self, threshold: float, voices: _Floats, *, by_route: bool) -> NDArray[np.int64]:
        """Merge cells that are closer to each other than their members are to them.

        A pair is one if 1 - cos between its centroids is below `threshold` times the mean
        1 - cos of its members, the closest first; cells with different leading routes stay
        apart where `by_route` says so. `voices` counts the different vectors in each cell: what
        was said twice is no better founded. Returns the new number of each cell.
        """
        labels = np.arange(self.n)
        while self.n > 1:
            within = self._within(voices)
            # Centroids of few members lie apart by chance alone.
            rare = 1.0 / np.maximum(voices, 1.0)
            chance = within * (rare[:, None] + rare[None, :])
            excess = self._apart(by_route) - chance - threshold * within - 1e-6
            # All pairs that are each other's closest go together: few passes, whatever the size.
            partner = excess.argmin(axis=1)
            rows = np.arange(self.n)
            mutual = (partner[partner] == rows) & (rows < partner) & (excess[rows, partner] < 0.0)
            if not mutual.any():
                break
            target = rows.copy()
            target[partner[mutual]] = rows[mutual]
            moved = self.collapse(target)
            voices = np.bincount(moved, voices).astype(np.float64)
            labels = moved[labels]
        return labels

    def closest_pair(self, *, by_route: bool) -> tuple[int, int] | None:
        """Return the two closest cells, lower number first, or None if none may be one."""
        if self.n < 2:
            return None
        apart = self._apart(by_route)
        a, b = divmod(int(apart.argmin()), self.n)
        return (min(a, b), max(a, b)) if np.isfinite(apart[a, b]) else None

    def pick(self, cells: NDArray[np.int64]) -> Cells:
        """Return a copy of some cells."""
        picked = Cells(self.dim)
        for _ in cells:
            picked.found()
        picked.sums[:] = self.sums[cells]
        picked.sizes[:] = self.sizes[cells]
        for number, route in enumerate(self.routes):
            row = picked._row(route)
            picked._outcomes[row, : len(cells)] = self._outcomes[number, cells]
        picked._settle()
        return picked

    def collapse(self, target: NDArray[np.int64]) -> NDArray[np.int64]:
        """Merge every cell into its target; returns the new number of each cell."""
        kept, labels = np.unique(target, return_inverse=True)
        merged = Cells(self.dim)
        for _ in kept:
            merged.found()
        merged.take(self, labels)
        merged.take_unplaced(self)
        self.__dict__.update(merged.__dict__)
        return labels.astype(np.int64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the numbers, for saving; :attr:`routes` is the rest."""
        known = self._outcomes[: len(self.routes)]
        return {
            "sums": self.sums.copy(),
            "sizes": self.sizes.copy(),
            "spread": np.array([self.spread]),
            "outcomes": known[:, : self.n].copy(),
            "unplaced": known[:, _UNPLACED].copy(),
        }

    @classmethod
    def of(cls, dim: int, arrays: dict[str, NDArray[Any]], routes: list[str | None]) -> Cells:
        """Make cells from what :meth:`arrays` returned and their routes.

        Raises
        ------
        FormatError
            If they contradict each other or could not have been saved.
        """
        cells = cls(dim)
        sizes = stored(arrays, "sizes", np.float64, (None,), -_ROUNDING)
        n, known = len(sizes), len(routes)
        sums = stored(arrays, "sums", np.float64, (n, dim))
        outcomes = stored(arrays, "outcomes", np.float64, (known, n, 3), -_ROUNDING)
        unplaced = stored(arrays, "unplaced", np.float64, (known, 3), -_ROUNDING)
        require_stored(len(set(routes)) == known, f"a route twice: {routes}")
        for _ in sizes:
            cells.found()
        cells.sums[:] = sums
        cells.sizes[:] = sizes
        for number, route in enumerate(routes):
            row = cells._row(route if route is None else check_text("routes", route))
            cells._outcomes[row, :n] = outcomes[number]
            cells._outcomes[row, _UNPLACED] = unplaced[number]
        require_stored(cells.is_whole(), "outcomes whose qualities are outside [0, 1]")
        cells._settle()
        cells._spread = float(stored(arrays, "spread", np.float64, (1,), LEAST_SPREAD, 2.001)[0])
        return cells

    def is_whole(self) -> bool:
        """Whether nothing was taken out that had not been counted in, up to rounding."""
        count, total, squares = np.moveaxis(self._outcomes, -1, 0)
        never = (-self.sizes, -squares, squares - total, total - count)
        return all(excess.max(initial=0.0) <= _ROUNDING for excess in never)

    def _within(self, voices: _Floats) -> _Floats:
        """Mean 1 - cos of a cell's members to where its centre is, the larger of each pair.

        A centroid is closer to its members than the centre that they scatter around; a cell of
        few says little about its scatter and is helped out by all the others.
        """
        lengths = np.sqrt(np.square(self.sums).sum(axis=1))
        excess = voices * (1.0 - lengths / np.maximum(self.sizes, 1e-12))
        pooled = excess.sum() / max(voices.sum() - self.n, 1.0)
        spread = (excess + _HELP * pooled) / np.maximum(voices - 1.0 + _HELP, 1e-12)
        within: _Floats = np.maximum(spread[:, None], spread[None, :])
        return within

    def _apart(self, by_route: bool) -> _Floats:
        """1 - cos of each pair; infinite where a pair may not be one."""
        wide = self.centroids.astype(np.float64)
        apart: _Floats = 1.0 - wide @ wide.T
        if by_route:
            leading = np.array([str(route) for route in self.leading_routes()])
            apart[leading[:, None] != leading[None, :]] = np.inf
        np.fill_diagonal(apart, np.inf)
        return apart

    def _coded(self) -> _core.RowCodes | None:
        """The codes of all centroids as they are now; None where cells are few."""
        if self.n < _CODED:
            return None
        if self._codes is None:
            self._codes = _core.RowCodes(len(self._sizes), self.dim)
            _core.encode_rows(self.centroids, self._codes, 0)
        else:
            for cell in self._moved:
                _core.encode_rows(self._centroids[cell : cell + 1], self._codes, cell)
        self._moved.clear()
        return self._codes

    def _move(self, cell: int) -> None:
        if self._codes is not None and cell >= 0:
            self._moved.add(cell)

    def _own_table(self, route: str | None) -> _Floats:
        self._row(route)
        return self._table_of[route]

    def _entries(
        self, labels: NDArray[np.int64], outcomes: Outcomes
    ) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], _Floats]:
        """Where outcomes are counted in the tables, and what is added there."""
        route = np.array([self._row(route) for route in outcomes.routes], np.int64)
        quality = outcomes.quality
        return (route, labels), np.stack([np.ones(len(quality)), quality, quality**2], axis=1)

    def _row(self, route: str | None) -> int:
        number = self._number.get(route)
        if number is None:
            number = self._number[route] = len(self.routes)
            self.routes.append(route)
            if number == len(self._outcomes):
                self._outcomes = np.concatenate([self._outcomes, np.zeros_like(self._outcomes)])
            self._view_tables()
        return number

    def _grow(self) -> None:
        room = 2 * len(self._sizes)
        for name, grown in (
            ("_sums", np.zeros((room, self.dim))),
            ("_sizes", np.zeros(room)),
            ("_centroids", _core.aligned_zeros((room, self.dim))),
        ):
            grown[: self.n] = getattr(self, name)
            setattr(self, name, grown)
        outcomes = np.zeros((len(self._outcomes), room + 1, 3))
        outcomes[:, : self.n] = self._outcomes[:, : self.n]
        outcomes[:, _UNPLACED] = self._outcomes[:, _UNPLACED]
        self._outcomes = outcomes
        self._codes = None
        self._view()

    def _view(self) -> None:
        """Make the views that every outcome needs once, and not once per outcome."""
        self.centroids: FloatArray = self._centroids[: self.n]
        self._view_tables()
        self._spread = None
        self._values: FloatArray = np.empty(self.n, np.float32)
        self.similarities: FloatArray = np.empty(self.n, np.float32)

    def _view_tables(self) -> None:
        self._table_of: dict[str | None, _Floats] = {
            route: self._outcomes[number] for route, number in self._number.items()
        }

    def _settle(self) -> None:
        _core.settle(self.sums, self.centroids)
        self._codes = self._spread = None
