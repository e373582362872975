"""One tenant: its coordinator behind its writers, its history, and what its readers see."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias, TypeVar

import msgspec

from sona import state, wire
from sona.config import SonaConfig
from sona.errors import FormatError, SonaError, StoreError
from sona.federated import AgentExport, AggregationResult, FederatedCoordinator
from sona.federated.stage import Stage
from sona.federated.trust import Judged
from sona.service.events import Events
from sona.service.folder import CONFIG, HISTORY, PUBLISHED, STORE
from sona.service.history import Entry, History, entry_facts, now_ms
from sona.service.intake import entry_of, read_export
from sona.service.knowledge import Knowledge
from sona.service.learner import Lesson
from sona.service.limits import Limits
from sona.service.logs import decided
from sona.service.metrics import Metrics
from sona.service.problems import ProblemError, problem_of
from sona.service.records import AgentView, ExportReceipt
from sona.service.school import School
from sona.service.telemetry import Telemetry
from sona.service.tokens import Caller

__all__ = ["Tenant"]

_T = TypeVar("_T")

#: History is written this long after what it tells of.
_FLUSH_SECONDS = 0.25
#: Routes whose cost is remembered.
_COSTS = 1_024


#: What became of an export, and what the history says of it.
_Taken: TypeAlias = tuple[AggregationResult, Entry]


class _Request:
    """An export that waits to be taken in."""

    __slots__ = ("answer", "body", "caller", "claimed", "key", "warm")

    def __init__(
        self,
        body: bytes,
        caller: Caller,
        key: str | None,
        warm: bool,
        answer: asyncio.Future[_Taken],
    ) -> None:
        self.body = body
        self.caller = caller
        self.key = None if key is None else f"{caller.token_id}/{key}"  # one of this caller's
        self.warm = warm
        self.answer = answer
        self.claimed = False  # the key, for this content


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
    school : School
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
        school: School,
        dim: int | None = None,
    ) -> None:
        self.name = name
        self.events = Events()
        self.history: History | None = None
        self.knowledge: Knowledge | None = None
        self.costs: dict[str, float] = {}  # what callers last said that routes cost
        self.unlearned = 0  # exports, as far as the learner has told
        self.waiting = 0  # exports that wait for their commit
        self._folder = folder
        self._limits = limits
        self._metrics = metrics
        self._telemetry = telemetry
        self._school = school
        self._dim = dim
        self._coordinator: FederatedCoordinator | None = None
        self._loop = asyncio.get_running_loop()
        waiting = limits.waiting
        # While one thread waits for the disk, the other reads and judges what came meanwhile.
        self._reading = Stage(self._read_all, f"sona-read-{name}", waiting=waiting)
        self._committing = Stage(self._commit_all, f"sona-commit-{name}", waiting=waiting)
        self._aside = ThreadPoolExecutor(1, f"sona-aside-{name}")
        self._in_flight: dict[str, str] = {}
        self._unwritten = asyncio.Event()
        self._to_read = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Load what the folder holds, if anything; returns when exports are taken."""
        if (self._folder / CONFIG).exists():
            loading: list[Awaitable[None]] = [_in(None, self._load)]
            if (self._folder / PUBLISHED).exists():
                loading.append(self._read())
            await asyncio.gather(*loading)
            self._school.enrol(self.name, self._learned)
        self._tasks = [
            asyncio.create_task(self._keep_reading()),
            asyncio.create_task(self._keep_history()),
        ]

    async def close(self) -> None:
        """Finish what was accepted and close the files."""
        for task in self._tasks:
            task.cancel()
        self.events.close()
        for finish in (self._reading.close, self._committing.close, self._aside.shutdown):
            await _in(None, finish)
        await _in(None, self._unload)

    async def take(self, body: bytes, caller: Caller, key: str | None, warm: bool) -> ExportReceipt:
        """Take an export in; returns after its commit.

        Raises
        ------
        ProblemError
            403, 409, 422, 429 or 503; nothing has changed then.
        """
        if self.waiting >= self._limits.waiting:
            raise ProblemError(
                429, f"{self.waiting} exports wait for their commit already", retry_after=1.0
            )
        if self.unlearned >= self._limits.unlearned:
            raise ProblemError(
                429, f"{self.unlearned} exports wait to be learned already", retry_after=5.0
            )
        self.waiting += 1
        try:
            answer = asyncio.get_running_loop().create_future()
            return await self._take(_Request(body, caller, key, warm, answer))
        finally:
            self.waiting -= 1

    async def agents(self) -> list[AgentView]:
        """What each agent contributed, the latest first."""
        if self._coordinator is None:
            return []
        contributions = await _in(self._aside, lambda: self.coordinator.contributions)
        views = [
            AgentView(
                agent_id,
                told.trajectory_count,
                told.avg_quality,
                told.sessions,
                told.timestamp,
                told.session_duration_ms,
            )
            for agent_id, told in contributions.items()
        ]
        return sorted(views, key=lambda view: (-view.timestamp, view.agent_id))

    async def draw(self) -> None:
        """Lay out the map of the patterns, which takes too long for the event loop's thread."""
        knowledge = self.knowledge
        if knowledge is not None:
            await _in(self._aside, lambda: knowledge.map)

    def note_costs(self, costs: Mapping[str, float] | None) -> None:
        """Remember what a caller says that routes cost; shown, never decided by."""
        for route, cost in (costs or {}).items():
            if route in self.costs or len(self.costs) < _COSTS:
                self.costs[route] = cost

    @property
    def coordinator(self) -> FederatedCoordinator:
        """The coordinator; there is none before the first export."""
        if self._coordinator is None:
            raise ProblemError(404, f"tenant {self.name!r} has learned nothing yet")
        return self._coordinator

    # Writing

    async def _take(self, request: _Request) -> ExportReceipt:
        try:
            self._reading.put(request)
            with self._telemetry.span("sona.export", tenant=self.name) as span:
                result, entry = await request.answer
                if span is not None:
                    span.set_attribute("sona.agent", entry.agent)
            if result.ruling != "duplicate":
                self.unlearned += 1
                self._school.enrol(self.name, self._learned)
            self._record(entry)
        except SonaError as error:
            problem = problem_of(error)
            self._refuse(problem, request.caller)
            raise problem from error
        except ProblemError as problem:
            self._refuse(problem, request.caller)
            raise
        finally:
            if request.claimed and request.key is not None:
                self._in_flight.pop(request.key, None)
        return ExportReceipt(**{name: getattr(result, name) for name in result.__struct_fields__})

    def _read_all(self, requests: list[_Request]) -> None:
        """Parse and judge exports, in the reading thread; hand each on to be committed."""
        for request in requests:
            try:
                export = read_export(request.body, request.caller, self._limits.vectors)
                self._claim(request, export.export_id)
                if self._coordinator is None:
                    self._found(export)
                judged = self.coordinator.admit(export)
                if isinstance(judged, AggregationResult):
                    self._settle([(request, _told(request, export, judged))])
                else:
                    self._committing.put((request, judged))
            except Exception as error:
                self._settle([(request, error)])

    def _claim(self, request: _Request, content: str) -> None:
        """Hold a request's key for a content until the history knows it."""
        key = request.key
        if key is None:
            return
        known = self._in_flight.get(key)
        if known is None and self.history is not None:
            known = self.history.known(key)
        if known not in (None, content):
            raise ProblemError(
                409, "`Idempotency-Key` came before with another export", "Idempotency-Key"
            )
        self._in_flight[key] = content
        request.claimed = True

    def _commit_all(self, judged: list[tuple[_Request, Judged]]) -> None:
        """Commit exports, in the committing thread, and tell what became of them."""
        outcomes: list[tuple[_Request, _Taken | Exception]]
        try:
            results = self.coordinator.aggregate_all([one for _, one in judged])
            outcomes = [
                (request, _told(request, one.export, result))
                for (request, one), result in zip(judged, results, strict=True)
            ]
        except Exception as error:
            outcomes = [(request, error) for request, _ in judged]
        self._settle(outcomes)

    def _settle(self, outcomes: list[tuple[_Request, _Taken | Exception]]) -> None:
        self._loop.call_soon_threadsafe(_settle, outcomes)

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
        config = self._config()
        if self.history is None:
            self.history = self._open_history()
        self._coordinator = FederatedCoordinator(
            self.name, config, store=os.fspath(self._folder / STORE)
        )

    def _open_history(self) -> History:
        path = self._folder / HISTORY
        try:
            return History(path)
        except StoreError as error:  # damaged: no reason to stop anybody
            self._troubled("history set aside", str(error))
            os.replace(path, path.with_suffix(f".damaged-{now_ms()}"))
            return History(path)

    def _config(self) -> SonaConfig:
        path = self._folder / CONFIG
        try:
            return wire.decode_json(path.read_bytes(), SonaConfig)
        except (FormatError, OSError) as error:
            raise StoreError(f"`store`: cannot read {str(path)!r}: {error}") from error

    def _unload(self) -> None:
        if self.history is not None:
            self.history.close()
        if self._coordinator is not None:
            self._coordinator.close()

    # Remembering

    def _record(self, entry: Entry) -> None:
        self._remember(entry)
        if entry.result != "new":
            self._metrics.exports.labels(entry.result).inc()
            return
        self._metrics.exports_new.inc()
        self._metrics.accepted.inc(entry.accepted)
        self._metrics.not_accepted.inc(entry.rejected)
        for reason, count in entry.reasons.items():
            self._metrics.rejected.labels(reason).inc(count)
        self._telemetry.evaluated(entry.agent, entry.routes, self.coordinator.quality_threshold)

    def _refuse(self, problem: ProblemError, caller: Caller) -> None:
        self._metrics.exports.labels("refused").inc()
        facts = {"tenant": self.name, "status": problem.status, "detail": problem.detail}
        decided("export refused", facts)
        if self.history is not None:
            self._remember(
                Entry(
                    at=now_ms(),
                    agent=caller.agent or "",
                    result="refused",
                    reasons={f"refused: {problem.place or 'body'}": 1},
                )
            )

    def _remember(self, entry: Entry) -> None:
        assert self.history is not None
        self.history.add(entry)
        self._unwritten.set()
        facts = entry_facts(entry)
        kind = "export" if entry.seconds is None else "consolidation"
        self.events.publish(kind, facts)
        if entry.result != "refused":
            decided(f"{kind} {entry.result}".strip(), {"tenant": self.name, **facts})

    # What the learner says

    def _learned(self, lesson: Lesson) -> None:
        if lesson.fault is None:
            self.unlearned = lesson.unlearned
        else:
            self._troubled("not learned", lesson.fault)
        if lesson.seconds is not None:
            self._metrics.consolidations.inc()
            self._remember(Entry(at=now_ms(), accepted=lesson.trajectories, seconds=lesson.seconds))
        if lesson.published:
            self._to_read.set()

    async def _keep_reading(self) -> None:
        while True:
            await self._to_read.wait()
            self._to_read.clear()
            await self._read()

    async def _read(self) -> None:
        def read() -> Knowledge:
            knowledge = Knowledge((self._folder / PUBLISHED).read_bytes(), self._config())
            # Thousands of patterns live until the next publication. A collector that walks them
            # holds up every answer, so it is told to leave them out.
            gc.collect()
            gc.freeze()
            return knowledge

        started = time.perf_counter()
        try:
            with self._telemetry.span("sona.publish", tenant=self.name):
                knowledge = await _in(self._aside, read)
        except (SonaError, OSError, MemoryError) as error:
            # Readers keep the version that they have; the next lesson brings another.
            self._troubled("not published", str(error))
            return
        self._metrics.publications.observe(time.perf_counter() - started)
        self.knowledge = knowledge
        facts = {"version": knowledge.version, "patterns": len(knowledge.patterns)}
        self.events.publish("published", facts)
        decided("published", {"tenant": self.name, **facts}, logging.DEBUG)

    async def _keep_history(self) -> None:
        while True:
            await self._unwritten.wait()
            self._unwritten.clear()
            assert self.history is not None
            try:
                await _in(self._aside, self.history.flush)
            except StoreError as error:
                self._troubled("history not written", str(error))
            await asyncio.sleep(_FLUSH_SECONDS)

    def _troubled(self, what: str, detail: str) -> None:
        decided(what, {"tenant": self.name, "detail": detail}, logging.ERROR)


def _told(
    request: _Request, export: AgentExport, result: AggregationResult | Exception
) -> _Taken | Exception:
    """Return what a request is answered with."""
    if isinstance(result, Exception):
        return result
    if result.ruling in ("withdrawn", "refused"):
        return ProblemError(403, "; ".join(result.reasons), "agent_id")
    entry = entry_of(export, result, request.warm)
    if request.key is not None:
        entry = msgspec.structs.replace(entry, key=request.key, digest=export.export_id)
    return result, entry


def _settle(outcomes: list[tuple[_Request, _Taken | Exception]]) -> None:
    """Let those who wait go on, in the event loop's thread."""
    for request, outcome in outcomes:
        if request.answer.done():  # nobody waits for it any more
            continue
        if isinstance(outcome, Exception):
            request.answer.set_exception(outcome)
        else:
            request.answer.set_result(outcome)


async def _in(executor: Executor | None, work: Callable[[], _T]) -> _T:
    """Run blocking work in a thread; None: in any."""
    return await asyncio.get_running_loop().run_in_executor(executor, work)
