"""The bank of patterns: clusters of similar requests, and what each route achieved in them.

Between two background cycles an outcome joins its nearest pattern, or founds one while there is
room. :meth:`ReasoningBank.learn` then clusters everything that is remembered afresh, so that
learning twice on the same data gives the same patterns and not twice as many. Outcomes that
memory has let go of stay counted. The bank keeps the pattern of each remembered row, so what is
left of a pattern without its remembered members is what memory has let go of: this *residue*
takes part in every clustering as weighted points.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona import _core, wire
from sona.learning.cells import Cells
from sona.learning.kmeans import SphericalKMeans
from sona.learning.sketch import Sketch
from sona.learning.stored import require_stored, stored
from sona.types import FloatArray, LearnedPattern, RouteStats

__all__ = ["BankChange", "Outcomes", "ReasoningBank"]

# A new request this similar to a pattern is the same request again, not a pattern of its own.
_SAME = 0.98
# Two clusters are one if their centres are closer than this share of what members scatter:
# below it clean clusters come out in pieces, well above it blurred ones all become one.
_MERGE = 0.65
# A pattern keeps its id over a clustering if it moved less than this.
_RECOGNISED = 0.9


class Outcomes(NamedTuple):
    """Remembered outcomes, one row each.

    Attributes
    ----------
    units : ndarray of shape (n, dim), float32
        Unit length or zero.
    routes : list of str or None
    quality : ndarray of shape (n,), float64
    accepted : ndarray of shape (n,), bool
        Whether the row may shape patterns.
    """

    units: FloatArray
    routes: list[str | None]
    quality: NDArray[np.float64]
    accepted: NDArray[np.bool_]


class BankChange(NamedTuple):
    """What a clustering did to the bank: patterns new, merged into others, and gone."""

    created: int = 0
    merged: int = 0
    pruned: int = 0


class ReasoningBank:
    """Patterns and their per-route statistics.

    Parameters
    ----------
    dim : int
        Length of an embedding.
    n_clusters : int
        Most patterns.
    seed : int
        Seed of the clustering.

    Notes
    -----
    Not thread-safe. :meth:`observe` costs one product with the centroids, or none where the
    caller has it already.
    """

    def __init__(self, dim: int, n_clusters: int, seed: int = 0) -> None:
        self.dim = dim
        self.n_clusters = n_clusters
        self.seed = seed
        self.cells = Cells(dim)
        # The pattern of each remembered row, -1 where it came before there was one.
        self._labels: list[int] = []
        self._next_id = 0
        self._ids: list[int] = []
        self._created: list[int] = []
        self._used: list[int] = []
        self._last_used: list[int] = []
        self.selectivity = 1.0
        # What each pattern says of its routes and their mean, from when it was last shown.
        self._told: dict[int, tuple[dict[str, RouteStats], float]] = {}

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def centroids(self) -> FloatArray:
        """Unit centroids, a view of shape (len, dim); valid until the next change."""
        return self.cells.centroids

    @property
    def selectivity(self) -> float:
        """How far routes were chosen for the query, in [0, 1], as the last clustering was told."""
        return self._selectivity

    @selectivity.setter
    def selectivity(self, value: float) -> None:
        self._selectivity = value
        # Where routes were tried blindly, a pattern that says little goes by the route's mean;
        # where they were chosen for the query, a route that was not tried is not expected to work.
        self._prior = (1.0 - value, 0.05 * value, 20.0 * (1.0 - value) + 0.5 * value)

    def observe(
        self,
        unit: FloatArray,
        route: str | None,
        quality: float,
        accepted: bool,
        row: int,
        known: bool = False,
    ) -> None:
        """Count one outcome in.

        Parameters
        ----------
        unit : ndarray of shape (dim,), float32
            Unit length or zero.
        route : str or None
        quality : float
            In [0, 1].
        accepted : bool
            Whether it may found or move a pattern. The outcome is counted either way.
        row : int
            Where it is remembered: the next free row, or one that is given up for it.
        known : bool, default False
            Whether the similarities of :attr:`cells` are those of `unit` already.
        """
        cells, cell = self.cells, -1
        if cells.n:
            if not known:
                _core.similarities_to(cells.centroids, unit, cells.similarities)
            by_route = self._selectivity > 0.5 and route is not None
            room = cells.n < self.n_clusters
            cell = cells.place(unit, route, quality, accepted, _SAME, room, by_route)
        if cell < 0:
            cell = self._count_elsewhere(cell, unit, route, quality, accepted)
        if self._told:
            self._told.pop(cell, None)
        if row == len(self._labels):
            self._labels.append(cell)
        else:
            self._labels[row] = cell

    def values(self, route: str | None) -> FloatArray:
        """Expected quality of a route at every pattern, shape (len,), shrunk."""
        return self.expect(route).copy()

    def expect(self, route: str | None) -> FloatArray:
        """Return :meth:`values` in a place that is used again by the next call."""
        return self.cells.expect(route, *self._prior)

    def absorb(self, summary: Sketch, threshold: float) -> None:
        """Count in what many outcomes amount to; those of quality `threshold` shape patterns."""
        self._told.clear()
        centres = summary.centres() * summary.lengths[:, None].astype(np.float32)
        for number, route, quality, count in summary.outcomes():
            accepted = quality >= threshold
            total = centres[number] * np.float32(count)
            cell, similarity = -1, -1.0
            if len(self):
                similarities = self.centroids @ _core.unit_rows(total)
                cell = int(similarities.argmax())
                similarity = float(similarities[cell])
            if accepted and similarity < _SAME and len(self) < self.n_clusters:
                cell = self._found()
            self.cells.add(cell, route, quality, count, total if accepted else None)

    def learn(self, outcomes: Outcomes, rows: NDArray[np.int64], selectivity: float) -> BankChange:
        """Cluster everything remembered, and the residue, afresh.

        Parameters
        ----------
        outcomes : Outcomes
            All that is remembered.
        rows : ndarray of shape (n,), int64
            Where each of them is remembered, as :meth:`observe` was told.
        selectivity : float
            In [0, 1]: how far routes were chosen for the query. Above one half, requests that
            went to different routes are kept in different patterns.

        Notes
        -----
        Costs one k-means over the accepted rows.
        """
        self.selectivity = selectivity
        self._told.clear()
        before, centroids = self.cells, self.cells.centroids.copy()
        residue = self._residue(outcomes, rows)
        old = residue.sizes > 0.0
        shaping, failures = np.flatnonzero(outcomes.accepted), np.flatnonzero(~outcomes.accepted)
        points = np.concatenate([outcomes.units[shaping], residue.sums[old].astype(np.float32)])
        weights = np.concatenate([np.ones(len(shaping)), residue.sizes[old]])
        leading = [route for route, held in zip(residue.leading_routes(), old, strict=True) if held]
        routes = [outcomes.routes[i] for i in shaping] + leading
        found = self._cluster(points, weights, routes, selectivity > 0.5)
        cells = Cells(self.dim)
        for _ in range(int(found.max(initial=-1)) + 1):
            cells.found()
        labels = np.empty(len(outcomes.units), np.int64)
        labels[shaping] = found[: len(shaping)]
        cells.join_many(labels[shaping], outcomes.units[shaping])
        # Cells of which only failures are left go where they were.
        heirs = cells.nearest_many(centroids)
        heirs[old] = found[len(shaping) :]
        cells.take(residue, heirs)
        labels[failures] = cells.nearest_many(outcomes.units[failures])
        cells.count_many(labels, outcomes)
        cells.take_unplaced(residue)
        voices = np.bincount(found[_different(points, len(shaping))], minlength=len(cells))
        final = cells.merge(_MERGE, voices.astype(np.float64), by_route=selectivity > 0.5)
        placed = labels >= 0
        labels[placed] = final[labels[placed]]
        held = np.empty(len(labels), np.int64)
        held[rows] = labels
        self.cells, self._labels = cells, held.tolist()
        kept = self._recognise(centroids)
        merged = len(final) - len(cells)
        return BankChange(len(cells) - kept, merged, len(before) - kept)

    def search(self, query: FloatArray, k: int, *, note: bool = True) -> list[LearnedPattern]:
        """Return the `k` patterns nearest to a unit query, best first; `note` counts the use."""
        count = min(k, len(self))
        if not count:
            return []
        now = int(time.time())
        found = []
        cells, similarities = self.cells.nearest(query, count)
        for cell, similarity in zip(cells.tolist(), similarities.tolist(), strict=True):
            if note:
                self._used[cell] += 1
                self._last_used[cell] = now
            found.append(self._pattern(cell, similarity))
        return found

    def ids_of(self, units: FloatArray) -> NDArray[np.int64]:
        """Return the id of the pattern nearest to each row; -1 while there is none."""
        nearest = self.cells.nearest_many(units)
        return np.array(self._ids, np.int64)[nearest] if len(self) else nearest

    def patterns(self) -> list[LearnedPattern]:
        """Return all patterns, in order of id."""
        cells = sorted(range(len(self)), key=lambda cell: self._ids[cell])
        return [self._pattern(cell, None) for cell in cells]

    def handed_on(self, k: int | None, only: Collection[int] | None = None) -> ReasoningBank:
        """Return a bank with the `k` largest patterns, which its next owner remembers no row of.

        `only` names the ids that may be among them.
        """
        largest = np.argsort(-self.cells.sizes, kind="stable")
        if only is not None:
            largest = largest[[self._ids[cell] in only for cell in largest.tolist()]]
        largest = largest[: len(self) if k is None else k]
        cells = self.cells.pick(np.sort(largest))
        bank = ReasoningBank(self.dim, self.n_clusters, self.seed)
        bank.cells = cells
        bank.selectivity = self._selectivity
        now = int(time.time())
        for number in range(len(cells)):
            bank._name(number, now)
        return bank

    def route_stats(self) -> dict[str, RouteStats]:
        """Return the outcomes of each route over all patterns."""
        return {
            route: _route_stats(*entry)
            for route, *entry in self.cells.route_totals()
            if route is not None
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return numbers, for saving."""
        ledger = np.array([self._ids, self._created, self._used, self._last_used], np.int64)
        return {
            **{f"live.{name}": array for name, array in self.cells.arrays().items()},
            "labels": np.array(self._labels, np.int64),
            "ledger": ledger.reshape(4, len(self)),
            "next_id": np.array([self._next_id]),
            "selectivity": np.array([self._selectivity]),
        }

    def facts(self) -> dict[str, Any]:
        """Return names of routes, in the order of the tables, for saving."""
        return {"live": self.cells.routes}

    def restore(
        self, arrays: dict[str, NDArray[Any]], facts: dict[str, Any], remembered: Outcomes
    ) -> None:
        """Become what :meth:`arrays` and :meth:`facts` described.

        Raises
        ------
        FormatError
            If they contradict each other, do not count what is `remembered`, or could not have
            been saved.
        """
        self._told.clear()
        self.cells = Cells.of(self.dim, wire.under(arrays, "live."), facts["live"])
        n, rows = len(self), len(remembered.units)
        self._labels = stored(arrays, "labels", np.int64, (rows,), -1, n - 1).tolist()
        ledger = stored(arrays, "ledger", np.int64, (4, n), 0).tolist()
        self._ids, self._created, self._used, self._last_used = ledger
        self._next_id = int(stored(arrays, "next_id", np.int64, (1,), 0)[0])
        require_stored(len({*self._ids, self._next_id}) == n + 1, "two patterns of one id")
        require_stored(self._next_id > max(self._ids, default=-1), "an id that comes again")
        # A bank that starts with more patterns than its own limit keeps room for them.
        self.n_clusters = max(self.n_clusters, n)
        self.selectivity = float(stored(arrays, "selectivity", np.float64, (1,), 0.0, 1.0)[0])
        residue = self._residue(remembered, np.arange(rows))
        require_stored(residue.is_whole(), "outcomes that no pattern counts")

    def _count_elsewhere(
        self, why: int, unit: FloatArray, route: str | None, quality: float, accepted: bool
    ) -> int:
        """Count an outcome that no cell takes: -1 for want of cells, -2 of one of its route's."""
        if why == -2:
            cell = self._make_room()
        elif accepted:
            cell = self._found()
        else:
            cell = -1
        self.cells.count(cell, unit, route, quality, accepted)
        return cell

    def _make_room(self) -> int:
        """Found a pattern in a full bank: the first success of a route deserves one.

        Two that are nearly one make room; the nearest has to do where there are none.
        """
        pair = self.cells.closest_pair(by_route=True)
        if pair is None:
            return int(self.cells.similarities.argmax())
        target = np.arange(len(self))
        target[pair[1]] = pair[0]
        moved = self.cells.collapse(target).tolist()
        self._told.clear()
        self._labels = [moved[label] if label >= 0 else label for label in self._labels]
        for ledger in (self._ids, self._created, self._used, self._last_used):
            del ledger[pair[1]]
        return self._found()

    def _residue(self, outcomes: Outcomes, rows: NDArray[np.int64]) -> Cells:
        """What memory has let go of, by pattern: everything less what is remembered."""
        cells = self.cells.pick(np.arange(len(self)))
        cells.take_unplaced(self.cells)
        labels = np.array(self._labels, np.int64)[rows]
        if len(cells):  # what came before the first pattern was counted in it
            np.maximum(labels, 0, out=labels)
        cells.take_out(labels, outcomes)
        return cells

    def _found(self) -> int:
        self._name(self._next_id, int(time.time()))
        return self.cells.found()

    def _name(self, number: int, created: int, used: int = 0, last_used: int = 0) -> None:
        self._ids.append(number)
        self._created.append(created)
        self._used.append(used)
        self._last_used.append(last_used or created)
        self._next_id = max(self._next_id, number + 1)

    def _cluster(
        self,
        points: FloatArray,
        weights: NDArray[np.float64],
        routes: list[str | None],
        by_route: bool,
    ) -> NDArray[np.int64]:
        groups: dict[str | None, list[int]] = {}
        for row, route in enumerate(routes):
            groups.setdefault(route if by_route else None, []).append(row)
        if len(groups) > self.n_clusters:
            groups = {None: list(range(len(points)))}
        labels = np.empty(len(points), np.int64)
        spare = self.n_clusters - len(groups)
        start = 0
        for rows in groups.values():
            share = 1 + int(spare * len(rows) / len(points))
            km = SphericalKMeans(share, seed=self.seed, max_iter=25)
            km.fit(points[rows], weights[rows])
            labels[rows] = start + km.labels_
            start += len(km.centroids_)
        return labels

    def _recognise(self, centroids: FloatArray) -> int:
        """Let new cells keep the ids of the old patterns they continue; returns how many do."""
        old = list(zip(self._ids, self._created, self._used, self._last_used, strict=True))
        self._ids, self._created, self._used, self._last_used = [], [], [], []
        heirs: dict[int, int] = {}
        if len(centroids) and len(self):
            similarities = self.centroids @ centroids.T
            for flat in np.argsort(-similarities, axis=None, kind="stable").tolist():
                new, known = divmod(flat, len(centroids))
                if similarities[new, known] < _RECOGNISED:
                    break
                if new not in heirs and known not in heirs.values():
                    heirs[new] = known
        now = int(time.time())
        for cell in range(len(self)):
            if cell in heirs:
                self._name(*old[heirs[cell]])
            else:
                self._name(self._next_id, now)
        return len(heirs)

    def _pattern(self, cell: int, similarity: float | None) -> LearnedPattern:
        stats, mean = self._told.get(cell) or self._tell(cell)
        size = int(self.cells.sizes[cell])
        return LearnedPattern(
            self._ids[cell],
            self.cells.centroids[cell].copy(),
            size,
            float(size),
            mean,
            dict(stats),
            self._created[cell],
            self._last_used[cell],
            self._used[cell],
            similarity,
        )

    def _tell(self, cell: int) -> tuple[dict[str, RouteStats], float]:
        """Work out what a pattern says of its routes, and their mean quality."""
        stats: dict[str, RouteStats] = {}
        count = total = 0.0
        for route, n, s, squares in self.cells.outcomes(cell):
            count, total = count + n, total + s
            if route is not None:
                stats[route] = _route_stats(n, s, squares)
        told = self._told[cell] = stats, total / count if count else 0.0
        return told


def _different(points: FloatArray, rows: int) -> NDArray[np.int64]:
    """Return one of each set of equal rows, and all points after the first `rows`."""
    whole = np.ascontiguousarray(points[:rows]).view(f"V{points.shape[1] * points.itemsize}")
    first = np.unique(whole.ravel(), return_index=True)[1] if rows else np.empty(0, np.int64)
    return np.concatenate([first, np.arange(rows, len(points))])


def _route_stats(count: float, total: float, squares: float) -> RouteStats:
    mean = total / count
    variance = squares / count - mean * mean
    return RouteStats(count, mean, variance if variance > 0.0 else 0.0)
