"""What agents say of each other: whose outcomes contradict everybody else's.

Requests are put into some coarse cells. In each cell every agent has one vote per route, the mean
of what it saw there, however often it says so; the consensus is their trimmed mean. An agent is
measured by how far its outcomes are from that consensus, in units of what chance alone would do:
over all cells (*error*, its Brier score against the expected one) and per route (*bias*). Whoever
lies several robust deviations away is left out of the next consolidation, at most 40 % of all.
Whoever floods a route, reporting it several times as often as is usual beside other routes, is
heard there with no more outcomes than a typical agent: with many routes few agents meet on each,
and a few who speak of nothing else would be the majority.

Agreement has to be thick: cells where few agents saw a route judge nobody, and in a fleet of few
agents nobody is judged at all. Consensus is by majority of votes: from about 40 % of colluding
agents on it is theirs, and the honest look wrong.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona.federated.export import AgentExport
from sona.federated.records import Standing
from sona.learning.kmeans import SphericalKMeans
from sona.learning.sketch import Sketch
from sona.types import FloatArray

__all__ = ["Evidence", "Places", "Sample", "Verdict", "judge"]

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]

#: Most cells, and how many outcomes there should be per cell and route. Coarse on purpose: where
#: honest agents seldom meet, a few hostile ones who try one route only are the majority.
#: With fewer cells than the last number a consensus cannot tell other traffic from a lie, and
#: nobody is judged.
CELLS = 32
_MEET, _FEWEST_CELLS = 60.0, 8
_SAMPLE = 2_048
#: Votes that make a consensus, and the outcomes behind them once no vote weighs more than the
#: median one; below it nobody is judged by it.
_VOTES, _STANDS = 5, 20.0
#: Agents that make a fleet in which anybody is judged.
_FLEET = 8
#: Judged outcomes that make an agent's deviation worth a verdict, over all and on one route.
_JUDGED, _JUDGED_ON_ROUTE = 10, 5
_TRIM = 0.25
_BEYOND, _PER_ROUTE = 3.5, 1.0
_AT_MOST = 0.4
#: A route has so many times its usual part in what an agent reports: it is being flooded.
_FLOOD = 3.0
# Outcomes by which a cell's consensus is pulled toward the route's.
_SHRINK = 5.0


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
        self._routes: set[str | None] = set()

    def add(self, agent_id: str, export_id: str, places: Places) -> None:
        """Offer an export's places; those with the smallest hashes of all are kept."""
        units = places.units
        self._rows[agent_id] += len(units)
        self._routes.update(places.routes)
        seed = int.from_bytes(hashlib.blake2b(export_id.encode(), digest_size=8).digest())
        keys = np.random.default_rng(seed).integers(0, 2**63, len(units)).astype(np.uint64)
        keys = np.concatenate([self._keys, keys])
        kept = np.argsort(keys, kind="stable")[:_SAMPLE]
        self._units = np.concatenate([self._units, units])[kept]
        self._keys = keys[kept]

    def cells(self, seed: int) -> SphericalKMeans | None:
        """Cluster the sample; None in a fleet that is too small to judge anybody."""
        if len(self._rows) < _FLEET:
            return None
        per_route = self._rows.total() / max(len(self._routes - {None}), 1)
        cells = min(int(per_route / _MEET), CELLS, len(self._units))
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


class Verdict(NamedTuple):
    """What a consolidation makes of the agents.

    Attributes
    ----------
    standings : dict of str to Standing
        Empty in a fleet that is too small to judge anybody.
    shares : dict of (str, str) to float
        Agent and route whose outcomes are thinned to this share, because the agent floods it.
    """

    standings: dict[str, Standing]
    shares: dict[tuple[str, str], float]

    def dropped(self, agent_id: str) -> bool:
        """Whether an agent is left out."""
        standing = self.standings.get(agent_id)
        return standing is not None and standing.dropped

    def kept(self, export: AgentExport) -> NDArray[np.bool_]:
        """Rows of an export that are learned from."""
        routes = export.trajectories.routes
        kept = np.full(len(routes), not self.dropped(export.agent_id))
        for route in {route for agent, route in self.shares if agent == export.agent_id}:
            share = self.shares[export.agent_id, route]
            rows = np.array([row for row, name in enumerate(routes) if name == route], int)
            steps = np.floor(np.arange(len(rows) + 1) * share)
            kept[rows[np.diff(steps) == 0]] = False  # evenly spaced ones stay
        return kept

    def thinned(self, export: AgentExport) -> Sketch | None:
        """The sketch of a compact export as far as it is learned from."""
        sketch = export.sketch
        if sketch is None or self.dropped(export.agent_id):
            return None
        shares = [self.shares.get((export.agent_id, route or ""), 1.0) for route in sketch.routes]
        counts = np.ceil(sketch.counts * np.array(shares)).astype(np.uint32)
        return sketch._replace(counts=counts)


def judge(evidence: Evidence) -> Verdict:
    """Say how far each agent is from the consensus, whom to leave out, and whom to thin.

    Parameters
    ----------
    evidence : Evidence

    Returns
    -------
    Verdict

    Notes
    -----
    Judged twice: a consensus without those whom the first round would drop shows the others in
    a truer light. Cost: sorts of the votes, of which there are agents times cells times routes
    at most.
    """
    votes = evidence.votes()
    if len(votes.agents) < _FLEET:
        return Verdict({}, {})
    trusted, standings = np.ones(len(votes.agents), np.bool_), dict[str, Standing]()
    for _ in range(2 if votes.cell.any() else 0):  # one cell alone has number 0
        standings = _measure(votes, trusted)
        trusted = ~np.array([standings[name].dropped for name in votes.agents])
    return Verdict(standings, _shares(votes, trusted))


