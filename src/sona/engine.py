"""The engine: wires router, bank and adapters into two loops, and holds the lock."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from sona import _core, state, wire
from sona.checks import check_count, check_number, check_text
from sona.config import SonaConfig
from sona.errors import ConfigError, DTypeError, FormatError, RangeError, ShapeError
from sona.learning.adaptation import Adaptation, Fitted
from sona.learning.layer import LayerMemory
from sona.learning.lora import BaseLoRA, MicroLoRA
from sona.learning.routing import Router
from sona.learning.sketch import Sketch
from sona.learning.stored import require_stored
from sona.learning.trajectory import TrajectoryBuilder
from sona.state import EngineState
from sona.types import (
    ArrayLike,
    EngineStats,
    FloatArray,
    LayerKey,
    LearnedPattern,
    LearnResult,
    RouteDecision,
    Step,
    Trajectory,
)

__all__ = ["SonaEngine"]

# Patterns that a decision reports.
_SHOWN = 5
# The key under which the adapters know the layer that queries pass through.
_QUERY_LAYER = 0


class SonaEngine:
    """Learns from outcomes while it serves: which route suits a query, and how to adapt to it.

    Parameters
    ----------
    config : SonaConfig, optional
        Settings; the defaults if not given.

    Notes
    -----
    Safe to use from several threads: changes take turns under one lock; adapters are applied
    without it, so a request never waits for the background loop to apply one. An engine is not
    shared between processes; send :meth:`to_bytes` instead.

    Examples
    --------
    >>> from sona import SonaConfig, SonaEngine
    >>> engine = SonaEngine(SonaConfig(hidden_dim=2))
    >>> for query, route, quality in [
    ...     ([1, 0], "small", 0.9),
    ...     ([0, 1], "small", 0.2),
    ...     ([0, 1], "large", 0.9),
    ... ]:
    ...     trajectory = engine.begin_trajectory(query)
    ...     trajectory.set_model_route(route)
    ...     _ = engine.end_trajectory(trajectory, quality)
    >>> engine.route([1, 0.1]).route, engine.route([0.1, 1]).route
    ('small', 'large')
    >>> engine.force_learn().trajectories_processed
    3
    """

    def __init__(self, config: SonaConfig | None = None) -> None:
        if config is not None and not isinstance(config, SonaConfig):
            raise DTypeError(f"`config` must be a SonaConfig; got {type(config).__name__}")
        self._config = config = SonaConfig() if config is None else config
        self._dim = config.embedding_dim_
        self._adapts_queries = config.hidden_dim == config.embedding_dim_
        self._learns_at_once = self._adapts_queries and config.micro_lora_lr > 0.0
        self._threshold = config.quality_threshold
        self._lock = threading.RLock()
        self._unit = np.empty(self._dim, np.float32)  # of the query that is being decided
        self._enabled = True
        self._router = Router(
            self._dim, config.pattern_clusters, config.trajectory_capacity, config.seed
        )
        self._queries = self._new_layer(self._dim)
        self._adaptation = self._new_adaptation(config.base_lora_rank)
        self._identity = _core.LowRankAdapter(config.hidden_dim, 1)
        self._layers: dict[str, LayerMemory] = {}
        self._generation = 0
        self._tally = _Tally()
        self._last_cycle = time.monotonic()

    @property
    def config(self) -> SonaConfig:
        """The settings that the engine was made with."""
        return self._config

    @property
    def enabled(self) -> bool:
        """Whether the engine learns. While False it decides as before and records nothing."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise DTypeError(f"`enabled` must be a bool; got {value!r}")
        self._enabled = value

    # Recording

    def begin_trajectory(self, embedding: ArrayLike) -> TrajectoryBuilder:
        """Start recording a request.

        Parameters
        ----------
        embedding : array_like of shape (embedding_dim,)
            The query; copied. Its length does not matter, its direction does.

        Raises
        ------
        ShapeError, DTypeError, NonFiniteError
            If the embedding is refused.
        """
        x = _core.as_vector(embedding, self._dim, "embedding")
        return TrajectoryBuilder(x.copy(), self._config.hidden_dim, self)

    def end_trajectory(self, trajectory: TrajectoryBuilder, quality: float) -> Trajectory | None:
        """Finish a request and learn from its outcome, in the caller's thread.

        Parameters
        ----------
        trajectory : TrajectoryBuilder
            From :meth:`begin_trajectory` of this engine; each can end once.
        quality : float
            Outcome in [0, 1]; higher is better.

        Returns
        -------
        Trajectory or None
            What was recorded; None while the engine is switched off.

        Raises
        ------
        BuilderError
            If the builder has ended before or belongs to another engine.
        RangeError, NonFiniteError, DTypeError
            If the quality is refused; the builder stays open and the engine is as it was.
        """
        if not isinstance(trajectory, TrajectoryBuilder):
            raise DTypeError(
                "`trajectory` must come from begin_trajectory; got " + type(trajectory).__name__
            )
        built = trajectory.build(self, quality)
        learned = self.absorb(built.embedding, built.quality, built.route, built.steps)
        return built if learned else None

    def submit_trajectory(self, trajectory: Trajectory) -> None:
        """Learn from a finished trajectory that was built elsewhere.

        Parameters
        ----------
        trajectory : Trajectory
            Its arrays are kept, not copied.

        Raises
        ------
        ShapeError, DTypeError, NonFiniteError, RangeError
            If a value is refused; the engine is as it was.
        """
        hidden_dim, route = self._config.hidden_dim, trajectory.route
        self.absorb(
            _core.as_vector(trajectory.embedding, self._dim, "trajectory.embedding"),
            check_number("trajectory.quality", trajectory.quality, 0.0, 1.0),
            route if route is None else check_text("trajectory.route", route),
            [
                Step(
                    _core.as_vector(step.activations, hidden_dim, "trajectory.steps"),
                    check_number("trajectory.steps", step.reward, 0.0, 1.0),
                    step.layer,
                )
                for step in trajectory.steps
            ],
        )

    def submit_sketch(self, summary: Sketch) -> None:
        """Learn from what many outcomes amount to; adapters learn nothing from it.

        Parameters
        ----------
        summary : Sketch
            From :func:`sona.learning.sketch.sketch`; its numbers are taken as they are.

        Raises
        ------
        ShapeError
            If it has another dimension; the engine is as it was.
        """
        if summary.dim != self._dim:
            raise ShapeError(f"`summary` must have dimension {self._dim}; got {summary.dim}")
        if not self._enabled:
            return
        with self._lock:
            threshold = self._config.quality_threshold
            self._router.absorb(summary)
            self._queries.bank.absorb(summary, threshold)
            for _, _, quality, count in summary.outcomes():
                self._tally.count(quality, quality >= threshold, int(count))

    def absorb(
        self, embedding: FloatArray, quality: float, route: str | None, steps: Sequence[Step]
    ) -> bool:
        """Learn from the parts of a trajectory that were checked already; False if switched off."""
        if not self._enabled:
            return False
        with self._lock:
            self._absorb(embedding, quality, route, steps)
        return True

    # Adapting

    def apply_micro_lora(self, x: ArrayLike, out: FloatArray | None = None) -> FloatArray:
        """Adapt hidden states with micro-LoRA.

        Parameters
        ----------
        x : array_like of shape (hidden_dim,) or (n, hidden_dim)
        out : ndarray of the shape of `x`, float32, optional
            Receives the result; may be `x` itself.

        Returns
        -------
        ndarray of the shape of `x`, float32
            ``x + scaling * (x A) B``, residual included.

        Raises
        ------
        ShapeError, DTypeError, NonFiniteError
            If an argument is refused.
        """
        return self._adaptation.micro.apply(x, out)

    def apply_base_lora(
        self, layer: LayerKey, x: ArrayLike, out: FloatArray | None = None
    ) -> FloatArray:
        """Adapt hidden states with the base-LoRA of a layer.

        Parameters
        ----------
        layer : int or str
            As given to :meth:`TrajectoryBuilder.add_step`. Layer 0 is the query layer, unless
            steps brought activations of their own to it. A layer that has learned nothing
            changes nothing.
        x : array_like of shape (hidden_dim,) or (n, hidden_dim)
        out : ndarray of the shape of `x`, float32, optional
            Receives the result; may be `x` itself.

        Returns
        -------
        ndarray of the shape of `x`, float32
            Residual included.

        Raises
        ------
        ShapeError, DTypeError, NonFiniteError
            If an argument is refused.
        """
        base = self.base_lora(layer)
        return (self._identity if base is None else base).apply(x, out)

    @property
    def micro_lora(self) -> MicroLoRA:
        """Micro-LoRA itself, live: what it learns shows in it."""
        return self._adaptation.micro

    def base_lora(self, layer: LayerKey) -> BaseLoRA | None:
        """Return the base-LoRA of a layer itself, live; None while the layer is unknown.

        Parameters
        ----------
        layer : int or str
            As for :meth:`apply_base_lora`.

        Raises
        ------
        DTypeError
            If it is neither.
        """
        if isinstance(layer, bool) or not isinstance(layer, int | str):
            raise DTypeError(f"`layer` must be an int or a string; got {layer!r}")
        # No lock: a background cycle holds it for seconds, and adapters may be read meanwhile.
        if _layer_key(layer) in self._layers:
            return self._adaptation.base(_layer_key(layer))
        if layer == 0 and self._adapts_queries:
            return self._adaptation.base(_QUERY_LAYER)
        return None

    def set_base_lora(
        self, layer: LayerKey, lora_A: ArrayLike, lora_B: ArrayLike, scaling: float = 1.0
    ) -> None:
        """Give a layer the base-LoRA that was trained elsewhere; it goes on learning from there.

        Parameters
        ----------
        layer : int or str
        lora_A, lora_B : array_like of shapes (rank, hidden_dim) and (hidden_dim, rank)
            At most ``base_lora_rank``; directions that are left over start as those of a new
            adapter and have no effect yet.
        scaling : float, default 1.0

        Raises
        ------
        RangeError, ShapeError, DTypeError, NonFiniteError
            If an argument is refused; the engine is as it was.
        """
        scaling = check_number("scaling", scaling, -1e12, 1e12)
        with self._lock:
            base, memory = self.base_lora(layer), None
            if base is None:
                base = self._adaptation.base(_layer_key(layer))
                memory = self._new_layer(self._config.hidden_dim)
            base.become(lora_A, lora_B, scaling)
            if memory is not None:
                self._layers[_layer_key(layer)] = memory
                self._generation += 1

    @property
    def generation(self) -> int:
        """Rises when adapters were added or replaced: look them up again."""
        return self._generation

    # Deciding

    def route(
        self,
        embedding: ArrayLike,
        routes: Sequence[str] | None = None,
        costs: Mapping[str, float] | None = None,
        cost_weight: float = 0.0,
        explore: bool = False,
        *,
        n_patterns: int = _SHOWN,
    ) -> RouteDecision:
        """Choose a route for a query.

        Parameters
        ----------
        embedding : array_like of shape (embedding_dim,)
            The query.
        routes : sequence of str, optional
            Candidates, also ones that were never tried; all that were recorded if not given.
        costs : mapping of str to float, optional
            Cost of each candidate, in any unit, at least 0.
        cost_weight : float, default 0.0
            What one unit of cost is worth in quality; the choice maximises expected quality
            less ``cost_weight`` times cost.
        explore : bool, default False
            Draw expectations from their uncertainty before comparing (Thompson sampling), so
            that routes which may turn out better are tried.
        n_patterns : int, default 5
            Most patterns that the decision shows; 0 spares the search for them.

        Returns
        -------
        RouteDecision

        Raises
        ------
        RangeError
            If there is no candidate, a name is refused, a candidate's cost is missing or
            negative, or `n_patterns` is negative.
        ShapeError, DTypeError, NonFiniteError
            If the embedding or a number is refused.
        """
        names, prices = _candidates(routes, costs)
        cost_weight = check_number("cost_weight", cost_weight, 0.0, 1e12)
        n_patterns = check_count("n_patterns", n_patterns, 0)
        with self._lock:
            unit = _core.as_unit(embedding, self._dim, "embedding", self._unit)
            if prices is not None:
                _check_complete(prices, self._router.routes if names is None else names)
            choice = self._router.decide(
                unit, names, prices, cost_weight, explore, note=self._enabled
            )
            patterns = []
            if n_patterns:
                adapted = self._adapt(unit)
                patterns = self._queries.bank.search(adapted, n_patterns, note=self._enabled)
        return RouteDecision(
            choice.route, choice.expected, choice.uncertainty, choice.explored, patterns
        )

    def prepare(self) -> None:
        """Do now what the next decision would have to do first.

        For who learns where nobody waits and decides where somebody does. It changes no decision.
        """
        with self._lock:
            self._router.prepare()

    def find_patterns(self, query: ArrayLike, k: int = 5) -> list[LearnedPattern]:
        """Return the patterns nearest to the adapted query, best first.

        Parameters
        ----------
        query : array_like of shape (embedding_dim,)
        k : int, default 5
            At least 1; fewer come back where the bank holds fewer.

        Returns
        -------
        list of LearnedPattern
            With :attr:`~LearnedPattern.similarity` set.

        Raises
        ------
        ShapeError, DTypeError, NonFiniteError, RangeError
            If an argument is refused.
        """
        unit = _core.as_unit(query, self._dim, "query")
        k = check_count("k", k)
        adapted = self._adapt(unit)
        with self._lock:
            return self._queries.bank.search(adapted, k, note=self._enabled)

    @property
    def patterns(self) -> list[LearnedPattern]:
        """All patterns, in order of id."""
        with self._lock:
            return self._queries.bank.patterns()

    def pattern_ids(self, embeddings: ArrayLike) -> NDArray[np.int64]:
        """Return the pattern that each request falls in, by its direction before adaptation.

        Parameters
        ----------
        embeddings : array_like of shape (n, embedding_dim)

        Returns
        -------
        ndarray of shape (n,), int64
            Ids; -1 while there is no pattern.
        """
        rows = _core.as_matrix(embeddings, self._dim, "embeddings")
        with self._lock:
            return self._queries.bank.ids_of(rows)

    # Background loop

    def tick(self) -> LearnResult | None:
        """Run a background cycle if one is due; None otherwise.

        A cycle is due when something was recorded since the last one and either
        ``background_interval_ms`` have passed or so much is new that learning pays.
        """
        if not self._enabled:
            return None
        with self._lock:
            waited_ms = 1e3 * (time.monotonic() - self._last_cycle)
            interval_over = waited_ms >= self._config.background_interval_ms
            if not self._tally.pending or not (interval_over or self._router.due):
                return None
            return self.force_learn()

    def force_learn(self) -> LearnResult:
        """Run a background cycle now.

        Returns
        -------
        LearnResult
            What it did; zeros where nothing was new or the engine is switched off.

        Notes
        -----
        Takes a few seconds per 10,000 remembered trajectories of 384 dimensions. Other threads
        wait to record and to decide meanwhile; applying an adapter does not wait.
        """
        start = time.perf_counter()
        with self._lock:
            bank = self._queries.bank
            before = len(bank)
            if not self._enabled or not self._tally.pending:
                return LearnResult(patterns_before=before, patterns_after=before)
            processed, accepted = self._tally.pending, self._tally.pending_accepted
            self._tally.pending = self._tally.pending_accepted = 0
            self._router.learn()
            selectivity = self._router.selectivity
            change = self._queries.learn(selectivity)
            fitted = []
            if self._adapts_queries:
                fitted.append(self._fit(_QUERY_LAYER, self._queries))
            for key, memory in self._layers.items():
                memory.learn(selectivity)
                fitted.append(self._fit(key, memory))
            self._tally.cycles += 1
            self._last_cycle = time.monotonic()
            return LearnResult(
                trajectories_processed=processed,
                trajectories_accepted=accepted,
                patterns_before=before,
                patterns_after=len(bank),
                patterns_created=change.created,
                patterns_merged=change.merged,
                patterns_pruned=change.pruned,
                base_lora_updated=any(part.updated for part in fitted),
                ewc_updated=any(part.ewc_updated for part in fitted),
                loss_before=fitted[0].loss_before if fitted else None,
                loss_after=fitted[0].loss_after if fitted else None,
                elapsed_ms=1e3 * (time.perf_counter() - start),
            )

    # Looking at it, keeping it

    def stats(self) -> EngineStats:
        """Return the engine's counters."""
        with self._lock:
            tally = self._tally
            return EngineStats(
                trajectories_seen=tally.seen,
                trajectories_accepted=tally.accepted,
                trajectories_buffered=len(self._queries),
                trajectories_pending=tally.pending,
                trajectories_dropped=self._queries.dropped,
                patterns_stored=len(self._queries.bank),
                avg_quality=tally.quality / tally.seen if tally.seen else 0.0,
                instant_updates=tally.updates,
                background_cycles=tally.cycles,
                routes=self._queries.bank.route_stats(),
            )

    def to_bytes(self) -> bytes:
        """Return the whole engine as one message; :meth:`from_bytes` makes an equal one."""
        return self._state().to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> SonaEngine:
        """Make an engine from :meth:`to_bytes`.

        Raises
        ------
        FormatError
            If the bytes are not an engine's state, or damaged.
        """
        return cls._of(EngineState.from_bytes(data))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the whole engine to a file, durably and in one step.

        Whoever reads the file sees the old state or the new one, also after a crash.
        """
        state.write(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> SonaEngine:
        """Make an engine from a file that :meth:`save` wrote.

        Raises
        ------
        FormatError
            If the file is not an engine's state, or damaged.
        OSError
            If it cannot be read.
        """
        return cls.from_bytes(state.read(path))

    def knowledge(
        self, source: str, k: int | None = None, only: Collection[int] | None = None
    ) -> EngineState:
        """Return what another engine can start with: patterns, router, adapters; no counters.

        Parameters
        ----------
        source : str
            Who hands it on.
        k : int, optional
            Only the `k` largest patterns; all if not given.
        only : collection of int, optional
            Ids of the patterns that may be handed on, and with them remembered outcomes near
            them; all if not given.
        """
        check_text("source", source)
        if k is not None:
            k = check_count("k", k)
        with self._lock:
            queries = self._queries.handed_on(k, only)
            rows = None
            if only is not None:
                near = self._queries.bank.ids_of(self._router.memory.embeddings)
                rows = np.isin(near, np.array(sorted(only), np.int64))
            router = self._router.handed_on(rows)
            arrays = {
                "queries": queries.arrays(),
                "router": router.arrays(),
                "adapters": self._adaptation.arrays(),
            }
            parts = {
                "origin": {"source": source, "seen": self._tally.seen},
                "queries": queries.facts(),
                "router": router.facts(),
            }
            return EngineState.of(self._config, parts, arrays)

    def adopt(self, knowledge: EngineState) -> None:
        """Start with what :meth:`knowledge` returned; for an engine that has seen nothing yet.

        Raises
        ------
        ConfigError
            If this engine has already seen trajectories.
        FormatError
            If the parts do not fit this engine; it is as it was.
        """
        with self._lock:
            if self._tally.seen:
                raise ConfigError("`knowledge` must reach an engine before its first trajectory")
            fresh = type(self)(self._config)
            with _described():
                fresh._router.restore(knowledge.tensors_of("router"), knowledge.facts_of("router"))
                fresh._queries.restore(
                    knowledge.tensors_of("queries"), knowledge.facts_of("queries")
                )
                # Adapters come with the rank that they were trained at.
                fresh._adaptation = fresh._new_adaptation(knowledge.config.base_lora_rank)
                fresh._adaptation.restore(knowledge.tensors_of("adapters"))
            self._router, self._queries = fresh._router, fresh._queries
            self._adaptation = fresh._adaptation
            self._generation += 1

    def __repr__(self) -> str:
        return f"SonaEngine(dim={self._dim}, trajectories={self._tally.seen})"

    def __reduce__(self) -> Any:
        raise TypeError("an engine is not pickled; send engine.to_bytes() instead")

    # The two loops' inner parts; the caller holds the lock

    def _absorb(
        self, embedding: FloatArray, quality: float, route: str | None, steps: Sequence[Step]
    ) -> None:
        unit = _core.unit_rows(embedding)
        accepted = quality >= self._threshold
        memory = self._queries
        cells = memory.bank.cells
        learns = self._learns_at_once and cells.n > 1
        if learns:
            # Before the outcome is counted: the bank must not have seen what it is asked.
            values = memory.bank.expect(route)
            self._adaptation.learn(
                unit, cells.centroids, values, quality, cells.similarities, cells.spread
            )
        memory.observe(unit, route, quality, accepted, learns)
        if route is not None:
            self._router.observe(unit, route, quality)
        for step in steps:
            self._absorb_step(embedding, route, step)
        self._tally.updates += learns
        self._tally.count(quality, accepted)

    def _absorb_step(self, embedding: FloatArray, route: str | None, step: Step) -> None:
        layers = self._layers
        if not layers and step.activations is embedding and step.layer == 0:
            return
        key = _layer_key(step.layer)
        memory = layers.get(key)
        if memory is None:
            if step.layer == 0 and _core.same_vector(step.activations, embedding):
                return  # the state of layer 0 is the query itself, which was learned already
            memory = layers[key] = self._new_layer(self._config.hidden_dim)
            self._generation += 1
        accepted = step.reward >= self._threshold
        memory.observe(_core.unit_rows(step.activations), route, step.reward, accepted)

    def _fit(self, key: LayerKey, memory: LayerMemory) -> Fitted:
        if len(memory.bank) < 2 or not len(memory):  # nothing to tell apart, or to learn from
            return Fitted()
        remembered, fresh = memory.lessons()
        return self._adaptation.consolidate(fresh, memory.bank.centroids, key, remembered)

    def _adapt(self, unit: FloatArray) -> FloatArray:
        return _core.unit_rows(self._adaptation.apply(unit)) if self._adapts_queries else unit

    def _new_adaptation(self, base_rank: int) -> Adaptation:
        config = self._config
        return Adaptation(
            config.hidden_dim,
            config.micro_lora_rank,
            base_rank,
            config.micro_lora_lr,
            config.base_lora_lr,
            config.ewc_lambda,
            config.seed,
        )

    def _new_layer(self, dim: int) -> LayerMemory:
        config = self._config
        return LayerMemory(dim, config.pattern_clusters, config.trajectory_capacity, config.seed)

    def _state(self) -> EngineState:
        with self._lock:
            parts: dict[str, dict[str, Any]] = {
                "engine": {
                    "enabled": self._enabled,
                    "tally": msgspec.to_builtins(self._tally),
                    "layers": list(self._layers),
                    "base_rank": self._adaptation.base_rank,
                },
                "router": self._router.facts(),
                "queries": self._queries.facts(),
            }
            arrays = {
                "router": self._router.arrays(),
                "queries": self._queries.arrays(),
                "adapters": self._adaptation.arrays(),
            }
            for number, memory in enumerate(self._layers.values()):
                parts[f"layer{number}"] = memory.facts()
                arrays[f"layer{number}"] = memory.arrays()
            return EngineState.of(self._config, parts, arrays)

    @classmethod
    def _of(cls, saved: EngineState) -> SonaEngine:
        engine = cls(saved.config)
        with _described():
            own = saved.facts_of("engine")
            engine._enabled = bool(own["enabled"])
            engine._tally = tally = msgspec.convert(own["tally"], _Tally)
            require_stored(
                0.0 <= tally.quality <= 1.000001 * tally.seen, "more quality than outcomes"
            )
            engine._router.restore(saved.tensors_of("router"), saved.facts_of("router"))
            engine._queries.restore(saved.tensors_of("queries"), saved.facts_of("queries"))
            rank = saved.config.replace(base_lora_rank=own["base_rank"]).base_lora_rank
            engine._adaptation = engine._new_adaptation(rank)
            engine._adaptation.restore(saved.tensors_of("adapters"))
            for number, key in enumerate(msgspec.convert(own["layers"], list[str])):
                memory = engine._layers[key] = engine._new_layer(saved.config.hidden_dim)
                part = f"layer{number}"
                memory.restore(saved.tensors_of(part), saved.facts_of(part))
        return engine


@contextmanager
def _described() -> Iterator[None]:
    """Turn what a malformed description trips over into the error that says so."""
    try:
        yield
    except FormatError:
        raise
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise FormatError(f"`data` does not describe an engine: {error!r}") from error


_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class _Tally(msgspec.Struct):
    """What happened so far, in numbers."""

    seen: _Count = 0
    accepted: _Count = 0
    pending: _Count = 0
    pending_accepted: _Count = 0
    updates: _Count = 0
    cycles: _Count = 0
    quality: float = 0.0

    def count(self, quality: float, accepted: bool, times: int = 1) -> None:
        self.seen += times
        self.pending += times
        self.accepted += times * accepted
        self.pending_accepted += times * accepted
        self.quality += times * quality


wire.decoder(_Tally)  # engines may be loaded in several threads


def _layer_key(layer: LayerKey) -> str:
    return f"layer {layer!r}"


def _check_complete(costs: dict[str, float], routes: list[str]) -> None:
    missing = [name for name in routes if name not in costs]
    if missing:
        raise RangeError(f"`costs` must give the cost of every candidate; got none for {missing}")


def _candidates(
    routes: Sequence[str] | None, costs: Mapping[str, float] | None
) -> tuple[list[str] | None, dict[str, float] | None]:
    names = None
    if routes is not None:
        if isinstance(routes, str):
            raise DTypeError(f"`routes` must be a sequence of strings; got {routes!r}")
        names = list(routes)
        for name in names:
            check_text("routes", name)
        if not names:
            raise RangeError("`routes` must name at least one route; got none")
        if len(set(names)) != len(names):
            raise RangeError("`routes` must not name a route twice")
    if costs is None:
        return names, None
    return names, {
        name: check_number(f"costs[{name!r}]", cost, 0.0, 1e12) for name, cost in costs.items()
    }
