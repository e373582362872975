"""What agents saw, by place: who tried which route in which cell, how often and how well it went.

Requests are put into some coarse cells, clustered from a bounded sample of the fleet's exports; in
each cell every agent has one vote per route. :mod:`sona.federated.reputation` judges by them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona.federated.export import AgentExport
from sona.federated.trust import MAX_ROUTES
from sona.learning.kmeans import SphericalKMeans
from sona.types import FloatArray

__all__ = ["CELLS", "FLEET", "Evidence", "Places", "Sample", "Votes"]

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]

#: Most cells, and how many outcomes there should be per cell. Coarse on purpose: agents have to
#: meet. With fewer cells than the last number a consensus cannot tell other traffic from a lie,
#: and nobody is judged.
CELLS = 32
_MEET, _FEWEST_CELLS = 120.0, 8
_SAMPLE = 2_048
#: Agents that make a fleet in which anybody is judged.
FLEET = 8


class Places(NamedTuple):
    """Outcomes of one export by place.

    Attributes
    ----------
    units : ndarray of shape (n, dim), float32
    routes : list of n str or None
    quality : ndarray of shape (n,), float64
    times : ndarray of shape (n,), float64
        How many outcomes each row is the mean of.
    """

    units: FloatArray
    routes: list[str | None]
    quality: _Floats
    times: _Floats

    @classmethod
    def of(cls, export: AgentExport, valid: NDArray[np.bool_]) -> Places:
        """Take an export's well-formed rows, or the cells of its sketch."""
        if export.sketch is None:
            rows = np.flatnonzero(valid)
            table = export.trajectories
            routes = [table.routes[row] for row in rows.tolist()]
            embeddings = table.embeddings[rows]
            norms = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
            units = (embeddings / np.maximum(norms, 1e-30)).astype(np.float32)
            return cls(units, routes, table.quality[rows], np.ones(len(rows)))
        told = export.sketch.outcomes()
        centres = export.sketch.centres()[[cell for cell, *_ in told]]
        quality, times = np.array([[q, n] for *_, q, n in told]).reshape(-1, 2).T
        return cls(centres, [route for _, route, *_ in told], quality, times)


class Sample:
    """A bounded sample of places that depends on the set of exports, not on their order."""

    def __init__(self, dim: int) -> None:
        self._units = np.empty((0, dim), np.float32)
        self._keys = np.empty(0, np.uint64)
        self._rows: Counter[str] = Counter()
        self._routes: dict[str, set[str | None]] = {}

    def add(self, agent_id: str, places: Places) -> None:
        """Offer an export's places; those with the smallest hashes of all are kept."""
        units = places.units
        self._rows[agent_id] += len(units)
        named = self._routes.setdefault(agent_id, set())
        if len(named) <= MAX_ROUTES:
            named.update(places.routes)
        # By what was seen, not when: a fleet that lives twice learns the same.
        seen = hashlib.blake2b(agent_id.encode(), digest_size=8)
        seen.update(units[:1].tobytes())
        seen.update(places.quality.tobytes())
        seed = int.from_bytes(seen.digest())
        keys = np.random.default_rng(seed).integers(0, 2**63, len(units)).astype(np.uint64)
        keys = np.concatenate([self._keys, keys])
        kept = np.argsort(keys, kind="stable")[:_SAMPLE]
        self._units = np.concatenate([self._units, units])[kept]
        self._keys = keys[kept]

    @property
    def verbose(self) -> frozenset[str]:
        """Agents that use more route names than one agent may."""
        return frozenset(a for a, named in self._routes.items() if len(named) > MAX_ROUTES)

    def cells(self, seed: int) -> SphericalKMeans | None:
        """Cluster the sample; None in a fleet that is too small to judge anybody."""
        if len(self._rows) < FLEET:
            return None
        cells = min(int(self._rows.total() / _MEET), CELLS, len(self._units))
        cells = cells if cells >= _FEWEST_CELLS else 1
        return SphericalKMeans(cells, seed=seed, max_iter=25).fit(self._units)


class Votes(NamedTuple):
    """One row per agent, route and cell: how many outcomes, and their mean.

    Attributes
    ----------
    agents, routes : list of str
        What the numbers mean.
    agent, route, cell : ndarray of int64
    outcomes, mean : ndarray of float64
    """

    agents: list[str]
    routes: list[str]
    agent: _Ints
    route: _Ints
    cell: _Ints
    outcomes: _Floats
    mean: _Floats


class Evidence:
    """Votes: per agent and (cell, route) how many outcomes and their sum."""

    def __init__(self, cells: SphericalKMeans) -> None:
        self._cells = cells
        self._route: dict[str, int] = {}
        self._votes: dict[str, dict[int, list[float]]] = {}

    def add(self, agent_id: str, places: Places) -> None:
        """Count an export in; what has no route says nothing of one."""
        named = [row for row, route in enumerate(places.routes) if route is not None]
        if not named:
            return
        labels = self._cells.predict(places.units[named]).tolist()
        votes = self._votes.setdefault(agent_id, {})
        for row, label in zip(named, labels, strict=True):
            route = self._route.setdefault(str(places.routes[row]), len(self._route))
            entry = votes.setdefault(route * CELLS + label, [0.0, 0.0])
            entry[0] += places.times[row]
            entry[1] += places.times[row] * places.quality[row]

    def votes(self) -> Votes:
        """Return all votes by column."""
        agents, routes = sorted(self._votes), list(self._route)
        rows = [
            (number, *divmod(key, CELLS), count, total / count)
            for number, agent in enumerate(agents)
            for key, (count, total) in sorted(self._votes[agent].items())
        ]
        columns = np.array(rows, np.float64).reshape(-1, 5).T
        agent, route, cell = columns[:3].astype(np.int64)
        return Votes(agents, routes, agent, route, cell, columns[3], columns[4])
