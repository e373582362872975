"""What agents say of each other: whose outcomes contradict everybody else's.

Requests are put into some coarse cells. In each cell every agent has one vote per route, the mean
of what it saw there, however often it says so; the consensus is their trimmed mean where enough
agents saw the route in the cell. Elsewhere it is what the route is worth everywhere and what the
cell is worth on every route, added up: with many routes few agents meet on each, yet all of them
know which requests are hard. How far such sums miss what was seen, and how far agents differ
within a cell, is estimated: both surprise nobody. An agent is measured against the consensus in
three ways. How far its outcomes are from it, in units of what chance alone would do: over all
cells (*error*, its Brier score against the expected one) and on average, per route and over all
(*bias*). And how much likelier the opposite of what it says is than what it says (*opposed*), which
tells even a handful of outcomes. Whoever is beyond a limit is left out of the next consolidation,
at most 40 % of all. Whoever floods a route, reporting it several times as often as is usual beside
other routes, is heard there with no more outcomes than a typical agent: with many routes a few who
speak of nothing else would be the majority on one of them.

Agreement has to be thick: routes and cells that few agents saw judge nobody, and in a fleet of
few agents nobody is judged at all. Consensus is by majority of votes: from about 40 % of
colluding agents on it may be theirs, and the honest look wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona.federated.evidence import CELLS, FLEET, Evidence, Votes
from sona.federated.export import AgentExport
from sona.federated.records import Standing
from sona.learning.sketch import Sketch

__all__ = ["Verdict", "judge"]

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]

#: Votes that make a consensus, and the outcomes behind them once no vote weighs more than most
#: do; below it nobody is judged by it.
_VOTES, _STANDS = 5, 20.0
#: A vote weighs no more than the one that so many are lighter than: with the median, two fifths
#: of the agents who say everything twenty times outweigh the others.
_HEARD = 0.25
#: Judged outcomes that make an agent's deviation worth a verdict, over all and on one route.
_JUDGED, _JUDGED_ON_ROUTE = 10, 5
_TRIM = 0.25
#: Deviations that are too many, and log odds: a hundred to one for the opposite of what is said.
_BEYOND, _OPPOSED = 3.5, 4.6
_ROUNDS, _SWEEPS = 4, 5
_AT_MOST = 0.4
#: A route has so many times its usual part in what an agent reports: it is being flooded.
_FLOOD = 3.0
# Outcomes by which a cell's consensus is pulled toward the sum of route and cell, and odds to even.
_SHRINK = 5.0
# Variance of one outcome where the consensus is certain.
_LEAST_CHANCE = 0.02


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


def judge(evidence: Evidence | None, verbose: Collection[str] = ()) -> Verdict:
    """Say how far each agent is from the consensus, whom to leave out, and whom to thin.

    Parameters
    ----------
    evidence : Evidence or None
        None in a fleet that is too small.
    verbose : collection of str
        Agents that are left out whatever they say, for the number of routes they name.

    Returns
    -------
    Verdict

    Notes
    -----
    Judged in rounds, until nothing changes: a consensus without those whom one round would drop
    shows the others in a truer light. Cost: sorts of the votes, of which there are agents times
    cells times routes at most.
    """
    out = {name: Standing(dropped=True) for name in verbose}
    votes = None if evidence is None else evidence.votes()
    if votes is None or len(votes.agents) < FLEET:
        return Verdict(out, {})
    trusted, standings = np.ones(len(votes.agents), np.bool_), dict[str, Standing]()
    for _ in range(_ROUNDS if votes.cell.any() else 0):  # one cell alone has number 0
        standings = _measure(votes, trusted)
        before, trusted = trusted, ~np.array([standings[name].dropped for name in votes.agents])
        if (before == trusted).all():
            break
    return Verdict(standings | out, _shares(votes, trusted))


def _measure(votes: Votes, trusted: NDArray[np.bool_]) -> dict[str, Standing]:
    """Hold every agent against the consensus of the trusted ones."""
    n = len(votes.agents)
    consensus, mass, misses = _consensus(votes, trusted[votes.agent])
    thick = mass > 0.0
    agent, route, mass, misses = votes.agent[thick], votes.route[thick], mass[thick], misses[thick]
    count, mean, consensus = votes.outcomes[thick], votes.mean[thick], consensus[thick]
    # Chance moves the mean of a few outcomes, and the consensus too where few stand behind it.
    chance = np.maximum(consensus * (1.0 - consensus), _LEAST_CHANCE)
    noise, gap = chance * (1.0 + count / mass) + count * misses, mean - consensus
    noise += count * _unlike(agent, route, gap**2 - noise / count, trusted[agent])[route]
    judged = np.bincount(agent, count, n)
    known = judged >= _JUDGED
    # The square of a binomial's deviation scatters otherwise than that of a normal one.
    scatter = 2.0 + (1.0 - 6.0 * chance) / (count * chance) * (chance / noise) ** 2
    error: _Floats = _surprise(
        np.bincount(agent, count * gap**2 / noise, n).astype(np.float64),
        np.bincount(agent, minlength=n),
        np.bincount(agent, np.maximum(scatter, 0.2), n).astype(np.float64),
    )
    error = np.where(known, _deviations(error, judged > 0.0), 0.0)
    worst = np.zeros(n)
    for on in (np.arange(len(route)), *_groups(route)):  # over all, then route by route
        off = np.bincount(agent[on], (count * gap)[on], n)
        spread = np.sqrt(np.bincount(agent[on], (count * noise)[on], n))
        seen = np.bincount(agent[on], count[on], n)
        # All voters say what is usual, also those who say too little to be judged by it: whoever
        # floods a route must not be the only one to say so.
        bias = _deviations(off / np.maximum(spread, 1e-12), seen > 0.0)
        worse = known & (seen >= _JUDGED_ON_ROUTE) & (np.abs(bias) > np.abs(worst))
        worst = np.where(worse, bias, worst)
    even = (consensus * mass + 0.5 * _SHRINK) / (mass + _SHRINK)
    opposed = np.bincount(agent, np.log(even / (1.0 - even)) * count * (1.0 - 2.0 * mean), n)
    # The more routes, the likelier one of them looks odd by chance.
    beyond = np.sqrt(_BEYOND**2 + 2.0 * np.log(max(len(np.unique(route)) - 1, 1)))
    badness = np.maximum(np.maximum(error, np.abs(worst)) / beyond, opposed / _OPPOSED)
    dropped = badness > 1.0
    most = int(_AT_MOST * n)
    if dropped.sum() > most:
        dropped &= badness >= np.sort(badness)[-most]
    columns = zip(votes.agents, judged, error, worst, dropped, opposed, strict=True)
    return {
        name: Standing(0, int(seen), float(far), float(bias), bool(out), float(odds))
        for name, seen, far, bias, out, odds in columns
    }


def _unlike(agent: _Ints, route: _Ints, excess: _Floats, trusted: NDArray[np.bool_]) -> _Floats:
    """How far agents' means of a route differ within cells beyond chance: a variance per route.

    What agents meet within one cell differs, and what they try there: who explores sees a route
    fail where nobody who knows better takes it. Every trusted agent has one voice per route.
    """
    voice = agent * (route.max(initial=0) + 1) + route
    weight = trusted / np.bincount(voice)[voice]
    voices = np.maximum(np.bincount(route, weight), 1e-12)
    return np.maximum(np.bincount(route, weight * excess) / voices, 0.0)


def _shares(votes: Votes, trusted: NDArray[np.bool_]) -> dict[tuple[str, str], float]:
    """Which trusted agents flood a route, and the share of it that a typical one reports."""
    n = len(votes.agents)
    told = np.where(trusted[votes.agent], votes.outcomes, 0.0)
    everything = np.maximum(np.bincount(votes.agent, told, n), 1.0)
    shares: dict[tuple[str, str], float] = {}
    for on in _groups(votes.route):
        name = votes.routes[votes.route[on[0]]]
        total = np.bincount(votes.agent[on], told[on], n)
        voters = np.flatnonzero(total)
        if len(voters) < FLEET:
            continue
        said, part = total[voters], (total / everything)[voters]
        floods = (said > np.median(said)) & (part > _FLOOD * np.median(part))
        for i in voters[floods].tolist():
            shares[votes.agents[i], name] = float(np.median(said) / total[i])
    return shares


def _consensus(votes: Votes, heard: NDArray[np.bool_]) -> tuple[_Floats, _Floats, _Floats]:
    """Per vote: the consensus of its cell and route, its mass, and the variance it has besides.

    Where enough agents saw a route in a cell it is their trimmed mean, elsewhere the sum of both,
    as far as such a sum tells what agents saw in other cells. No mass judges nobody.
    """
    level, shift, mass = _levels(votes, heard)
    added = np.clip(level[votes.route] + shift[votes.cell], 0.0, 1.0)
    consensus, few = added.copy(), np.ones(len(added), np.bool_)
    weights, excess = [0.0], [0.0]
    for here in _groups(votes.route * CELLS + votes.cell):
        told = here[heard[here]]
        if not len(told):
            continue
        outcomes, guess = votes.outcomes[told].sum(), added[here[0]]
        apart = (votes.outcomes[told] * votes.mean[told]).sum() / outcomes - guess
        weights.append(outcomes / (outcomes + _SHRINK))
        excess.append(apart**2 - max(guess * (1.0 - guess), _LEAST_CHANCE) / outcomes)
        if len(told) < _VOTES:
            continue
        mean, stands = _trimmed(votes.mean[told], votes.outcomes[told])
        if stands >= _STANDS:
            consensus[here] = (mean * stands + guess * _SHRINK) / (stands + _SHRINK)
            mass[here], few[here] = stands + _SHRINK, False
    misses = float(np.dot(weights, excess)) / max(sum(weights), 1e-12)
    return consensus, mass, np.where(few, max(misses, 0.0), 0.0)


def _levels(votes: Votes, heard: NDArray[np.bool_]) -> tuple[_Floats, _Floats, _Floats]:
    """Worth of every route, how far every cell is from that, and the mass behind each vote."""
    level, shift = np.zeros(len(votes.routes)), np.zeros(CELLS)
    for _ in range(_SWEEPS):
        level, routes = _polled(
            votes, votes.route, votes.mean - shift[votes.cell], heard, len(level)
        )
        shift, cells = _polled(votes, votes.cell, votes.mean - level[votes.route], heard, CELLS)
    return level, shift, np.minimum(routes[votes.route], cells[votes.cell])


def _polled(
    votes: Votes, place: _Ints, value: _Floats, heard: NDArray[np.bool_], places: int
) -> tuple[_Floats, _Floats]:
    """Mean per place, one vote per agent, and the mass behind it: 0 where agreement is thin."""
    means, mass = np.zeros(places), np.zeros(places)
    for here in _groups(place):
        told = here[heard[here]]
        if len(told) < _VOTES:
            continue
        _, voter = np.unique(votes.agent[told], return_inverse=True)
        count = np.bincount(voter, votes.outcomes[told])
        mean = np.bincount(voter, votes.outcomes[told] * value[told]) / count
        weight = np.minimum(count, np.quantile(count, _HEARD))
        number = place[here[0]]
        means[number] = (weight * mean).sum() / weight.sum()
        if len(count) >= _VOTES and weight.sum() >= _STANDS:
            mass[number] = weight.sum()
    return means, mass


def _groups(key: _Ints) -> Iterator[_Ints]:
    """Rows that share a key, key by key."""
    order = np.argsort(key, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(key[order])) + 1)


def _trimmed(mean: _Floats, count: _Floats) -> tuple[float, float]:
    """Trimmed mean of votes, and how many outcomes stand behind it.

    Saying it more often does not help: no vote weighs more than most do.
    """
    weight = np.minimum(count, np.quantile(count, _HEARD))
    order = np.argsort(mean, kind="stable")
    weight, mean = weight[order], mean[order]
    total = weight.sum()
    upper = np.minimum(np.cumsum(weight), (1.0 - _TRIM) * total)
    lower = np.maximum(np.cumsum(weight) - weight, _TRIM * total)
    kept = np.maximum(upper - lower, 0.0)
    return float((kept * mean).sum() / kept.sum()), float(total)


def _surprise(total: _Floats, ballots: _Ints, scatter: _Floats) -> _Floats:
    """How surprising sums of squared deviations are, as deviations of a normal one.

    A sum of few squares is skewed: measured by its own deviation, one honest agent of a hundred
    would look outrageous. Its cube root is nearly normal (Wilson and Hilferty, 1931).
    """
    ballots = np.maximum(ballots, 1)
    ninth = scatter / (9.0 * ballots**2)  # 2 / (9 degrees of freedom)
    return np.asarray(
        (np.cbrt(total / ballots) - (1.0 - ninth)) / np.sqrt(np.maximum(ninth, 1e-12))
    )


def _deviations(values: _Floats, among: NDArray[np.bool_]) -> _Floats:
    """Distance from the median in robust deviations, of which one is at least what chance gives."""
    if not among.any():
        return np.zeros_like(values)
    centre = np.median(values[among])
    scale = max(1.0, 1.4826 * float(np.median(np.abs(values[among] - centre))))
    return np.asarray((values - centre) / scale)
