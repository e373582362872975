"""One tenant: its coordinator behind one writer, its history, and what its readers see."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from sona import state
from sona.config import SonaConfig
from sona.errors import FormatError, SonaError, StoreError
from sona.federated import AgentExport, AggregationResult, FederatedCoordinator
from sona.service.events import Events
from sona.service.history import Entry, History, entry_facts, now_ms
from sona.service.knowledge import Knowledge
from sona.service.limits import Limits
from sona.service.logs import decided
from sona.service.metrics import Metrics
from sona.service.problems import ProblemError, problem_of
from sona.service.records import AgentView, ExportReceipt
from sona.service.telemetry import Telemetry
from sona.service.tokens import Caller

_T = TypeVar("_T")

__all__ = ["CONFIG", "HISTORY", "STORE", "Tenant"]

#: Files of a tenant, in its folder.
CONFIG, STORE, HISTORY = "config.json", "store.db", "history.db"
#: News is published after this many seconds, or after so many times what publishing cost.
_PUBLISH_SECONDS = 0.25
_PUBLISH_SHARE = 9.0
#: Routes whose cost is remembered.
_COSTS = 1_024


class Tenant:
    """What belongs to one tenant. Made and used by the event loop's thread.

    Parameters
    ----------
    name : str
    folder : path
        Made with the first export, together with the configuration: the dimension is that of
        the export's embeddings.
    limits : Limits
    metrics : Metrics
    telemetry : Telemetry
    dim : int, optional
        Dimension that the first export must have; any if not given.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        limits: Limits,
        metrics: Metrics,
        telemetry: Telemetry,
        dim: int | None = None,
    ) -> None:
        self.name = name
        self.events = Events()
        self.history: History | None = None
        self.knowledge: Knowledge | None = None
        self.costs: dict[str, float] = {}  # what callers last said that routes cost
        self._folder = folder
        self._limits = limits
        self._metrics = metrics
        self._telemetry = telemetry
        self._dim = dim
        self._coordinator: FederatedCoordinator | None = None
        # One writer: commits of a store take turns anyway, and the order of arrival is kept.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"sona-write-{name}")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix=f"sona-read-{name}")
        self._in_flight: dict[str, str] = {}
        self._waiting = 0
        self._unlearned = 0  # new exports since the last consolidation
        self._consolidated_at = time.monotonic()
        self._news = asyncio.Event()
        self._publisher: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Load what the folder holds, if anything; returns when readers can be answered."""
        if (self._folder / CONFIG).exists():
            await _in(self._writer, self._load)
            await self._publish()
        self._publisher = asyncio.create_task(self._keep_published())

    async def close(self) -> None:
        """Finish what was accepted, publish nothing more, close the files."""
        if self._publisher is not None:
            self._publisher.cancel()
        self.events.close()
        await _in(self._writer, self._unload)
        self._writer.shutdown()
        self._reader.shutdown()

    async def take(self, body: bytes, caller: Caller, key: str | None, warm: bool) -> ExportReceipt:
        """Take an export in; returns after its commit.

        Raises
        ------
        ProblemError
            403, 409, 422, 429 or 503; nothing has changed then.
        """
        if self._waiting >= self._limits.waiting:
            raise ProblemError(
                429, f"{self._waiting} exports wait for their commit already", retry_after=1.0
            )
        self._waiting += 1
        self._metrics.waiting.inc()
        try:
            return await self._take(body, caller, key, warm)
        finally:
            self._waiting -= 1
            self._metrics.waiting.dec()

    async def agents(self) -> list[AgentView]:
        """What each agent contributed, the latest first."""
        if self._coordinator is None:
            return []
        contributions = await _in(self._reader, lambda: self.coordinator.contributions)
        views = [
            AgentView(
                agent_id,
                c.trajectory_count,
                c.avg_quality,
                c.sessions,
                c.timestamp,
                c.session_duration_ms,
            )
            for agent_id, c in contributions.items()
        ]
        return sorted(views, key=lambda view: (-view.timestamp, view.agent_id))

    def note_costs(self, costs: Mapping[str, float] | None) -> None:
        """Remember what a caller says that routes cost; shown, never decided by."""
        if costs and len(self.costs) < _COSTS:
            self.costs.update(costs)

    @property
    def coordinator(self) -> FederatedCoordinator:
        """The coordinator; there is none before the first export."""
        if self._coordinator is None:
            raise ProblemError(404, f"tenant {self.name!r} has learned nothing yet")
        return self._coordinator

    # Writing

    async def _take(
        self, body: bytes, caller: Caller, key: str | None, warm: bool
    ) -> ExportReceipt:
        digest = await _in(None, lambda: hashlib.sha256(body).hexdigest())
        scoped = None if key is None else f"{caller.token_id}/{key}"
        if scoped is not None:
            known = self._in_flight.get(scoped) or (
                self.history.known(scoped) if self.history else None
            )
            if known is not None and known != digest:
                raise ProblemError(
                    409, "`Idempotency-Key` came before with another body", "Idempotency-Key"
                )
            self._in_flight[scoped] = digest
        try:
            export = await _in(None, lambda: self._read(body, caller))
            started = time.perf_counter()
            with self._telemetry.span("sona.export", tenant=self.name, agent=export.agent_id):
                result = await _in(self._writer, lambda: self._commit(export))
            self._record(export, result, warm, scoped, digest, time.perf_counter() - started)
        except SonaError as error:
            problem = problem_of(error)
            self._refuse(problem, caller, scoped)
            raise problem from error
        except ProblemError as problem:
            self._refuse(problem, caller, scoped)
            raise
        finally:
            if scoped is not None:
                self._in_flight.pop(scoped, None)
        return ExportReceipt(**{name: getattr(result, name) for name in result.__struct_fields__})

    def _read(self, body: bytes, caller: Caller) -> AgentExport:
        export = AgentExport.from_bytes(body)
        if caller.agent is not None and export.agent_id != caller.agent:
            raise ProblemError(
                403,
                f"`agent_id` must be {caller.agent!r}, to which the token is bound; got"
                f" {export.agent_id!r}",
                "agent_id",
            )
        if len(export.trajectories) > self._limits.vectors:
            raise ProblemError(
                422,
                f"`trajectories` must be at most {self._limits.vectors}; got"
                f" {len(export.trajectories)}",
                "trajectories",
            )
        return export

    def _commit(self, export: AgentExport) -> AggregationResult:
        if self._coordinator is None:
            self._found(export)
        return self.coordinator.aggregate(export)

    def _found(self, export: AgentExport) -> None:
        # The first export says what the tenant's embeddings are like.
        dim = self._dim or export.dim
        if not dim or (export.dim and export.dim != dim):
            raise FormatError(
                f"`trajectories` must have embeddings of {dim or 'at least 1'} dimensions in a"
                f" tenant's first export; got {export.dim}"
            )
        config = SonaConfig.for_coordinator(hidden_dim=dim)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            state.write(self._folder / CONFIG, msgspec.json.encode(config))
        except OSError as error:
            raise StoreError(f"`store`: cannot write {str(self._folder)!r}: {error}") from error
        self._load()

    def _load(self) -> None:
        config = msgspec.json.decode((self._folder / CONFIG).read_bytes(), type=SonaConfig)
        if self.history is None:
            self.history = History(self._folder / HISTORY)
        self._coordinator = FederatedCoordinator(
            self.name, config, store=os.fspath(self._folder / STORE)
        )

    def _unload(self) -> None:
        if self.history is not None:
            self.history.close()
        if self._coordinator is not None:
            self._coordinator.close()

    # Remembering

    def _record(
        self,
        export: AgentExport,
        result: AggregationResult,
        warm: bool,
        key: str | None,
        digest: str,
        seconds: float,
    ) -> None:
        routes = _routes(export)
        entry = Entry(
            at=now_ms(),
            agent=export.agent_id,
            result="duplicate" if result.duplicate else "new",
            accepted=result.trajectories_accepted,
            rejected=result.trajectories_rejected,
            reasons=result.reasons,
            quality=_mean(export.trajectories.quality),
            warm=warm,
            routes={} if result.duplicate else routes,
            key=key,
            digest=digest if key is not None else "",
        )
        self._remember(entry)
        self._metrics.exports.labels(entry.result).inc()
        if not result.duplicate:
            self._metrics.trajectories.labels("accepted").inc(entry.accepted)
            self._metrics.trajectories.labels("rejected").inc(entry.rejected)
            for reason, count in entry.reasons.items():
                self._metrics.rejected.labels(reason).inc(count)
            self._telemetry.evaluated(export.agent_id, routes, self.coordinator.quality_threshold)
            self._unlearned += 1
            self._news.set()
        if result.consolidated:
            self._consolidated(seconds, result.total_trajectories)

    def _refuse(self, problem: ProblemError, caller: Caller, key: str | None) -> None:
        self._metrics.exports.labels("refused").inc()
        reason = problem.place or "body"
        entry = Entry(
            at=now_ms(),
            agent=caller.agent or "",
            result="refused",
            reasons={f"refused: {reason}": 1},
            key=key,
        )
        if self.history is not None:
            self._remember(entry)
        facts = {"tenant": self.name, "status": problem.status, "detail": problem.detail}
        decided("export refused", facts)

    def _consolidated(self, seconds: float, trajectories: int) -> None:
        self._unlearned = 0
        self._consolidated_at = time.monotonic()
        self._metrics.consolidations.inc()
        self._remember(Entry(at=now_ms(), accepted=trajectories, seconds=seconds))

    def _remember(self, entry: Entry) -> None:
        assert self.history is not None
        self.history.add(entry)
        facts = entry_facts(entry)
        kind = "export" if entry.seconds is None else "consolidation"
        self.events.publish(kind, facts)
        decided(f"{kind} {entry.result}".strip(), {"tenant": self.name, **facts})

    # Publishing

    async def _keep_published(self) -> None:
        while True:
            due = self._consolidation_due()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), due)
            self._news.clear()
            started = time.perf_counter()
            try:
                if self._consolidation_due() == 0.0:
                    await self._consolidate()
                await self._publish()
                if self.history is not None:
                    await _in(self._reader, self.history.flush)
            except (SonaError, MemoryError) as error:
                # Readers keep the version that they have; the next news tries again.
                decided("not published", {"tenant": self.name, "detail": str(error)}, logging.ERROR)
            cost = time.perf_counter() - started
            await asyncio.sleep(max(_PUBLISH_SECONDS, _PUBLISH_SHARE * cost))

    def _consolidation_due(self) -> float | None:
        """Seconds until everything is to be learned anew; None while there is nothing new.

        The coordinator consolidates by itself when enough agents are new. This is for the time
        in which they are not.
        """
        if not self._unlearned:
            return None
        interval = self.coordinator.master_engine.config.background_interval_ms / 1e3
        return max(0.0, self._consolidated_at + interval - time.monotonic())

    async def _consolidate(self) -> None:
        started = time.perf_counter()
        await _in(self._writer, self.coordinator.force_consolidate)
        self._consolidated(time.perf_counter() - started, self.coordinator.total_trajectories)

    async def _publish(self) -> None:
        if self._coordinator is None:
            return
        started = time.perf_counter()
        with self._telemetry.span("sona.publish", tenant=self.name):
            knowledge = await _in(self._reader, lambda: Knowledge.of(self.coordinator))
        self._metrics.publications.observe(time.perf_counter() - started)
        self.knowledge = knowledge
        facts = {"version": knowledge.version, "patterns": len(knowledge.patterns)}
        self.events.publish("published", facts)
        decided("published", {"tenant": self.name, **facts}, logging.DEBUG)


async def _in(executor: Executor | None, work: Callable[[], _T]) -> _T:
    """Run blocking work in a thread; None: in any."""
    return await asyncio.get_running_loop().run_in_executor(executor, work)


def _routes(export: AgentExport) -> dict[str, tuple[int, float]]:
    """Number of outcomes and sum of quality per route, of rows whose quality is one."""
    sums: dict[str, tuple[int, float]] = {}
    table = export.trajectories
    for route, quality in zip(table.routes, table.quality.tolist(), strict=True):
        if route is not None and 0.0 <= quality <= 1.0:
            count, total = sums.get(route, (0, 0.0))
            sums[route] = (count + 1, total + quality)
    return sums


def _mean(quality: NDArray[np.float64]) -> float | None:
    sane = quality[(quality >= 0.0) & (quality <= 1.0)]
    return float(sane.mean()) if len(sane) else None
