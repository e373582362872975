"""The bank of patterns: clusters of similar requests, and what each route achieved in them.

Between two background cycles an outcome joins its nearest pattern, or founds one while there is
room. :meth:`ReasoningBank.learn` then clusters everything that is remembered afresh, so that
learning twice on the same data gives the same patterns and not twice as many. Outcomes that
memory has let go of stay counted: they live on in cells of the *residue*, which take part in
every clustering as weighted points.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona import wire
from sona.learning.cells import Cells
from sona.learning.kmeans import SphericalKMeans
from sona.learning.sketch import Sketch
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
    Not thread-safe. :meth:`observe` costs one product with the centroids.
    """

    def __init__(self, dim: int, n_clusters: int, seed: int = 0) -> None:
        self.dim = dim
        self.n_clusters = n_clusters
        self.seed = seed
        self._live = Cells(dim)
        self._residue = Cells(dim)
        self._next_id = 0
        self._ids: list[int] = []
        self._created: list[int] = []
        self._used: list[int] = []
        self._last_used: list[int] = []
        self._selectivity = 1.0

    def __len__(self) -> int:
        return len(self._live)

    @property
    def centroids(self) -> FloatArray:
        """Unit centroids, a view of shape (len, dim); valid until the next change."""
        return self._live.centroids

    def observe(self, unit: FloatArray, route: str | None, quality: float, accepted: bool) -> None:
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
        """
        cell, similarity = self._live.nearest(unit)
        if accepted and similarity < _SAME:
            if len(self) < self.n_clusters:
                cell = self._found()
            elif self._selectivity > 0.5 and route is not None:
                cell = self._home(unit, route, cell)
        self._live.count(cell, route, quality)
        if accepted:
            self._live.join(cell, unit)

    def retire(self, unit: FloatArray, route: str | None, quality: float, accepted: bool) -> None:
        """Take an outcome over that memory lets go of: from now on it counts in the residue."""
        cell, similarity = self._residue.nearest(unit)
        if accepted and len(self._residue) < self.n_clusters and similarity < _SAME:
            cell = self._residue.found()
        self._residue.count(cell, route, quality)
        if accepted:
            self._residue.join(cell, unit)

    def values(self, route: str | None) -> FloatArray:
        """Expected quality of a route at every pattern, shape (len,), shrunk.

        Where routes were tried blindly, a pattern that says little goes by the route's mean;
        where routes were chosen for the query, a route that was not tried is not expected to work.
        """
        blind = 1.0 - self._selectivity
        table = self._live.table(route)
        count, total = table[:, 0], table[:, 1]
        prior = blind * (total.sum() + 0.5) / (count.sum() + 1.0) + self._selectivity * 0.05
        strength = blind * 20.0 + self._selectivity * 0.5
        return np.asarray((total + strength * prior) / (count + strength), np.float32)

    def absorb(self, summary: Sketch, threshold: float) -> None:
        """Count in what many outcomes amount to; those of quality `threshold` shape patterns."""
        centres = summary.centres() * summary.lengths[:, None].astype(np.float32)
        for number, route, quality, count in summary.outcomes():
            accepted = quality >= threshold
            total = centres[number] * np.float32(count)
            norm = float(np.linalg.norm(total))
            unit = total / np.float32(norm) if norm > 0.0 else total
            # Both at once: no memory of single outcomes will hand them to the residue later.
            for cells, found in ((self._live, self._found), (self._residue, self._residue.found)):
                cell, similarity = cells.nearest(unit)
                if accepted and similarity < _SAME and len(cells) < self.n_clusters:
                    cell = found()
                cells.count(cell, route, quality, count)
                if accepted:
                    cells.join(cell, total, count)

    def learn(self, outcomes: Outcomes, selectivity: float) -> BankChange:
        """Cluster everything remembered, and the residue, afresh.

        Parameters
        ----------
        outcomes : Outcomes
            All that is remembered; what was retired is known already.
        selectivity : float
            In [0, 1]: how far routes were chosen for the query. Above one half, requests that
            went to different routes are kept in different patterns.

        Notes
        -----
        Costs one k-means over the accepted rows.
        """
        self._selectivity = selectivity
        before, centroids = self._live, self._live.centroids.copy()
        shaping = np.flatnonzero(outcomes.accepted)
        points = np.concatenate([outcomes.units[shaping], self._residue.sums.astype(np.float32)])
        weights = np.concatenate([np.ones(len(shaping)), self._residue.sizes])
        routes = [outcomes.routes[i] for i in shaping] + self._residue.leading_routes()
        labels = self._cluster(points, weights, routes, selectivity > 0.5)
        cells = Cells(self.dim)
        for _ in range(int(labels.max(initial=-1)) + 1):
            cells.found()
        cells.join_many(labels[: len(shaping)], outcomes.units[shaping])
        cells.take(self._residue, labels[len(shaping) :])
        failures = np.flatnonzero(~outcomes.accepted)
        cells.count_many(labels[: len(shaping)], outcomes, shaping)
        cells.count_many(cells.nearest_many(outcomes.units[failures]), outcomes, failures)
        cells.take_unplaced(self._residue)
        voices = np.bincount(labels[_different(points, len(shaping))], minlength=len(cells))
        merged = cells.merge(_MERGE, voices.astype(np.float64), by_route=selectivity > 0.5)
        self._live = cells
        kept = self._recognise(centroids)
        return BankChange(len(cells) - kept, merged, len(before) - kept)

    def search(self, query: FloatArray, k: int, *, note: bool = True) -> list[LearnedPattern]:
        """Return the `k` patterns nearest to a unit query, best first; `note` counts the use."""
        count = min(k, len(self))
        if not count:
            return []
        similarities = self.centroids @ query
        best = np.argsort(-similarities, kind="stable")[:count]
        now = int(time.time())
        found = []
        for cell in best.tolist():
            if note:
                self._used[cell] += 1
                self._last_used[cell] = now
            found.append(self._pattern(cell, float(similarities[cell])))
        return found

    def ids_of(self, units: FloatArray) -> NDArray[np.int64]:
        """Return the id of the pattern nearest to each row; -1 while there is none."""
        nearest = self._live.nearest_many(units)
        return np.array(self._ids, np.int64)[nearest] if len(self) else nearest

    def patterns(self) -> list[LearnedPattern]:
        """Return all patterns, in order of id."""
        cells = sorted(range(len(self)), key=lambda cell: self._ids[cell])
        return [self._pattern(cell, None) for cell in cells]

    def handed_on(self, k: int | None, only: Collection[int] | None = None) -> ReasoningBank:
        """Return a bank with the `k` largest patterns, all of it residue for its next owner.

        `only` names the ids that may be among them.
        """
        largest = np.argsort(-self._live.sizes, kind="stable")
        if only is not None:
            largest = largest[[self._ids[cell] in only for cell in largest.tolist()]]
        largest = largest[: len(self) if k is None else k]
        cells = self._live.pick(np.sort(largest))
        bank = ReasoningBank(self.dim, self.n_clusters, self.seed)
        bank._live, bank._residue = cells, cells.pick(np.arange(len(cells)))
        bank._selectivity = self._selectivity
        now = int(time.time())
        for number in range(len(cells)):
            bank._name(number, now)
        return bank

    def route_stats(self) -> dict[str, RouteStats]:
        """Return the outcomes of each route over all patterns."""
        return {
            route: _route_stats(*entry)
            for route, entry in self._live.route_totals()
            if route is not None
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return numbers, for saving."""
        ledger = np.array([self._ids, self._created, self._used, self._last_used], np.int64)
        return {
            **{f"live.{name}": array for name, array in self._live.arrays().items()},
            **{f"residue.{name}": array for name, array in self._residue.arrays().items()},
            "ledger": ledger.reshape(4, len(self)),
            "next_id": np.array([self._next_id]),
            "selectivity": np.array([self._selectivity]),
        }

    def facts(self) -> dict[str, Any]:
        """Return names of routes, in the order of the tables, for saving."""
        return {"live": self._live.routes, "residue": self._residue.routes}

    def restore(self, arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> None:
        """Become what :meth:`arrays` and :meth:`facts` described."""
        self._live = Cells.of(self.dim, wire.under(arrays, "live."), facts["live"])
        self._residue = Cells.of(self.dim, wire.under(arrays, "residue."), facts["residue"])
        ledger = arrays["ledger"].tolist()
        self._ids, self._created, self._used, self._last_used = ledger
        self._next_id = int(arrays["next_id"][0])
        # A bank that starts with more patterns than its own limit keeps room for them.
        self.n_clusters = max(self.n_clusters, len(self))
        self._selectivity = float(arrays["selectivity"][0])

    def _home(self, unit: FloatArray, route: str, nearest: int) -> int:
        """Where a request belongs while the bank is full and routes are chosen for the query."""
        worked = np.flatnonzero(self._live.table(route)[:, 1] > 0.0)
        if len(worked):
            return int(worked[(self.centroids[worked] @ unit).argmax()])
        # The first success of a route deserves a pattern: two that are nearly one make room.
        pair = self._live.closest_pair(by_route=True)
        if pair is None:
            return nearest
        target = np.arange(len(self))
        target[pair[1]] = pair[0]
        self._live.collapse(target)
        for ledger in (self._ids, self._created, self._used, self._last_used):
            del ledger[pair[1]]
        return self._found()

    def _found(self) -> int:
        self._name(self._next_id, int(time.time()))
        return self._live.found()

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
        stats: dict[str, RouteStats] = {}
        count = total = 0.0
        for route, (n, s, squares) in self._live.outcomes(cell):
            count, total = count + n, total + s
            if route is not None:
                stats[route] = _route_stats(n, s, squares)
        size = int(self._live.sizes[cell])
        return LearnedPattern(
            self._ids[cell],
            self.centroids[cell].copy(),
            size,
            float(size),
            total / count if count else 0.0,
            stats,
            self._created[cell],
            self._last_used[cell],
            self._used[cell],
            similarity,
        )


def _different(points: FloatArray, rows: int) -> NDArray[np.int64]:
    """Return one of each set of equal rows, and all points after the first `rows`."""
    whole = np.ascontiguousarray(points[:rows]).view(f"V{points.shape[1] * points.itemsize}")
    first = np.unique(whole.ravel(), return_index=True)[1] if rows else np.empty(0, np.int64)
    return np.concatenate([first, np.arange(rows, len(points))])


def _route_stats(count: float, total: float, squares: float) -> RouteStats:
    mean = total / count
    return RouteStats(count, mean, max(squares / count - mean * mean, 0.0))
