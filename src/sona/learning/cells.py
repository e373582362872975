"""Clusters by their sums: centroids, sizes, and a table of outcomes per route.

Everything in a cell is a sum, so cells merge by adding and nothing is counted twice or lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sona import _core
from sona.types import FloatArray

if TYPE_CHECKING:
    from sona.learning.reasoning_bank import Outcomes

__all__ = ["Cells"]

_Floats = NDArray[np.float64]
# Members of all cells together that vouch for the scatter of each.
_HELP = 4.0
# Row of outcomes that came before there was a cell to count them in.
_UNPLACED = -1


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
    routes : list of str or None
        Routes that the tables know, None among them for requests without one.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.routes: list[str | None] = []
        self._number: dict[str | None, int] = {}
        self._n = 0
        self._sums = np.zeros((8, dim))
        self._sizes = np.zeros(8)
        self._centroids = _core.aligned_zeros((8, dim))
        # (route, cell, count | total | squares); the last cell holds what is unplaced.
        self._outcomes = np.zeros((4, 9, 3))

    def __len__(self) -> int:
        return self._n

    @property
    def sums(self) -> _Floats:
        return self._sums[: self._n]

    @property
    def sizes(self) -> _Floats:
        return self._sizes[: self._n]

    @property
    def centroids(self) -> FloatArray:
        return self._centroids[: self._n]

    def found(self) -> int:
        """Add an empty cell and return its number; the first takes what was unplaced."""
        if self._n == len(self._sizes):
            self._grow()
        self._n += 1
        if self._n == 1:
            self._outcomes[:, 0] = self._outcomes[:, _UNPLACED]
            self._outcomes[:, _UNPLACED] = 0.0
        return self._n - 1

    def nearest(self, unit: FloatArray) -> tuple[int, float]:
        """Return the nearest cell and its similarity; (-1, -1.0) while there is none."""
        if not self._n:
            return _UNPLACED, -1.0
        similarities = self.centroids @ unit
        cell = int(similarities.argmax())
        return cell, float(similarities[cell])

    def nearest_many(self, units: FloatArray) -> NDArray[np.int64]:
        """Return the nearest cell of each row."""
        if not self._n:
            return np.full(len(units), _UNPLACED)
        nearest: NDArray[np.int64] = (units @ self.centroids.T).argmax(axis=1)
        return nearest

    def join(self, cell: int, vector: FloatArray, size: float = 1.0) -> None:
        """Let a vector move a cell, or the sum of `size` vectors."""
        total = self._sums[cell]
        total += vector
        self._sizes[cell] += size
        norm = float(np.sqrt(total @ total))
        if norm > 0.0:
            np.divide(total, norm, out=self._centroids[cell], casting="same_kind")

    def join_many(self, labels: NDArray[np.int64], units: FloatArray) -> None:
        """Let rows move the cells of their labels."""
        np.add.at(self._sums, labels, units)
        self._sizes[: self._n] += np.bincount(labels, minlength=self._n)[: self._n]
        self._settle()

    def count(self, cell: int, route: str | None, quality: float, times: float = 1.0) -> None:
        """Count an outcome in a cell, or for later in cell -1 while there is none."""
        row = self._row(route)  # may make room: not within the subscript
        entry = self._outcomes[row, cell]
        entry[0] += times
        entry[1] += times * quality
        entry[2] += times * quality * quality

    def count_many(
        self, labels: NDArray[np.int64], outcomes: Outcomes, rows: NDArray[np.int64]
    ) -> None:
        """Count some rows of `outcomes` in the cells of their labels."""
        if not len(rows):
            return
        route = np.array([self._row(outcomes.routes[row]) for row in rows])
        quality = outcomes.quality[rows]
        each = np.stack([np.ones(len(rows)), quality, quality * quality], axis=1)
        np.add.at(self._outcomes, (route, labels), each)

    def table(self, route: str | None) -> _Floats:
        """Count, total and sum of squares of a route, per cell: a view of shape (len, 3)."""
        number = self._number.get(route)
        return np.zeros((self._n, 3)) if number is None else self._outcomes[number, : self._n]

    def outcomes(self, cell: int) -> Iterator[tuple[str | None, tuple[float, float, float]]]:
        """Yield route and (count, total, squares) where there are outcomes."""
        for route, entry in zip(self.routes, self._outcomes[:, cell].tolist(), strict=False):
            if entry[0] > 0.0:
                yield route, (entry[0], entry[1], entry[2])

    def route_totals(self) -> Iterator[tuple[str | None, tuple[float, float, float]]]:
        """Yield route and (count, total, squares) over all cells and what is unplaced."""
        for route, entry in zip(self.routes, self._outcomes.sum(axis=1).tolist(), strict=False):
            if entry[0] > 0.0:
                yield route, (entry[0], entry[1], entry[2])

    def leading_routes(self) -> list[str | None]:
        """The route with the largest total in each cell."""
        if not self.routes:
            return [None] * self._n
        totals = self._outcomes[: len(self.routes), : self._n, 1]
        return [self.routes[number] for number in totals.argmax(axis=0).tolist()]

    def take(self, other: Cells, labels: NDArray[np.int64]) -> None:
        """Add the cells of `other` to the cells of their labels."""
        np.add.at(self._sums, labels, other.sums)
        np.add.at(self._sizes, labels, other.sizes)
        for number, route in enumerate(other.routes):
            row = self._row(route)
            np.add.at(self._outcomes[row], labels, other._outcomes[number, : other._n])
        self._settle()

    def take_unplaced(self, other: Cells) -> None:
        """Take over what `other` could not place."""
        cell = _UNPLACED if not self._n else int(self._sizes[: self._n].argmax())
        for number, route in enumerate(other.routes):
            row = self._row(route)
            self._outcomes[row, cell] += other._outcomes[number, _UNPLACED]

    def merge(self, threshold: float, voices: _Floats, *, by_route: bool) -> int:
        """Merge cells that are closer to each other than their members are to them.

        A pair is one if 1 - cos between its centroids is below `threshold` times the mean
        1 - cos of its members, the closest first; cells with different leading routes stay
        apart where `by_route` says so. `voices` counts the different vectors in each cell: what
        was said twice is no better founded. Returns how many cells went.
        """
        before = self._n
        while self._n > 1:
            within = self._within(voices)
            # Centroids of few members lie apart by chance alone.
            rare = 1.0 / np.maximum(voices, 1.0)
            chance = within * (rare[:, None] + rare[None, :])
            excess = self._apart(by_route) - chance - threshold * within - 1e-6
            # All pairs that are each other's closest go together: few passes, whatever the size.
            partner = excess.argmin(axis=1)
            rows = np.arange(self._n)
            mutual = (partner[partner] == rows) & (rows < partner) & (excess[rows, partner] < 0.0)
            if not mutual.any():
                break
            target = rows.copy()
            target[partner[mutual]] = rows[mutual]
            together = np.bincount(target, voices, self._n)
            voices = together[self.collapse(target)].astype(np.float64)
        return before - self._n

    def closest_pair(self, *, by_route: bool) -> tuple[int, int] | None:
        """Return the two closest cells, lower number first, or None if none may be one."""
        if self._n < 2:
            return None
        apart = self._apart(by_route)
        a, b = divmod(int(apart.argmin()), self._n)
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
        """Merge every cell into its target; returns the cells that are left, by old number."""
        kept, labels = np.unique(target, return_inverse=True)
        merged = Cells(self.dim)
        for _ in kept:
            merged.found()
        merged.take(self, labels)
        merged.take_unplaced(self)
        self.__dict__.update(merged.__dict__)
        return kept

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the numbers, for saving; :attr:`routes` is the rest."""
        known = self._outcomes[: len(self.routes)]
        return {
            "sums": self.sums.copy(),
            "sizes": self.sizes.copy(),
            "outcomes": known[:, : self._n].copy(),
            "unplaced": known[:, _UNPLACED].copy(),
        }

    @classmethod
    def of(cls, dim: int, arrays: dict[str, NDArray[Any]], routes: list[str | None]) -> Cells:
        """Make cells from what :meth:`arrays` returned and their routes."""
        cells = cls(dim)
        for _ in arrays["sizes"]:
            cells.found()
        cells.sums[:] = arrays["sums"]
        cells.sizes[:] = arrays["sizes"]
        for number, route in enumerate(routes):
            row = cells._row(route)
            cells._outcomes[row, : cells._n] = arrays["outcomes"][number]
            cells._outcomes[row, _UNPLACED] = arrays["unplaced"][number]
        cells._settle()
        return cells

    def _within(self, voices: _Floats) -> _Floats:
        """Mean 1 - cos of a cell's members to where its centre is, the larger of each pair.

        A centroid is closer to its members than the centre that they scatter around; a cell of
        few says little about its scatter and is helped out by all the others.
        """
        lengths = np.sqrt(np.square(self.sums).sum(axis=1))
        excess = voices * (1.0 - lengths / np.maximum(self.sizes, 1e-12))
        pooled = excess.sum() / max(voices.sum() - self._n, 1.0)
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

    def _row(self, route: str | None) -> int:
        number = self._number.get(route)
        if number is None:
            number = self._number[route] = len(self.routes)
            self.routes.append(route)
            if number == len(self._outcomes):
                self._outcomes = np.concatenate([self._outcomes, np.zeros_like(self._outcomes)])
        return number

    def _grow(self) -> None:
        room = 2 * len(self._sizes)
        for name, grown in (
            ("_sums", np.zeros((room, self.dim))),
            ("_sizes", np.zeros(room)),
            ("_centroids", _core.aligned_zeros((room, self.dim))),
        ):
            grown[: self._n] = getattr(self, name)
            setattr(self, name, grown)
        outcomes = np.zeros((len(self._outcomes), room + 1, 3))
        outcomes[:, : self._n] = self._outcomes[:, : self._n]
        outcomes[:, _UNPLACED] = self._outcomes[:, _UNPLACED]
        self._outcomes = outcomes

    def _settle(self) -> None:
        norms = np.sqrt(np.square(self.sums).sum(axis=1))[:, None]
        np.divide(
            self.sums, norms, out=self._centroids[: self._n], where=norms > 0.0, casting="same_kind"
        )
