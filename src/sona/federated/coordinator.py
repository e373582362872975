"""The long-lived side of a fleet: takes exports in, learns from all of them, hands it on.

The coordinator's knowledge is a function of the set of sessions it holds, not of the order in
which they came: :meth:`FederatedCoordinator.force_consolidate` learns anew from all of them, in
a new engine beside the one that serves. Between two consolidations outcomes are learned as they
arrive, so that a decision never waits for the next one.

Exports live in the store; in memory are some hundred bytes per session and an engine of bounded
size.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from sona.checks import check_count, check_quality, check_text
from sona.config import SonaConfig
from sona.engine import SonaEngine
from sona.errors import DTypeError, RangeError, ShapeError, StoreError
from sona.federated import trust
from sona.federated.changes import Held
from sona.federated.export import AgentExport
from sona.federated.learner import Learner
from sona.federated.merge import Ledger
from sona.federated.records import (
    AgentContribution,
    AggregationResult,
    CoordinatorMetrics,
    CoordinatorStats,
    Decision,
    Snapshot,
    Standing,
)
from sona.federated.store import Store, open_store
from sona.federated.trust import Judged
from sona.federated.warm_start import WarmStart
from sona.types import ArrayLike, LearnedPattern, LearnResult, RouteDecision

__all__ = ["FederatedCoordinator"]

_log = logging.getLogger(__name__)


class FederatedCoordinator:
    """Merges the exports of a fleet and starts new agents warm.

    Parameters
    ----------
    coordinator_id : str
        Name of the coordinator.
    config : SonaConfig, optional
        Settings of the master engine; the coordinator preset if not given. Its
        ``quality_threshold`` is where :attr:`quality_threshold` starts.
    store : path_like, str or Store, optional
        Where exports and what was learned are kept: a SQLite file, or a ``postgresql://``
        address. :meth:`aggregate` returns after the commit, and a coordinator opened on the same
        store knows all of it again; several may share one. None keeps exports in a private
        temporary file that ends with the process.
    min_agents : int, default 1
        Agents that must back a pattern before it is handed out: 1 leaves no small fleet cold,
        3 suits a fleet that strangers may join.

    Raises
    ------
    StoreError
        If the store cannot be opened.

    Notes
    -----
    Safe to use from several threads. Deciding and handing out warm starts never waits for a
    consolidation.

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
        store: str | PathLike[str] | Store | None = None,
        *,
        min_agents: int = 1,
    ) -> None:
        self._id = check_text("coordinator_id", coordinator_id)
        self._min_agents = check_count("min_agents", min_agents)
        self._events: Counter[str] = Counter()
        self._store = open_store(store)
        self._learner = Learner(
            SonaConfig.for_coordinator() if config is None else config, self._store
        )

    @classmethod
    def default_coordinator(
        cls,
        coordinator_id: str,
        hidden_dim: int = 384,
        store: str | PathLike[str] | Store | None = None,
    ) -> FederatedCoordinator:
        """Make a coordinator with the coordinator preset."""
        return cls(coordinator_id, SonaConfig.for_coordinator(hidden_dim=hidden_dim), store)

    # Settings

    @property
    def coordinator_id(self) -> str:
        """Name of the coordinator."""
        return self._id

    @property
    def quality_threshold(self) -> float:
        """Quality from which a trajectory is accepted, that is, may shape patterns and adapters.

        The outcome of a rejected trajectory still counts in the route statistics. Setting it
        judges everything held anew and consolidates.
        """
        return self._learner.config.quality_threshold

    @quality_threshold.setter
    def quality_threshold(self, value: float) -> None:
        self._learner.judge_by(check_quality("quality_threshold", value))

    @property
    def consolidation_interval(self) -> int:
        """Number of new agents after which :meth:`aggregate` consolidates; at least 1."""
        return self._learner.interval

    @consolidation_interval.setter
    def consolidation_interval(self, value: int) -> None:
        self._learner.interval = check_count("consolidation_interval", value)

    @property
    def min_agents(self) -> int:
        """Agents that must back a pattern before it is handed out."""
        return self._min_agents

    @property
    def master_engine(self) -> SonaEngine:
        """The engine that holds what the fleet has learned; a consolidation replaces it."""
        return self._learner.knowledge.engine

    @property
    def store(self) -> Store:
        """The store: its decisions, backups and checks."""
        return self._store

    # Taking in

    def aggregate(
        self, export: AgentExport, *, learn: bool = True, consolidate: bool = True
    ) -> AggregationResult:
        """Take an export in.

        Parameters
        ----------
        export : AgentExport
        learn : bool, default True
            Whether to learn it in this call. With False it returns after the commit, and somebody
            else has to call :meth:`tick`.
        consolidate : bool, default True
            Whether to consolidate in this call, too, where that is due. With False somebody else
            has to call :meth:`tick`.

        Returns
        -------
        AggregationResult
            What was accepted and what was not, with reasons. An export that was seen before, or
            that a later export of its session has superseded, changes nothing; so does one whose
            agent or session was withdrawn, or whose agent has too many strikes.

        Raises
        ------
        ShapeError
            If the embeddings have another dimension.
        RangeError
            If most of the export is malformed; that is a strike against its agent.
        StoreError
            If it could not be committed.

        Whatever is raised, the coordinator is as it was.

        Notes
        -----
        A later export of a session that only adds rows teaches those rows. One that says
        something else counts at once and is learned by the next consolidation.
        """
        judged = self.admit(export)
        if isinstance(judged, AggregationResult):
            return judged
        ruling, held = self._store.put(judged)
        if learn:
            at_hand = {} if held is None else {held.sequence: (export, judged.valid)}
            self._learner.catch_up(at_hand)
        else:
            self._learner.note([] if held is None else [held])
        due = learn and consolidate and ruling != "withdrawn"
        consolidated = due and self._learner.tick(on_time=False) is not None
        return self._outcome(judged, ruling, consolidated)

    def admit(self, export: AgentExport) -> Judged | AggregationResult:
        """Judge an export before :meth:`aggregate_all`; what is refused is recorded.

        Returns
        -------
        Judged or AggregationResult
            The latter for an agent that has too many strikes.

        Raises
        ------
        ShapeError, RangeError
            As :meth:`aggregate` does.
        """
        if not isinstance(export, AgentExport):
            raise DTypeError(f"`export` must be an AgentExport; got {type(export).__name__}")
        if self._shut_out(export):
            return self._turn_away(export)
        try:
            return self.judge(export)
        except (ShapeError, RangeError) as error:
            self._refuse(export, str(error), strike=isinstance(error, RangeError))
            raise

    def judge(self, export: AgentExport) -> Judged:
        """Look at an export; nothing is written or recorded.

        Raises
        ------
        ShapeError, RangeError
            As :meth:`admit` does.
        """
        return trust.judge(export, self._learner.config.embedding_dim_, self.quality_threshold)

    def aggregate_all(self, judged: Sequence[Judged]) -> list[AggregationResult | StoreError]:
        """Take in what was judged, with one commit, and learn none of it here; see :meth:`tick`.

        Judging takes a processor and committing a disk: whoever takes in many has one thread
        judge while another commits.

        Returns
        -------
        list
            For each what :meth:`aggregate` returns, or the error with which it was not committed.
        """
        out = [self._shut_out(one.export) for one in judged]
        told = self._store.put_all([one for one, shut in zip(judged, out, strict=True) if not shut])
        self._learner.note([s[1] for s in told if isinstance(s, tuple) and s[1] is not None])
        rest = iter(told)
        return [
            self._turn_away(one.export) if shut else self._outcome_or_error(one, next(rest))
            for one, shut in zip(judged, out, strict=True)
        ]

    def merge(self, other: FederatedCoordinator) -> int:
        """Take in every session that another coordinator holds, and every withdrawal.

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
        self.heed(other.ledger)
        taken = 0
        for export in other.missing(self.ledger):
            taken += not self.aggregate(export).duplicate
        return taken

    @property
    def ledger(self) -> Ledger:
        """Who contributed what, as a value that merges and travels."""
        return self._learner.ledger

    def missing(self, ledger: Ledger) -> Iterator[AgentExport]:
        """Exports held here that the holder of `ledger` lacks, in canonical order."""
        for session in self.ledger.news_for(ledger):
            found = self._store.export(session)
            if found is not None:
                yield found[1]

    def heed(self, ledger: Ledger) -> bool:
        """Learn from another coordinator's ledger who was withdrawn; True if anybody new was.

        Consolidates if what was withdrawn had been learned here.
        """
        mine = self.ledger
        epochs = {a: epoch for a, epoch in ledger.epochs.items() if epoch > mine.epoch(a)}
        dead = mine.graves_in(ledger)
        for agent_id, epoch in epochs.items():
            self._store.set_agent(agent_id, epoch=epoch)
        if dead:
            self._store.withdraw_sessions(dead)
        self._learner.catch_up()
        return bool(epochs or dead)

    @property
    def exports(self) -> Iterator[AgentExport]:
        """The latest export of every session, in canonical order, read one by one."""
        return self.missing(Ledger())

    # Who takes part

    def withdraw(self, agent_id: str) -> None:
        """Take an agent out, as if it had never been heard of, and keep it out.

        Its exports and every snapshot are deleted and everything else is learned anew before
        this returns. What it sends from now on changes nothing, and its sessions that were known
        stay withdrawn for ever; see :meth:`readmit`.

        Raises
        ------
        StoreError
            If it could not be committed; nothing was changed.
        """
        epoch = self.ledger.epoch(check_text("agent_id", agent_id))
        if not epoch % 2:
            self._store.set_agent(agent_id, epoch=epoch + 1)
            self._learner.catch_up()

    def readmit(self, agent_id: str) -> None:
        """Let a withdrawn agent take part again, with sessions that were never seen before."""
        epoch = self.ledger.epoch(check_text("agent_id", agent_id))
        if epoch % 2:
            self._store.set_agent(agent_id, epoch=epoch + 1)
            self._learner.catch_up()

    @property
    def withdrawn(self) -> list[str]:
        """Agents that are withdrawn now."""
        return sorted(agent for agent, epoch in self.ledger.epochs.items() if epoch % 2)

    @property
    def reputation(self) -> dict[str, Standing]:
        """How the last consolidation judged each agent, with its strikes up to now."""
        judged, struck = self._learner.standings, self._learner.struck
        return {
            agent: judged.get(agent, Standing()).with_strikes(struck.get(agent, 0))
            for agent in sorted({*judged, *struck})
        }

    def reset_reputation(self, agent_id: str) -> None:
        """Forgive an agent its strikes, and let it in until it is judged again."""
        self._store.set_agent(check_text("agent_id", agent_id), strikes=0)
        self._learner.forgive(agent_id)

    # Learning

    @property
    def due(self) -> bool:
        """Whether enough new agents have contributed for a consolidation."""
        return self._learner.due

    @property
    def unlearned(self) -> int:
        """Exports in the store that were not learned here yet."""
        return self._learner.unlearned

    def tick(self, seconds: float | None = None) -> LearnResult | None:
        """Consolidate if that is due; None otherwise. For a thread that learns beside requests.

        Due is also whatever has waited for ``config.background_interval_ms``. Takes in what
        other coordinators on the same store have committed, too.

        Parameters
        ----------
        seconds : float, optional
            Time after which no further export is learned in this call; see :attr:`unlearned`.
            All of them if not given. A consolidation takes its time.
        """
        self._learner.catch_up(seconds=seconds)
        return self._learner.tick(on_time=True)

    def force_consolidate(self) -> LearnResult:
        """Learn anew from everything held, in canonical order; ends a :meth:`rollback`.

        Returns
        -------
        LearnResult
            What the learning did. Cost: linear in the trajectories held; deciding, taking in and
            handing out go on meanwhile.
        """
        self._learner.catch_up()
        return self._learner.consolidate()

    def snapshots(self) -> list[Snapshot]:
        """Learned states that can be rolled back to, the newest first.

        Every consolidation on a durable store leaves one and keeps the newest three.
        """
        return self._store.snapshots()

    def snapshot(self) -> int:
        """Keep what is known now; returns the version."""
        return self._learner.snapshot()

    def rollback(self, version: int) -> None:
        """Go back to a snapshot and stay there, also over a restart.

        Exports are taken in and kept meanwhile but not learned; :meth:`force_consolidate` learns
        from all of them again. Withdraw whoever spoiled it first.

        Raises
        ------
        RangeError
            If there is no such snapshot, or it was made with other settings.
        FormatError
            If it is damaged; it is set aside.
        """
        self._learner.rollback(check_count("version", version))

    # Handing on

    def get_all_patterns(self) -> list[LearnedPattern]:
        """Return every pattern that enough agents back, the largest first."""
        knowledge = self._learner.knowledge
        backed = knowledge.backed(self._min_agents) if self._min_agents > 1 else None
        patterns = [p for p in knowledge.engine.patterns if backed is None or p.id in backed]
        return sorted(patterns, key=lambda pattern: -pattern.cluster_size)

    def get_initial_patterns(self, k: int) -> list[LearnedPattern]:
        """Return the `k` largest patterns, or all if there are fewer."""
        return self.get_all_patterns()[: check_count("k", k)]

    def backing(self, pattern: LearnedPattern) -> dict[str, int]:
        """Return the agents that back a pattern, and with how many accepted outcomes each."""
        return self._learner.knowledge.backing(pattern.id)

    def find_patterns(self, query: ArrayLike, k: int = 5) -> list[LearnedPattern]:
        """Return the patterns nearest to `query`; see :meth:`SonaEngine.find_patterns`."""
        return self.master_engine.find_patterns(query, k)

    def warm_start(self, k: int | None = None) -> WarmStart:
        """Return what a new agent starts with: only what :attr:`min_agents` agents back.

        Parameters
        ----------
        k : int, optional
            Hand out only the `k` largest patterns; None hands out all.
        """
        knowledge = self._learner.knowledge
        backed = knowledge.backed(self._min_agents) if self._min_agents > 1 else None
        return WarmStart.of(knowledge.engine, source=self._id, k=k, backed=backed)

    def route(
        self,
        embedding: ArrayLike,
        routes: Sequence[str] | None = None,
        costs: Mapping[str, float] | None = None,
        cost_weight: float = 0.0,
        explore: bool = False,
    ) -> RouteDecision:
        """Choose a route with all the fleet knows; see :meth:`SonaEngine.route`."""
        return self.master_engine.route(embedding, routes, costs, cost_weight, explore)

    # Looking at it

    @property
    def agent_count(self) -> int:
        """Number of distinct agents."""
        return self._learner.roster.agents

    @property
    def total_trajectories(self) -> int:
        """Number of distinct accepted trajectories."""
        return self._learner.roster.accepted

    @property
    def contributions(self) -> dict[str, AgentContribution]:
        """What each agent contributed, over all its sessions."""
        return self._learner.contributions

    def decisions(self, limit: int = 100, before: int | None = None) -> list[Decision]:
        """What was decided about exports, the newest first; see :meth:`Store.decisions`."""
        return self._store.decisions(limit, before)

    @property
    def metrics(self) -> CoordinatorMetrics:
        """Counters since this coordinator was started, and the spread of quality held.

        Percentiles are exact to 0.01.
        """
        events = self._events
        _, steps = self._learner.quality()
        held = int(steps.sum())
        spread = [_percentile(steps, share) for share in (0.05, 0.5, 0.95)]
        return CoordinatorMetrics(
            exports_aggregated=events["accepted"] + events["superseded"],
            exports_duplicate=events["duplicate"],
            exports_refused=events["refused"] + events["withdrawn"],
            consolidations=self._learner.consolidations,
            trajectories_held=held,
            quality_p05=spread[0],
            quality_p50=spread[1],
            quality_p95=spread[2],
        )

    def stats(self) -> CoordinatorStats:
        """Return the coordinator's figures; ``str()`` of them is one line."""
        total, steps = self._learner.quality()
        held = int(steps.sum())
        return CoordinatorStats(
            coordinator_id=self._id,
            total_agents=self.agent_count,
            total_trajectories=self.total_trajectories,
            patterns_learned=len(self.master_engine.patterns),
            avg_quality=total / held if held else 0.0,
            quality_threshold=self.quality_threshold,
        )

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def __repr__(self) -> str:
        return f"FederatedCoordinator({self._id!r}, agents={self.agent_count})"

    def _outcome(
        self, judged: Judged, ruling: str, consolidated: bool = False
    ) -> AggregationResult:
        self._count(ruling)
        export, reasons = judged.export, judged.reasons
        if ruling == "withdrawn":
            reasons = Counter({"agent or session was withdrawn": export.rows})
            return self._result(export, ruling, 0, reasons)
        return self._result(export, ruling, judged.summary.accepted, reasons, consolidated)

    def _outcome_or_error(
        self, judged: Judged, told: tuple[str, Held | None] | StoreError
    ) -> AggregationResult | StoreError:
        return told if isinstance(told, StoreError) else self._outcome(judged, told[0])

    def _shut_out(self, export: AgentExport) -> bool:
        return self._learner.roster.strikes(export.agent_id) >= trust.MAX_STRIKES

    def _turn_away(self, export: AgentExport) -> AggregationResult:
        reason = f"agent has {trust.MAX_STRIKES} strikes"
        self._refuse(export, reason, strike=False)
        return self._result(export, "refused", 0, {reason: export.rows})

    def _refuse(self, export: AgentExport, reason: str, *, strike: bool) -> None:
        self._count("refused")
        try:
            self._store.refuse(export, reason, strike=strike)
            self._learner.catch_up()
        except StoreError as error:  # the sender has to hear of the reason all the same
            _log.error("a refusal was not recorded: %s", error)

    def _count(self, event: str) -> None:
        with self._learner.lock:
            self._events[event] += 1

    def _result(
        self,
        export: AgentExport,
        ruling: str,
        accepted: int,
        reasons: Mapping[str, int],
        consolidated: bool = False,
    ) -> AggregationResult:
        return AggregationResult(
            agent_id=export.agent_id,
            ruling=ruling,
            trajectories_accepted=accepted,
            trajectories_rejected=export.rows - accepted,
            consolidated=consolidated,
            total_agents=self.agent_count,
            total_trajectories=self.total_trajectories,
            duplicate=ruling == "duplicate",
            reasons=dict(reasons),
        )


def _percentile(steps: NDArray[np.int64], share: float) -> float:
    """Quality below which a share of the outcomes lies, from counts per step of 0.01."""
    if not steps.any():
        return 0.0
    return float(np.searchsorted(steps.cumsum(), share * (steps.sum() - 1), "right")) / 100.0
