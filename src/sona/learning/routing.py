"""Which route for this query: expected quality, how sure that is, what it costs.

Two experts and one question decide.

*Outcome*: the fitted :class:`~sona.learning.outcome.OutcomeModel`, corrected by how wrong it was
near the query. It extrapolates: what a route achieved elsewhere says something about here.
*Memory*: only what was tried near the query counts; a route that was never tried here is worth
little, however well it does elsewhere.

The question is how the routes in the log were chosen. Where the choice did not look at the query
(a random split), the outcome expert is right and by far the stronger. Where every query already
went to the route that suits it (intents, tools, a good policy), what a route achieved on its own
queries says nothing about others. No loss on logged outcomes can tell the two apart, because
only chosen routes have outcomes; but the log shows it: :class:`_Selectivity` measures how much
better the route is predicted by the neighbours of the query than by its overall share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona.errors import RangeError
from sona.learning.buffer import TrajectoryBuffer
from sona.learning.outcome import PRIOR_OUTCOMES, OutcomeModel, Points
from sona.types import FloatArray

__all__ = ["Choice", "Router"]

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]

_NEIGHBOURS = 64
#: The kernel's width is set by the similarity of this neighbour, so that it fits every embedding
#: and narrows as memory fills.
_WIDTH_NEIGHBOUR = 16
_WIDTH = 0.1
_MEMORY_PRIOR = 0.05
_RESIDUAL_PRIOR = 10.0
#: A neighbour that the model has not learned from counts wherever it is: 20 of them weigh as
#: much as the prior.
_FRESH_WEIGHT = _RESIDUAL_PRIOR / PRIOR_OUTCOMES
_NEVER_TRIED = 0.4
# Rows of memory that go with a warm start; the model carries what older ones taught.
_HANDED_ON = 4_000
_EDGE = 0.05
#: Outcomes that may wait before levels, drift and selectivity take them in.
_FOLD = 256


class Choice(NamedTuple):
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
    :meth:`observe` costs a copy of the embedding and acts on the next decision.
    :meth:`learn` is the background's part. Not thread-safe.

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
        self._folded = 0
        self._levels = _Levels()
        self._drift = _Drift()
        self._selectivity = _Selectivity()

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
        return self.pending >= max(64, self._learned // 2)

    @property
    def memory(self) -> TrajectoryBuffer:
        """What is remembered; read only."""
        return self._buffer

    @property
    def selectivity(self) -> float:
        """Weight in [0, 1] of the memory expert; see the module."""
        self._fold()
        return self._selectivity.weight

    def observe(
        self, embedding: FloatArray, route: str, quality: float, weight: float = 1.0
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
        """
        number = self._number.setdefault(route, len(self._number))
        self._buffer.append(embedding, number, quality, weight)
        if self._buffer.seen - self._folded >= _FOLD:
            self._fold()

    def learn(self) -> None:
        """Fit the outcome model to everything remembered; the background's part."""
        self._fold()
        if not len(self._buffer):
            return
        column = self._buffer.columns
        for route, change in self._levels.settle():
            self._shift(route, change)
        points = Points(
            self._buffer.embeddings, column("route"), column("quality"), column("weight")
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
        self._fold()
        n = len(self._number)
        level, level_variance = self._levels.current(n)
        expected, variance = level.copy(), level_variance
        if self._model is not None:
            known = self._model.n_routes
            mean, posterior = self._model.expect(embedding)
            expected[:known] += mean - self._model.level
            variance[:known] = posterior + variance[:known]
        if not len(self._buffer):
            return _inside(expected), np.sqrt(variance)
        near = _Near(self._buffer, embedding)
        weight = near.kernel + np.where(near.order >= self._learned, _FRESH_WEIGHT, 0.0) * near.mass
        error = near.quality - near.fitted - level[near.route]
        support = np.bincount(near.route, weight, n) + _RESIDUAL_PRIOR
        expected += np.bincount(near.route, weight * error, n) / support
        variance = variance * (_RESIDUAL_PRIOR / support)
        trust = self._selectivity.weight
        if trust > 0.0:
            local, doubt = self._remembered(near, n)
            variance = (
                (1 - trust) * variance
                + trust * doubt
                + trust * (1 - trust) * np.square(expected - local)
            )
            expected += trust * (local - expected)
        return _inside(expected), np.sqrt(variance)

    def decide(
        self,
        embedding: FloatArray,
        routes: Sequence[str] | None = None,
        costs: Mapping[str, float] | None = None,
        cost_weight: float = 0.0,
        explore: bool = False,
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
            Thompson sampling: draw every expectation from its uncertainty before comparing.

        Raises
        ------
        RangeError
            If there is no candidate.
        """
        names = list(self._number if routes is None else routes)
        if not names:
            raise RangeError("`routes` must name at least one route; none was observed so far")
        everything, doubts = self.expect(embedding)
        numbers = [self._number.get(name, -1) for name in names]
        stranger, strange = self._stranger()
        expected = np.append(everything, stranger)[numbers]
        deviation = np.append(doubts, strange)[numbers]
        utility = expected
        if costs is not None and cost_weight != 0.0:
            utility = expected - cost_weight * np.array([costs.get(name, 0.0) for name in names])
        best = chosen = int(utility.argmax())
        if explore:
            chosen = int(self._rng.normal(utility, deviation).argmax())
        return Choice(
            names[chosen],
            dict(zip(names, expected.tolist(), strict=True)),
            dict(zip(names, deviation.tolist(), strict=True)),
            chosen != best,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all numbers, for saving; :meth:`facts` is the rest."""
        self._fold()
        state = {f"memory.{name}": array for name, array in self._buffer.arrays().items()}
        if self._model is not None:
            state.update({f"model.{k}": array for k, array in self._model.arrays().items()})
        levels = self._levels
        rows = [levels.prior, levels.trust, levels.total, levels.count, levels.onset]
        state["levels"] = np.array(rows, np.float64).reshape(5, -1)
        state["overall"] = np.array([levels.sum, levels.seen, levels.squares])
        state["turned"] = np.array(sorted(levels.turned), np.int64)
        state["drift.sums"] = np.array(self._drift.sums, np.float64).reshape(-1, 2)
        state["drift.runs"] = np.array(self._drift.runs, np.float64).reshape(-1, 2, 3)
        state["selectivity"] = np.array([self._selectivity.gain, self._selectivity.rows])
        state["learned"] = np.array([self._learned, self._folded], np.int64)
        return state

    def handed_on(self) -> Router:
        """Return a router for a new owner: the fitted model and the newest of the memory."""
        arrays = self.arrays()
        newest = np.argsort(arrays["memory.order"], kind="stable")[-_HANDED_ON:]
        for name in ("route", "quality", "weight", "fitted", "embeddings"):
            arrays[f"memory.{name}"] = arrays[f"memory.{name}"][newest]
        rows = len(newest)
        arrays["memory.order"] = np.arange(rows)
        arrays["memory.seen"] = np.array([rows])
        # What the model has learned from counts as learned, so that the new owner's own
        # outcomes stand out as fresh.
        arrays["learned"] = np.array([rows if self._model is not None else 0, rows])
        arrays["levels"][4] = 0
        router = Router(self.dim, self.n_clusters, max(rows, 1), self.seed)
        router.restore(arrays, self.facts())
        return router

    def facts(self) -> dict[str, Any]:
        """Return texts and the state of the random generator, for saving."""
        return {
            "routes": self.routes,
            "capacity": self._buffer.capacity,
            "rng": _plain(self._rng.bit_generator.state),
        }

    def restore(self, arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> None:
        """Become what :meth:`arrays` and :meth:`facts` described.

        Memory keeps at least as many rows as it is given, whatever `capacity` says.
        """
        memory = {k[7:]: v for k, v in arrays.items() if k.startswith("memory.")}
        model = {k[6:]: v for k, v in arrays.items() if k.startswith("model.")}
        capacity = max(self._buffer.capacity, facts["capacity"])
        self._buffer = TrajectoryBuffer.from_arrays(self.dim, capacity, memory)
        self._number = {name: number for number, name in enumerate(facts["routes"])}
        self._rng.bit_generator.state = _plain(facts["rng"], parse=True)
        self._model = OutcomeModel(model) if model else None
        levels = self._levels = _Levels()
        levels.prior, levels.trust, levels.total, levels.count = (
            row.copy() for row in arrays["levels"][:4]
        )
        levels.onset = arrays["levels"][4].astype(np.int64)
        levels.sum, levels.seen, levels.squares = arrays["overall"].tolist()
        levels.turned = set(arrays["turned"].tolist())
        self._drift = _Drift()
        self._drift.sums = arrays["drift.sums"].tolist()
        self._drift.runs = arrays["drift.runs"].tolist()
        self._selectivity.gain, self._selectivity.rows = arrays["selectivity"].tolist()
        self._learned, self._folded = arrays["learned"].tolist()

    def _stranger(self) -> tuple[float, float]:
        """Expectation and deviation of a route that was never observed."""
        overall = self._levels.overall
        trust = self._selectivity.weight
        return overall * (1.0 - trust + trust * _NEVER_TRIED), 0.5

    def _remembered(self, near: _Near, n: int) -> tuple[_Floats, _Floats]:
        """The memory expert: kernel mean of what was tried near, low where nothing was."""
        low = _NEVER_TRIED * self._levels.overall
        mass = np.bincount(near.route, near.kernel, n)
        support = mass + _MEMORY_PRIOR
        quality = np.clip(near.quality, 0.0, 1.0)
        mean = (np.bincount(near.route, near.kernel * quality, n) + _MEMORY_PRIOR * low) / support
        squares = np.bincount(near.route, np.square(near.kernel) / near.mass, n)
        voices = np.square(mass) / np.maximum(squares, 1e-300)
        smoothed = (mean * voices + 0.5) / (voices + 1.0)
        sampling = smoothed * (1.0 - smoothed) / (voices + 1.0)
        return mean, sampling

    def _fold(self) -> None:
        """Let what was observed since the last call reach levels, drift and selectivity."""
        buffer = self._buffer
        if self._folded == buffer.seen:
            return
        buffer.flush()
        first = max(self._folded, buffer.seen - buffer.capacity)
        rows = np.arange(first, buffer.seen) % buffer.capacity
        route, quality, weight = (
            buffer.columns(name)[rows] for name in ("route", "quality", "weight")
        )
        fitted = np.zeros(len(rows))
        if self._model is not None:
            known = np.flatnonzero(route < self._model.n_routes)
            if len(known):
                mean = self._model.expect_many(buffer.embeddings[rows[known]])
                mine = route[known]
                fitted[known] = mean[np.arange(len(known)), mine] - self._model.level[mine]
        buffer.columns("fitted")[rows] = fitted
        self._levels.grow(len(self._number))
        self._drift.grow(len(self._number))
        for i in range(len(rows)):
            r = int(route[i])
            error = quality[i] - fitted[i] - self._levels.of(r)
            self._levels.add(r, quality[i] - fitted[i], weight[i])
            turn = self._drift.add(r, error / self._levels.scatter, error, first + i)
            if turn is not None:
                change = turn.mean
                self._levels.restart(r, change, turn.count, turn.onset)
                self._shift(r, change)
        self._selectivity.add(buffer, rows, len(self._number))
        self._folded = buffer.seen

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


def _inside(expected: _Floats) -> _Floats:
    """Bend what a linear model says into (0, 1), keeping the order: clipping would make ties."""
    low = _EDGE * np.exp(np.minimum(expected / _EDGE - 1.0, 0.0))
    high = 1.0 - _EDGE * np.exp(np.minimum((1.0 - expected) / _EDGE - 1.0, 0.0))
    return np.where(expected < _EDGE, low, np.where(expected > 1.0 - _EDGE, high, expected))


def _plain(state: Any, *, parse: bool = False) -> Any:
    """Generator state with its 128-bit integers as text, which JSON readers keep whole."""
    if isinstance(state, dict):
        return {key: _plain(value, parse=parse) for key, value in state.items()}
    if parse:
        return int(state) if isinstance(state, str) and state.isdigit() else state
    return str(state) if isinstance(state, int) else state


class _Near:
    """The nearest remembered rows of a query, with their kernel."""

    def __init__(self, buffer: TrajectoryBuffer, embedding: FloatArray) -> None:
        rows, similarities = buffer.nearest(embedding, _NEIGHBOURS)
        self.route: _Ints = buffer.columns("route")[rows]
        self.quality: _Floats = buffer.columns("quality")[rows]
        self.fitted: _Floats = buffer.columns("fitted")[rows]
        self.mass: _Floats = buffer.columns("weight")[rows]
        self.order: _Ints = buffer.columns("order")[rows]
        distance = 1.0 - similarities.astype(np.float64)
        width = _WIDTH * distance[min(_WIDTH_NEIGHBOUR, len(distance)) - 1]
        self.kernel: _Floats = self.mass * np.exp(-distance / max(width, 1e-4))


class _Levels:
    """Mean quality per route, given what the model says about each query."""

    def __init__(self) -> None:
        self.prior = np.empty(0)
        self.trust = np.empty(0)
        self.total = np.empty(0)
        self.count = np.empty(0)
        self.onset = np.empty(0, np.int64)
        self.turned: set[int] = set()
        self.sum = 1.0
        self.seen = 2.0
        self.squares = 0.25

    @property
    def overall(self) -> float:
        """Mean quality over all routes; one half before the first outcome."""
        return float(self.sum / self.seen)

    @property
    def scatter(self) -> float:
        """Standard deviation of outcomes around what was expected."""
        return float(max(np.sqrt(self.squares / self.seen), 0.05))

    def grow(self, n: int) -> None:
        more = n - len(self.total)
        if more > 0:
            self.prior = np.append(self.prior, np.full(more, np.nan))
            self.trust = np.append(self.trust, np.full(more, PRIOR_OUTCOMES))
            self.total = np.append(self.total, np.zeros(more))
            self.count = np.append(self.count, np.zeros(more))
            self.onset = np.append(self.onset, np.zeros(more, np.int64))

    def of(self, route: int) -> float:
        prior = self.prior[route]
        if prior != prior:
            prior = self.sum / self.seen
        trust = self.trust[route]
        return float((self.total[route] + trust * prior) / (self.count[route] + trust))

    def current(self, n: int) -> tuple[_Floats, _Floats]:
        prior = np.where(np.isnan(self.prior), self.overall, self.prior)
        known = np.isfinite(self.prior)
        level = (self.total + self.trust * prior) / (self.count + self.trust)
        # The variance of a level that came with the model is part of the model's own.
        behind = np.where(known, np.inf, self.count + 1.0)
        return level, self.scatter**2 / behind

    def add(self, route: int, quality: float, weight: float) -> None:
        error = quality - self.of(route)
        self.total[route] += weight * quality
        self.count[route] += weight
        self.sum += weight * quality
        self.seen += weight
        self.squares += weight * error * error

    def restart(self, route: int, change: float, count: int, onset: int) -> None:
        """A route has turned: go by the outcomes since `onset`."""
        self.prior[route] = self.of(route) + change
        self.trust[route] = count
        self.total[route] = self.count[route] = 0.0
        self.onset[route] = onset
        self.turned.add(route)

    def settle(self) -> list[tuple[int, float]]:
        """Routes that turned since the last call, and how far they have moved since."""
        moved = [(route, self.of(route) - float(self.prior[route])) for route in self.turned]
        self.turned.clear()
        return moved

    def rebase(self, level: _Floats, count: _Floats, noise: float) -> None:
        self.prior = level.copy()
        self.trust = count + PRIOR_OUTCOMES
        self.total = np.zeros(len(level))
        self.count = np.zeros(len(level))
        self.onset = np.zeros(len(level), np.int64)
        self.squares = noise * self.seen


class _Turn(NamedTuple):
    mean: float
    count: int
    onset: int


class _Drift:
    """Notice when a route turns better or worse: a two-sided CUSUM of scaled errors.

    With slack 1/2 and threshold 12 a drop by one standard deviation or more is noticed after some
    24 outcomes, while steady ones raise an alarm once in some hundred thousand.

    References
    ----------
    E. S. Page, "Continuous inspection schemes", Biometrika 41, 1954.
    """

    slack, threshold, limit = 0.5, 12.0, 2.0

    def __init__(self) -> None:
        self.sums: list[list[float]] = []
        self.runs: list[list[list[float]]] = []

    def grow(self, n: int) -> None:
        while len(self.sums) < n:
            self.sums.append([0.0, 0.0])
            self.runs.append([[0, 0.0, 0], [0, 0.0, 0]])

    def add(self, route: int, scaled: float, error: float, order: int) -> _Turn | None:
        sums, runs = self.sums[route], self.runs[route]
        scaled = min(max(scaled, -self.limit), self.limit)
        for side, sign in enumerate((1.0, -1.0)):
            total = sums[side] + sign * scaled - self.slack
            if total <= 0.0:
                sums[side] = 0.0
                runs[side] = [0, 0.0, order + 1]
                continue
            sums[side] = total
            run = runs[side]
            run[0] += 1
            run[1] += error
            if total > self.threshold:
                turn = _Turn(run[1] / run[0], int(run[0]), int(run[2]))
                self.sums[route] = [0.0, 0.0]
                self.runs[route] = [[0, 0.0, order + 1], [0, 0.0, order + 1]]
                return turn
        return None


class _Selectivity:
    """How far the logged choice of a route looked at the query.

    The gain in log-likelihood, in nats, when the route of an outcome is predicted from the routes
    of the 16 nearest others instead of from overall shares; a decaying mean, because policies
    change. It starts at one nat: until the log shows otherwise, a route is taken to have been
    tried where it was thought to work. A random log has a negative gain after a few dozen rows.
    """

    neighbours, prior, half_life = 16, 4.0, 1000.0
    low, high = 0.1, 0.3

    def __init__(self) -> None:
        self.gain = 20.0
        self.rows = 20.0

    @property
    def weight(self) -> float:
        gain = self.gain / self.rows
        return float(min(max((gain - self.low) / (self.high - self.low), 0.0), 1.0))

    def add(self, buffer: TrajectoryBuffer, rows: _Ints, n_routes: int) -> None:
        if n_routes < 2:
            return
        if buffer.seen > self.half_life:
            rows = rows[rows % 4 == 0]
        if not len(rows):
            return
        route, weight = buffer.columns("route"), buffer.columns("weight")
        found, _ = buffer.nearest(buffer.embeddings[rows], self.neighbours + 1)
        totals = np.bincount(route, weight, n_routes)
        for row, near in zip(rows, found, strict=True):
            others = near[near != row][: self.neighbours]
            if not len(others):
                continue
            mine = route[row]
            share = (totals[mine] - weight[row] + 1.0) / (totals.sum() - weight[row] + n_routes)
            agree = float((route[others] == mine).sum())
            local = (agree + self.prior * share) / (len(others) + self.prior)
            fade = 0.5 ** (1.0 / self.half_life)
            self.gain = fade * self.gain + np.log(local / share)
            self.rows = fade * self.rows + 1.0
