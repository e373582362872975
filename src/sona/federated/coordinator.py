"""The long-lived side of a fleet: takes exports in, learns from all of them, hands it on.

The coordinator's knowledge is a function of the set of sessions it holds, not of the order in
which they came: :meth:`FederatedCoordinator.force_consolidate` learns anew from all sessions in
canonical order. Between two consolidations new outcomes are learned as they arrive, so that a
decision never waits for the next consolidation.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona.checks import check_count, check_quality, check_text
from sona.config import SonaConfig
from sona.engine import SonaEngine
from sona.federated import trust
from sona.federated.export import AgentExport, TrajectoryTable
from sona.federated.records import (
    AgentContribution,
    AggregationResult,
    CoordinatorMetrics,
    CoordinatorStats,
)
from sona.federated.store import ExportStore
from sona.federated.warm_start import WarmStart
from sona.types import ArrayLike, LearnedPattern, LearnResult, RouteDecision, Trajectory

__all__ = ["FederatedCoordinator"]


class _Session(NamedTuple):
    """What the coordinator holds of one agent session."""

    export: AgentExport
    valid: NDArray[np.bool_]

    @property
    def table(self) -> TrajectoryTable:
        return self.export.trajectories

    @property
    def quality(self) -> NDArray[np.float64]:
        return self.table.quality[self.valid]


class FederatedCoordinator:
    """Merges the exports of a fleet and starts new agents warm.

    Parameters
    ----------
    coordinator_id : str
        Name of the coordinator.
    config : SonaConfig, optional
        Settings of the master engine; the coordinator preset if not given. Its
        ``quality_threshold`` is where :attr:`quality_threshold` starts.
    store : path_like, optional
        SQLite file for what was accepted. With it, :meth:`aggregate` returns after the export is
        committed, and a coordinator opened on the same file knows all of it again. None keeps
        everything in memory.

    Raises
    ------
    StoreError
        If the store cannot be opened.

    Notes
    -----
    Safe to use from several threads.

    Examples
    --------
    >>> from sona.federated import EphemeralAgent, FederatedCoordinator
    >>> coord = FederatedCoordinator.default_coordinator("coord-1", hidden_dim=2)
    >>> agent = EphemeralAgent.default_federated("agent-1", hidden_dim=2)
    >>> for _ in range(10):
    ...     agent.process_trajectory([1, 0], [1, 0], 0.9, route="small-model")
    ...     agent.process_trajectory([0, 1], [0, 1], 0.1, route="small-model")
    ...     agent.process_trajectory([0, 1], [0, 1], 0.8, route="large-model")
    >>> result = coord.aggregate(agent.export_state())
    >>> result.trajectories_accepted, result.trajectories_rejected, result.total_agents
    (20, 10, 1)
    >>> _ = coord.force_consolidate()
    >>> new = EphemeralAgent("agent-2", agent.engine.config, warm_start=coord.warm_start())
    >>> new.route([1, 0]).route, new.route([0, 1]).route
    ('small-model', 'large-model')
    """

    def __init__(
        self,
        coordinator_id: str,
        config: SonaConfig | None = None,
        store: str | PathLike[str] | None = None,
    ) -> None:
        self._id = check_text("coordinator_id", coordinator_id)
        self._config = SonaConfig.for_coordinator() if config is None else config
        self._lock = threading.RLock()
        self._quality_threshold = self._config.quality_threshold
        self._consolidation_interval = 50
        self._sessions: dict[tuple[str, int], _Session] = {}
        # Running counts, so that taking an export in never scans what is held already.
        self._sessions_of: Counter[str] = Counter()
        self._accepted = 0
        self._fresh_agents: set[str] = set()  # with a new session since the last consolidation
        self._events: Counter[str] = Counter()
        self._engine = self._new_engine()
        self._store = None if store is None else ExportStore(store)
        if self._store is not None:
            for export in self._store:
                valid, _ = trust.screen(export, self._config.embedding_dim_)
                self._hold(export.session, _Session(export, valid))
            if self._sessions:
                self._relearn()

    @classmethod
    def default_coordinator(
        cls,
        coordinator_id: str,
        hidden_dim: int = 384,
        store: str | PathLike[str] | None = None,
    ) -> FederatedCoordinator:
        """Make a coordinator with the coordinator preset."""
        return cls(coordinator_id, SonaConfig.for_coordinator(hidden_dim=hidden_dim), store)

    @property
    def coordinator_id(self) -> str:
        """Name of the coordinator."""
        return self._id

    @property
    def quality_threshold(self) -> float:
        """Quality from which a trajectory is accepted, that is, may shape patterns and adapters.

        The outcome of a rejected trajectory still counts in the route statistics. Setting it
        judges everything held anew.
        """
        return self._quality_threshold

    @quality_threshold.setter
    def quality_threshold(self, value: float) -> None:
        value = check_quality("quality_threshold", value)
        with self._lock:
            if value != self._quality_threshold:
                self._quality_threshold = value
                self._accepted = sum(map(self._count_accepted, self._sessions.values()))
                self._relearn()

    @property
    def consolidation_interval(self) -> int:
        """Number of new agents after which :meth:`aggregate` consolidates; at least 1."""
        return self._consolidation_interval

    @consolidation_interval.setter
    def consolidation_interval(self, value: int) -> None:
        self._consolidation_interval = check_count("consolidation_interval", value)

    @property
    def master_engine(self) -> SonaEngine:
        """The engine that holds what the fleet has learned."""
        return self._engine

    def aggregate(self, export: AgentExport) -> AggregationResult:
        """Take an export in.

        Parameters
        ----------
        export : AgentExport

        Returns
        -------
        AggregationResult
            What was accepted and what was not, with reasons. An export that was seen before, or
            that a later export of its session has superseded, changes nothing.

        Raises
        ------
        ShapeError
            If the embeddings have another dimension.
        RangeError
            If most of the export is malformed.
        StoreError
            If it could not be committed.

        Whatever is raised, the coordinator is as it was.
        """
        if not isinstance(export, AgentExport):
            raise TypeError(f"`export` must be an AgentExport; got {type(export).__name__}")
        try:
            valid, reasons = trust.screen(export, self._config.embedding_dim_)
        except ValueError:
            with self._lock:
                self._events["refused"] += 1
            raise
        below = valid & (export.trajectories.quality < self._quality_threshold)
        if below.any():
            reasons["quality below threshold"] = int(below.sum())
        session = _Session(export, valid)
        with self._lock:
            held = self._sessions.get(export.session)
            duplicate = held is not None and session.export.order <= held.export.order
            consolidated = False
            if duplicate:
                self._events["duplicate"] += 1
            else:
                if self._store is not None:
                    self._store.put(export)
                self._events["aggregated"] += 1
                consolidated = self._take_in(export.session, session, held)
            return AggregationResult(
                agent_id=export.agent_id,
                trajectories_accepted=int(valid.sum() - below.sum()),
                trajectories_rejected=len(valid) - int(valid.sum() - below.sum()),
                consolidated=consolidated,
                total_agents=self.agent_count,
                total_trajectories=self.total_trajectories,
                duplicate=duplicate,
                reasons=dict(reasons),
            )

    def merge(self, other: FederatedCoordinator) -> int:
        """Take in every session that another coordinator holds.

        Merging is commutative, associative and idempotent: whoever merges with whom and in which
        order, coordinators that have heard of the same sessions know the same once they
        consolidate.

        Returns
        -------
        int
            Sessions that were new here or newer than what was held.

        Raises
        ------
        ShapeError
            If the other's embeddings have another dimension.
        """
        return sum(not self.aggregate(export).duplicate for export in other.exports)

    @property
    def exports(self) -> list[AgentExport]:
        """The latest export of every session, in canonical order."""
        with self._lock:
            return [self._sessions[key].export for key in sorted(self._sessions)]

    def force_consolidate(self) -> LearnResult:
        """Learn anew from everything held, in canonical order.

        Returns
        -------
        LearnResult
            What the learning did. Cost: linear in the trajectories held.
        """
        with self._lock:
            return self._relearn()

    def get_all_patterns(self) -> list[LearnedPattern]:
        """Return every pattern, the largest first."""
        return sorted(self._engine.patterns, key=lambda pattern: -pattern.cluster_size)

    def get_initial_patterns(self, k: int) -> list[LearnedPattern]:
        """Return the `k` largest patterns, or all if there are fewer."""
        return self.get_all_patterns()[: check_count("k", k)]

    def find_patterns(self, query: ArrayLike, k: int = 5) -> list[LearnedPattern]:
        """Return the patterns nearest to `query`; see :meth:`SonaEngine.find_patterns`."""
        return self._engine.find_patterns(query, k)

    def warm_start(self, k: int | None = None) -> WarmStart:
        """Return what a new agent starts with.

        Parameters
        ----------
        k : int, optional
            Hand out only the `k` largest patterns; None hands out all.
        """
        with self._lock:
            return WarmStart.of(self._engine, source=self._id, k=k)

    def route(
        self,
        embedding: ArrayLike,
        routes: Sequence[str] | None = None,
        costs: Mapping[str, float] | None = None,
        cost_weight: float = 0.0,
        explore: bool = False,
    ) -> RouteDecision:
        """Choose a route with all the fleet knows; see :meth:`SonaEngine.route`."""
        return self._engine.route(embedding, routes, costs, cost_weight, explore)

    @property
    def agent_count(self) -> int:
        """Number of distinct agents."""
        return len(self._sessions_of)

    @property
    def total_trajectories(self) -> int:
        """Number of distinct accepted trajectories."""
        return self._accepted

    @property
    def contributions(self) -> dict[str, AgentContribution]:
        """What each agent contributed, over all its sessions."""
        with self._lock:
            by_agent: dict[str, list[_Session]] = {}
            for key in sorted(self._sessions):
                by_agent.setdefault(key[0], []).append(self._sessions[key])
        return {agent_id: _contribution(held) for agent_id, held in by_agent.items()}

    @property
    def metrics(self) -> CoordinatorMetrics:
        """Counters since this coordinator was started, and the spread of quality held."""
        with self._lock:
            events = Counter(self._events)
        quality = self._all_quality()
        spread = np.percentile(quality, [5, 50, 95]).tolist() if len(quality) else [0.0] * 3
        return CoordinatorMetrics(
            exports_aggregated=events["aggregated"],
            exports_duplicate=events["duplicate"],
            exports_refused=events["refused"],
            consolidations=events["consolidations"],
            trajectories_held=len(quality),
            quality_p05=spread[0],
            quality_p50=spread[1],
            quality_p95=spread[2],
        )

    def stats(self) -> CoordinatorStats:
        """Return the coordinator's figures; ``str()`` of them is one line."""
        quality = self._all_quality()
        return CoordinatorStats(
            coordinator_id=self._id,
            total_agents=self.agent_count,
            total_trajectories=self.total_trajectories,
            patterns_learned=len(self._engine.patterns),
            avg_quality=float(quality.mean()) if len(quality) else 0.0,
            quality_threshold=self._quality_threshold,
        )

    def close(self) -> None:
        """Close the store, if there is one."""
        if self._store is not None:
            self._store.close()

    def __repr__(self) -> str:
        return f"FederatedCoordinator({self._id!r}, agents={self.agent_count})"

    def _take_in(
        self, key: tuple[str, int], session: _Session, superseded: _Session | None
    ) -> bool:
        self._hold(key, session)
        if superseded is None:
            self._fresh_agents.add(key[0])
        due = len(self._fresh_agents) >= self._consolidation_interval
        if due or superseded is not None:
            # What a superseded export taught cannot be taken back singly: learn anew.
            self._relearn()
        else:
            self._learn(session)
        return due

    def _hold(self, key: tuple[str, int], session: _Session) -> None:
        superseded = self._sessions.get(key)
        if superseded is None:
            self._sessions_of[key[0]] += 1
        else:
            self._accepted -= self._count_accepted(superseded)
        self._accepted += self._count_accepted(session)
        self._sessions[key] = session

    def _count_accepted(self, session: _Session) -> int:
        return int((session.quality >= self._quality_threshold).sum())

    def _relearn(self) -> LearnResult:
        self._engine = self._new_engine()
        self._learn(*(session for _, session in sorted(self._sessions.items(), key=_canonical)))
        self._fresh_agents.clear()
        self._events["consolidations"] += 1
        return self._engine.force_learn()

    def _learn(self, *sessions: _Session) -> None:
        """Let the engine learn from sessions, in order of time; at one time, in order given."""
        rows = [
            (int(session.table.timestamps[row]), number, row)
            for number, session in enumerate(sessions)
            for row in np.flatnonzero(session.valid).tolist()
        ]
        for timestamp, number, row in sorted(rows):
            table = sessions[number].table
            self._engine.submit_trajectory(
                Trajectory(
                    table.embeddings[row],
                    float(table.quality[row]),
                    table.routes[row],
                    table.contexts[row],
                    (),
                    timestamp,
                )
            )

    def _new_engine(self) -> SonaEngine:
        return SonaEngine(self._config.replace(quality_threshold=self._quality_threshold))

    def _all_quality(self) -> NDArray[np.float64]:
        with self._lock:
            parts = [session.quality for session in self._sessions.values()]
        return np.concatenate(parts) if parts else np.empty(0)


def _canonical(item: tuple[tuple[str, int], _Session]) -> tuple[str, int]:
    return item[0]


def _contribution(held: list[_Session]) -> AgentContribution:
    quality = np.concatenate([session.quality for session in held])
    return AgentContribution(
        trajectory_count=len(quality),
        avg_quality=float(quality.mean()) if len(quality) else 0.0,
        timestamp=max(session.export.timestamp for session in held),
        session_duration_ms=sum(session.export.session_duration_ms for session in held),
        sessions=len(held),
    )
