"""Which route for this query: expected quality, how sure that is, what it costs.

Two experts and one question decide.

*Outcome*: the fitted :class:`~sona.learning.outcome.OutcomeModel`, corrected by how wrong it was
near the query. It extrapolates: what a route achieved elsewhere says something about here.
*Memory*: only what was tried near the query counts; a route that was never tried here is worth
little, however well it does elsewhere.

The question is how the routes in the log were chosen. Where the choice did not look at the query
(a random split), logged outcomes are a fair sample and the expert with the smaller error decides.
Where every query already went to the route that suits it (intents, tools, a good policy), what a
route achieved on its own queries says nothing about others. No loss on logged outcomes can tell
the two apart, because only chosen routes have outcomes; but the log shows it:
:class:`Selectivity` measures how much better the route is predicted by the neighbours of the query
than by its overall share.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from sona import _core, wire
from sona.checks import check_text
from sona.errors import NonFiniteError, RangeError
from sona.learning.buffer import TrajectoryBuffer
from sona.learning.levels import SAID_FADE, Levels, Turn
from sona.learning.neighbours import (
    MEMORY_PRIOR,
    NEAREST,
    NEIGHBOURS,
    WIDTHS,
    foretelling_width,
)
from sona.learning.outcome import PRIOR_OUTCOMES, OutcomeModel, Points
from sona.learning.selectivity import Selectivity
from sona.learning.sketch import Sketch
from sona.learning.stored import require_stored, stored
from sona.types import FloatArray, Record

__all__ = ["Choice", "Router"]

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]

_RESIDUAL_PRIOR = 10.0
#: A neighbour that the model has not learned from counts wherever it is: 20 of them weigh as
#: much as the prior.
_FRESH_WEIGHT = _RESIDUAL_PRIOR / PRIOR_OUTCOMES
_NEVER_TRIED = 0.4
# The contest of memory and model: half-life 1000 outcomes, 20 before the first; memory has won
# when its squared error is below the first share of the model's, and lost above the second.
_CONTEST_KEEP = 0.5 ** (1.0 / 1000.0)
_CONTEST_PRIOR = 20.0
_CONTEST_WON, _CONTEST_LOST = 0.5, 0.9
# Neighbours that say what a route did on similar queries, and the kernel that makes a precedent.
_PRECEDENTS = 32
_PRECEDENT_MASS = 1e-3
# Outcomes that judge a suspected turn, and how many of them must have precedents.
_WITNESSES, _QUORUM = 32, 4
# Of so many remembered outcomes all are looked up as they come, of k times as many one in k:
# what memory, model and selectivity are judged by are averages, and a search of a large memory
# costs more than all else. An outcome looked up stands for the others, for up to four of them.
_LOOKED_UP_ALL = 100
_STANDS_FOR = 4
# Fewer rows than this are put to the model one by one: a batch costs more than it saves.
_ASKED_SINGLY = 4
# Outcomes to look up that may wait for each other: many at once share the reading of memory.
_TOGETHER = 32
_EDGE = 0.05
#: Remembered outcomes that a new agent receives.
_HANDED_ON = 4_096


class Choice(Record, frozen=True, eq=True):
    """A route and the reasons for it.

    Attributes
    ----------
    route : str
    expected, uncertainty : dict of str to float
        Expected quality in [0, 1] before costs and its standard deviation, per candidate.
    explored : bool
        Whether the choice differs from the best expected utility.
    """

    route: str
    expected: dict[str, float]
    uncertainty: dict[str, float]
    explored: bool


class Router:
    """Learn from outcomes which route suits which query.

    Parameters
    ----------
    dim : int
        Length of an embedding.
    n_clusters : int, default 100
        Cells of the finest clusterings of the outcome model.
    capacity : int, default 10000
        Outcomes that are remembered singly.
    seed : int, default 0
        Seed of clusterings and exploration.

    Notes
    -----
    :meth:`observe` costs a copy of the embedding and acts on the next decision. Of a large memory
    it looks up what some of the outcomes come next to, 32 of them at a time. :meth:`learn` is the
    background's part. Not thread-safe.

    Examples
    --------
    >>> router = Router(dim=2)
    >>> here, there = np.eye(2, dtype=np.float32)
    >>> router.observe(here, "small", 1.0)
    >>> router.observe(there, "small", 0.0)
    >>> router.observe(there, "large", 1.0)
    >>> router.decide(there).route
    'large'
    >>> router.decide(here).route
    'small'
    """

    def __init__(
        self, dim: int, n_clusters: int = 100, capacity: int = 10_000, seed: int = 0
    ) -> None:
        self.dim = dim
        self.n_clusters = n_clusters
        self.seed = seed
        self._rng = np.random.default_rng(seed)
        self._buffer = TrajectoryBuffer(dim, capacity)
        self._number: dict[str, int] = {}
        self._model: OutcomeModel | None = None
        self._learned = 0  # rows with a smaller order shaped the model
        self._waiting: list[int] = []  # orders of rows to look up
        self._next_look = 0  # order of the next of them
        self._levels = Levels()
        self._selectivity = Selectivity()
        # Decaying squared errors of what memory and what the model expected, and their weight.
        self._contest = np.array([0.25, 0.25, 1.0]) * _CONTEST_PRIOR
        self._width = WIDTHS[0]
        # What decisions go by; None once something was learned.
        self._outlook: _core.Outlook | None = None

    @property
    def routes(self) -> list[str]:
        """Names of the routes that were ever observed, in order of appearance."""
        return list(self._number)

    @property
    def pending(self) -> int:
        """Outcomes observed since the last :meth:`learn`."""
        return self._buffer.seen - self._learned

    @property
    def due(self) -> bool:
        """Whether so much is new that learning pays: 64 outcomes, then half as many again."""
        return self.pending >= max(64, self._learned // 2) and not self._outranked

    @property
    def _outranked(self) -> bool:
        """Whether the model saw more outcomes than are remembered here, as a fleet's has.

        Such a model is not replaced by a poorer one; memory corrects it meanwhile.
        """
        if self._model is None:
            return False
        remembered = float(self._buffer.columns("weight").sum())
        return remembered < 0.99 * float(self._model.count.sum())

    @property
    def memory(self) -> TrajectoryBuffer:
        """What is remembered; read only."""
        return self._buffer

    @property
    def selectivity(self) -> float:
        """Weight in [0, 1] of the memory expert; see the module."""
        self._look_up()
        return self._selectivity.weight

    def observe(
        self,
        embedding: FloatArray,
        route: str,
        quality: float,
        weight: float = 1.0,
        length: float = 1.0,
    ) -> None:
        """Take one outcome in.

        Parameters
        ----------
        embedding : ndarray of shape (dim,), float32
            Unit length or zero; copied.
        route : str
        quality : float
            In [0, 1].
        weight : float, default 1.0
            Number of outcomes that `quality` is the mean of.
        length : float, default 1.0
            Length of the mean of the unit embeddings that the row stands for.
        """
        self._outlook = None
        number = self._number.get(route)
        if number is None:
            number = self._number[route] = len(self._number)
            self._levels.grow(number + 1)
        buffer = self._buffer
        order = buffer.seen
        if self._waiting and order - self._waiting[0] >= buffer.capacity:
            self._look_up()  # before the row is given up
        buffer.append(embedding, number, quality, weight, length)
        turn = self._levels.follow(number, quality, weight, order)
        if turn is not None:
            self._consider(number, turn)
        if order >= self._next_look:
            self._next_look = order + max(1, len(buffer) // _LOOKED_UP_ALL)
            self._waiting.append(order)
            if len(self._waiting) >= _TOGETHER:
                self._look_up()

    def prepare(self) -> None:
        """Do what the next decision would do first."""
        if self._outlook is None:
            self._look_ahead()

    def _look_ahead(self) -> _core.Outlook:
        """Put together what decisions go by until something is learned."""
        self._look_up()
        buffer = self._buffer
        rows, codes = buffer.store
        self._outlook = outlook = _core.Outlook(
            None if self._model is None else self._model.cells,
            rows,
            codes,
            len(buffer),
            buffer.whole,
            buffer.real,
            self._levels.table,
            self._levels.totals,
            self._learned,
            NEIGHBOURS,
            self._width,
            NEAREST,
            _FRESH_WEIGHT,
            _RESIDUAL_PRIOR,
            self._memory_weight,
            _NEVER_TRIED * self._levels.overall,
            MEMORY_PRIOR,
            _EDGE,
        )
        return outlook

    @staticmethod
    def _refuse() -> NoReturn:
        raise NonFiniteError("the router's model must be finite; it says nothing of some outcomes")

    def _look_up(self) -> None:
        """Let memory, model and selectivity be judged by the outcomes that wait for it."""
        if not self._waiting:
            return
        buffer = self._buffer
        rows = np.array(self._waiting) % buffer.capacity
        self._waiting = []
        near, similarities = buffer.nearest(buffer.embeddings[rows], _PRECEDENTS + 1)
        self._ask_model(rows)
        _core.judge(
            rows,
            near,
            similarities,
            buffer.whole,
            buffer.real,
            len(buffer),
            self._levels.table,
            self._levels.totals,
            self._contest,
            self._selectivity.state,
            NEAREST,
            self._width,
            MEMORY_PRIOR,
            self._selectivity.prior,
            _CONTEST_KEEP ** min(max(1, len(buffer) // _LOOKED_UP_ALL), _STANDS_FOR),
            SAID_FADE,
        )

    def absorb(self, summary: Sketch) -> None:
        """Take in what many outcomes amount to.

        Parameters
        ----------
        summary : Sketch
            Each of its cells enters as one remembered row per route.
        """
        centres = summary.centres()
        for cell, route, quality, count in summary.outcomes():
            if route is not None:
                self.observe(centres[cell], route, quality, count, float(summary.lengths[cell]))

    def learn(self) -> None:
        """Fit the outcome model to everything remembered; the background's part."""
        self._look_up()
        if not len(self._buffer) or self._outranked:
            return
        self._outlook = None
        if self._memory_weight > 0.0:
            self._width = foretelling_width(self._buffer)
        column = self._buffer.columns
        for route, change in self._levels.settle():
            self._shift(route, change)
        points = Points(
            self._buffer.embeddings * column("length")[:, None].astype(np.float32),
            column("route"),
            column("quality"),
            column("weight"),
        )
        self._adopt(OutcomeModel.fit(points, len(self._number), self.n_clusters, self.seed))

    def expect(self, embedding: FloatArray) -> tuple[_Floats, _Floats]:
        """Return expected quality and its standard deviation for all known routes.

        Parameters
        ----------
        embedding : ndarray of shape (dim,), float32
            Unit length or zero.

        Returns
        -------
        expected, deviation : ndarray of shape (len(routes),), float64
        """
        outlook = self._outlook or self._look_ahead()
        means, doubts = outlook.expect(embedding, self._ask_model) or self._refuse()
        return np.array(means), np.array(doubts)

    def decide(
        self,
        embedding: FloatArray,
        routes: Sequence[str] | None = None,
        costs: Mapping[str, float] | None = None,
        cost_weight: float = 0.0,
        explore: bool = False,
        *,
        note: bool = True,
    ) -> Choice:
        """Choose the route of best expected quality less ``cost_weight`` times cost.

        Parameters
        ----------
        embedding : ndarray of shape (dim,), float32
            Unit length or zero.
        routes : sequence of str, optional
            Candidates; everything observed so far if not given. May name routes never seen.
        costs : mapping of str to float, optional
            Cost per candidate; a route without one is free.
        cost_weight : float, default 0.0
            What a unit of cost is worth in quality.
        explore : bool, default False
            Thompson sampling: draw every expectation from its uncertainty before comparing, as
            far as trying the route can settle it (see :meth:`Levels.at_stake`).
        note : bool, default True
            Whether a draw moves the random generator on; if not, the router stays as it is.

        Raises
        ------
        RangeError
            If there is no candidate.
        """
        number = self._number
        outlook = self._outlook or self._look_ahead()
        means, doubts = outlook.expect(embedding, self._ask_model) or self._refuse()
        expected: dict[str, float] = {}
        uncertainty: dict[str, float] = {}
        for name in number if routes is None else routes:
            if name in number:
                expected[name], uncertainty[name] = means[number[name]], doubts[number[name]]
            else:
                expected[name], uncertainty[name] = self._stranger()
        if not expected:
            raise RangeError("`routes` must name at least one route; none was observed so far")
        utility = list(expected.values())
        if costs is not None and cost_weight != 0.0:
            utility = [worth - cost_weight * costs.get(n, 0.0) for n, worth in expected.items()]
        best = chosen = utility.index(max(utility))
        if explore:
            rng = self._rng if note else copy.deepcopy(self._rng)
            drawn = [
                self._levels.at_stake(number[name], doubt) if name in number else doubt
                for name, doubt in uncertainty.items()
            ]
            chosen = int(rng.normal(utility, drawn).argmax())
        return Choice(list(expected)[chosen], expected, uncertainty, chosen != best)

    def handed_on(self, only: NDArray[np.bool_] | None = None) -> Router:
        """Return what a new agent starts with: the model, and a sample of the memory.

        Everything is kept up to 4,096 remembered outcomes; of more, evenly spaced ones. `only`
        marks the rows of :attr:`memory` that may be among them.
        """
        self._look_up()
        buffer = self._buffer
        oldest_first = np.argsort(buffer.columns("order"), kind="stable")
        if only is not None:
            oldest_first = oldest_first[only[oldest_first]]
        count = len(oldest_first)
        picked = np.linspace(0, count - 1, min(count, _HANDED_ON)).astype(np.int64)
        rows = oldest_first[picked]
        arrays = self.arrays()
        for name in ("route", "quality", "weight", "length", "fitted"):
            arrays[f"memory.{name}"] = buffer.columns(name)[rows].copy()
        learned = int((buffer.columns("order")[rows] < self._learned).sum())
        arrays["memory.order"] = np.arange(len(rows))
        arrays["memory.embeddings"] = buffer.embeddings[rows].copy()
        arrays["memory.seen"] = np.array([len(rows)])
        arrays["progress"] = np.array([learned, len(rows)])
        # A turn that is under way belongs to the rows that were left behind.
        arrays["levels.onset"] = np.zeros_like(arrays["levels.onset"])
        fresh = Router(self.dim, self.n_clusters, buffer.capacity, self.seed)
        fresh.restore(arrays, self.facts())
        return fresh

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return numbers, for saving."""
        self._look_up()
        # A decision asks the model when it needs to; what is saved must not depend on that.
        self._ask_model(np.arange(len(self._buffer)))
        parts = {
            "memory": self._buffer.arrays(),
            "levels": self._levels.arrays(),
            "model": {} if self._model is None else self._model.arrays(),
        }
        named = {f"{part}.{name}": a for part, held in parts.items() for name, a in held.items()}
        return {
            **named,
            "selectivity": self._selectivity.state.copy(),
            "contest": self._contest.copy(),
            "width": np.array([self._width]),
            "progress": np.array([self._learned, self._next_look]),
        }

    def facts(self) -> dict[str, Any]:
        """Return names of routes and the state of the random generator, for saving."""
        state: Any = self._rng.bit_generator.state
        random = [hex(state["state"]["state"]), hex(state["state"]["inc"])]
        return {"routes": self.routes, "random": random}

    def restore(self, arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> None:
        """Become what :meth:`arrays` and :meth:`facts` described.

        What was remembered comes on top of this router's own capacity if it does not fit.

        Raises
        ------
        FormatError
            If they contradict each other or could not have been saved.
        """
        routes = [check_text("routes", name) for name in facts["routes"]]
        n = len(routes)
        require_stored(len(set(routes)) == n, f"a route twice: {routes}")
        buffer = TrajectoryBuffer.from_arrays(
            self.dim, self._buffer.capacity, wire.under(arrays, "memory.")
        )
        require_stored(bool((buffer.columns("route") < n).all()), "a row of an unknown route")
        model = wire.under(arrays, "model.")
        self._levels = Levels.from_arrays(wire.under(arrays, "levels."), n, buffer.seen)
        self._selectivity.state = stored(arrays, "selectivity", np.float64, (2,)).copy()
        require_stored(self._selectivity.state[1] > 0.0, "a selectivity of no rows")
        self._contest = stored(arrays, "contest", np.float64, (3,), 1e-12).copy()
        self._width = float(stored(arrays, "width", np.float64, (1,), min(WIDTHS), max(WIDTHS))[0])
        progress = stored(arrays, "progress", np.int64, (2,), 0).tolist()
        self._learned, self._next_look = progress
        require_stored(self._learned <= buffer.seen, "a model of rows yet to come")
        self._waiting = []
        self._model = OutcomeModel.from_arrays(model, self.dim, n) if model else None
        self._buffer = buffer
        self._outlook = None
        self._number = {name: number for number, name in enumerate(routes)}
        random: Any = self._rng.bit_generator.state
        state, increment = (int(number, 16) for number in facts["random"])
        require_stored(min(state, increment) >= 0 and max(state, increment) < 1 << 128, "no draws")
        random["state"] = {"state": state, "inc": increment}
        self._rng.bit_generator.state = random

    def _stranger(self) -> tuple[float, float]:
        """Expectation and deviation of a route that was never observed."""
        overall = self._levels.overall
        trust = self._memory_weight
        return overall * (1.0 - trust + trust * _NEVER_TRIED), 0.5

    def _ask_model(self, rows: _Ints) -> None:
        """Note what the model says of remembered rows, where it was not asked before."""
        buffer = self._buffer
        fitted = buffer.columns("fitted")
        fresh = rows[np.isnan(fitted[rows])]
        if not len(fresh):
            return
        fitted[fresh] = 0.0
        if self._model is None:
            return
        route = buffer.columns("route")[fresh]
        known = route < self._model.n_routes
        fresh, route = fresh[known], route[known]
        if len(fresh) < _ASKED_SINGLY:
            means = [self._model.expect(buffer.embeddings[row])[0] for row in fresh.tolist()]
        else:
            means = list(self._model.expect_many(buffer.embeddings[fresh]))
        for row, number, mean in zip(fresh.tolist(), route.tolist(), means, strict=True):
            fitted[row] = mean[number] - self._model.level[number]

    @property
    def _memory_weight(self) -> float:
        """Weight in [0, 1] of the memory expert.

        Where the log chose routes by the query, memory decides. Where it did not, logged outcomes
        are a fair sample and the smaller error tells: memory wins on queries so alike that one
        outcome foretells the next, the model wherever outcomes are mostly noise.
        """
        memory, model, _ = self._contest.tolist()
        fairly: float = (_CONTEST_LOST - memory / model) / (_CONTEST_LOST - _CONTEST_WON)
        return max(self._selectivity.weight, min(max(fairly, 0.0), 1.0))

    def _consider(self, route: int, turn: Turn) -> None:
        """Let precedents say whether a route has turned: a new topic is not a change of it.

        Where the outcomes since the onset are as far from what the route did on similar queries
        before, or at least half as far, it has turned; by how much, precedents say.
        """
        column = self._buffer.columns
        since = np.flatnonzero((column("route") == route) & (column("order") >= turn.onset))
        rows = since[np.linspace(0, len(since) - 1, min(len(since), _WITNESSES)).astype(np.int64)]
        k = len(since) + _PRECEDENTS
        near, similarities = self._buffer.nearest(self._buffer.embeddings[rows], k)
        before = np.full(len(rows), turn.onset)
        buffer = self._buffer
        mass, mean = _core.precedents(
            rows, before, near, similarities, buffer.whole, buffer.real, NEAREST, self._width
        )
        known = mass > _PRECEDENT_MASS
        if known.sum() < _QUORUM:
            return
        change = float((column("quality")[rows] - mean)[known].mean())
        if change * turn.mean > 0.5 * turn.mean**2:
            self._levels.restart(route, change, turn)
            self._shift(route, change)

    def _shift(self, route: int, change: float) -> None:
        """Judge what a route achieved before its last turn as if it had happened after."""
        column = self._buffer.columns
        old = (column("route") == route) & (column("order") < self._levels.onset[route])
        column("quality")[old] += change

    def _adopt(self, model: OutcomeModel) -> None:
        self._model = model
        column = self._buffer.columns
        route = column("route")
        mean = model.expect_many(self._buffer.embeddings)
        column("fitted")[:] = mean[np.arange(len(route)), route] - model.level[route]
        self._levels.rebase(model.level, model.count, model.noise)
        self._learned = self._buffer.seen