def _measure(votes: Votes, trusted: NDArray[np.bool_]) -> dict[str, Standing]:
    """Hold every agent against the consensus of the trusted ones."""
    n = len(votes.agents)
    consensus, mass, thick = _consensus(votes, trusted[votes.agent])
    agent, route = votes.agent[thick], votes.route[thick]
    count, gap = votes.outcomes[thick], (votes.mean - consensus)[thick]
    consensus = consensus[thick]
    # Chance moves the mean of a few outcomes, and the consensus too where few stand behind it.
    chance = np.maximum(consensus * (1.0 - consensus), 0.02)
    noise = chance * (1.0 + count / mass[thick])
    judged = np.bincount(agent, count, n)
    # The square of a binomial's deviation scatters more than that of a normal one, the fewer.
    surplus = np.bincount(agent, count * gap**2 / noise - 1.0, n)
    scatter = np.bincount(agent, 2.0 + np.maximum(1.0 - 6.0 * chance, 0.0) / (count * chance), n)
    known = judged >= _JUDGED
    error = _deviations(surplus / np.sqrt(np.maximum(scatter, 1.0)), judged > 0.0)
    biases = np.zeros((n, len(votes.routes)))
    for number in range(len(votes.routes)):
        on = route == number
        off = np.bincount(agent[on], (count * gap)[on], n)
        spread = np.sqrt(np.bincount(agent[on], (count * noise)[on], n))
        seen = np.bincount(agent[on], count[on], n)
        # All voters say what is usual, also those who say too little to be judged by it: whoever
        # floods a route must not be the only one to say so.
        bias = _deviations(off / np.maximum(spread, 1e-12), seen > 0.0)
        enough = known & (seen >= _JUDGED_ON_ROUTE)
        biases[:, number] = np.where(enough, bias, 0.0)
    error = np.where(known, error, 0.0)
    worst = biases[np.arange(n), np.abs(biases).argmax(axis=1)]
    badness = np.maximum(error, np.abs(worst))
    # The more routes, the likelier one of them looks odd by chance.
    dropped = badness > _BEYOND + _PER_ROUTE * np.log(max(len(votes.routes) - 1, 1))
    most = int(_AT_MOST * n)
    if dropped.sum() > most:
        dropped &= badness >= np.sort(badness)[-most]
    return {
        name: Standing(0, int(judged[i]), float(error[i]), float(worst[i]), bool(dropped[i]))
        for i, name in enumerate(votes.agents)
    }


def _shares(votes: Votes, trusted: NDArray[np.bool_]) -> dict[tuple[str, str], float]:
    """Which trusted agents flood a route, and the share of it that a typical one reports."""
    n, m = len(votes.agents), len(votes.routes)
    total = np.bincount(votes.agent * m + votes.route, votes.outcomes, n * m).reshape(n, m)
    total[~trusted] = 0.0
    part = total / np.maximum(total.sum(axis=1, keepdims=True), 1.0)
    shares: dict[tuple[str, str], float] = {}
    for number, name in enumerate(votes.routes):
        voters = np.flatnonzero(total[:, number])
        if len(voters) < _FLEET:
            continue
        said, share = total[voters, number], part[voters, number]
        floods = (said > np.median(said)) & (share > _FLOOD * np.median(share))
        for i in voters[floods].tolist():
            shares[votes.agents[i], name] = float(np.median(said) / total[i, number])
    return shares


def _consensus(
    votes: Votes, heard: NDArray[np.bool_]
) -> tuple[_Floats, _Floats, NDArray[np.bool_]]:
    """Per vote: the consensus of its cell and route, its mass, and whether it is thick."""
    n = len(votes.mean)
    consensus, mass, thick = np.zeros(n), np.ones(n), np.zeros(n, np.bool_)
    for number in range(len(votes.routes)):
        on = votes.route == number
        if not (on & heard).any():
            continue
        overall, _ = _trimmed(votes.mean[on & heard], votes.outcomes[on & heard])
        for cell in np.unique(votes.cell[on]):
            here = on & (votes.cell == cell)
            told = here & heard
            if told.sum() < _VOTES:
                continue
            level, stands = _trimmed(votes.mean[told], votes.outcomes[told])
            consensus[here] = (level * stands + overall * _SHRINK) / (stands + _SHRINK)
            mass[here], thick[here] = stands + _SHRINK, stands >= _STANDS
    return consensus, mass, thick


def _trimmed(mean: _Floats, count: _Floats) -> tuple[float, float]:
    """Trimmed mean of votes, and how many outcomes stand behind it.

    A vote weighs at most what the median one does: saying it more often does not help.
    """
    weight = np.minimum(count, np.median(count))
    order = np.argsort(mean, kind="stable")
    weight, mean = weight[order], mean[order]
    total = weight.sum()
    upper = np.minimum(np.cumsum(weight), (1.0 - _TRIM) * total)
    lower = np.maximum(np.cumsum(weight) - weight, _TRIM * total)
    kept = np.maximum(upper - lower, 0.0)
    return float((kept * mean).sum() / kept.sum()), float(total)


def _deviations(values: _Floats, among: NDArray[np.bool_]) -> _Floats:
    """Distance from the median in robust deviations, of which one is at least what chance gives."""
    if not among.any():
        return np.zeros_like(values)
    centre = np.median(values[among])
    scale = max(1.0, 1.4826 * float(np.median(np.abs(values[among] - centre))))
    return np.asarray((values - centre) / scale)
