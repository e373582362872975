"""Keeps memory and learned state in step with the store, whoever wrote to it.

What arrives is *noted* at once, which is bookkeeping, and *taken* after that, which is learning
and a hundred times slower. Whoever only acknowledges needs to note and no more.

Three locks. `lock` guards the bookkeeping and is never held while anything is learned. Another is
held by whoever lets the serving engine take what was noted, in order. The third is held by the
one consolidation that runs; it reads the store and fills a new engine beside the one that
serves, and needs `lock` only to begin and to swap.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sona.config import SonaConfig
from sona.errors import FormatError, RangeError, SonaError, StoreError
from sona.federated import trust
from sona.federated.changes import Changes, Held
from sona.federated.export import AgentExport
from sona.federated.knowledge import Knowledge, learn
from sona.federated.merge import Ledger, Session
from sona.federated.records import AgentContribution, Standing, Summary
from sona.federated.roster import Roster
from sona.federated.store import Store
from sona.types import LearnResult

__all__ = ["Learner"]

_log = logging.getLogger(__name__)
# Snapshots that are kept when a consolidation adds one.
_SNAPSHOTS_KEPT = 3

_Screened: TypeAlias = tuple[AgentExport, NDArray[np.bool_]]


class Learner:
    """The roster and the knowledge of one coordinator.

    Parameters
    ----------
    config : SonaConfig
        Settings of the master engine.
    store : Store

    Attributes
    ----------
    interval : int
        New agents after which a consolidation is due.

    Notes
    -----
    Opening reads what sessions are summed up to. What was learned is read when it is first asked
    for: who only takes in and acknowledges needs none of it.
    """

    def __init__(self, config: SonaConfig, store: Store) -> None:
        self.config = config
        self.store = store
        self.interval = 50
        self.lock = threading.RLock()
        self.roster = Roster()
        self.consolidations = 0
        self._knowledge: Knowledge | None = None  # replaced, never rebuilt in place
        self._learning = threading.Lock()
        self._taking = threading.RLock()
        self._waiting: dict[Session, int] = {}  # noted, and not yet taken; their sequence
        self._fresh: set[str] = set()  # agents with something the last consolidation did not see
        self._arrived: dict[Session, int] = {}  # since the consolidation that runs began
        self._withdrawals = 0
        self._last = time.monotonic()
        self._pinned = store.pinned()
        self.roster.apply(store.changes(0))
        self._recount()
        if not self.roster.agents:  # nothing to know again
            self._knowledge = Knowledge(config)
            self._knowledge.sequence = self.roster.sequence

    # Reading

    @property
    def knowledge(self) -> Knowledge:
        """What serves. Call it without a lock: the first call loads what the store knows."""
        if self._knowledge is None:
            with self._learning:
                if self._knowledge is None:
                    self._remember()
        assert self._knowledge is not None
        return self._knowledge

    @property
    def ledger(self) -> Ledger:
        with self.lock:
            return self.roster.ledger

    @property
    def contributions(self) -> dict[str, AgentContribution]:
        with self.lock:
            return self.roster.contributions

    @property
    def standings(self) -> dict[str, Standing]:
        knowledge = self.knowledge
        with self.lock:
            return dict(knowledge.standings)

    @property
    def struck(self) -> dict[str, int]:
        with self.lock:
            return self.roster.struck

    def quality(self) -> tuple[float, NDArray[np.int64]]:
        with self.lock:
            return self.roster.quality()

    @property
    def due(self) -> bool:
        """Whether enough new agents have contributed; never while rolled back."""
        _ = self.knowledge  # tells who is new
        return self._enough()

    def _enough(self) -> bool:
        return self._pinned is None and len(self._fresh) >= self.interval

    @property
    def unlearned(self) -> int:
        _ = self.knowledge
        self.note()
        with self.lock:
            return len(self._waiting)

    # Following the store

    def note(self, written: Sequence[Held] = ()) -> None:
        """Take notice of what happened in the store; what there is to learn waits.

        With what this process has `written`, at least of that, in order of sequence. Consolidates
        where something was withdrawn: only learning anew takes its influence out.
        """
        with self.lock:
            if written and written[-1].sequence <= self.roster.sequence:
                return  # who was committed together with it has noted it
            arrivals = self.roster.apply(self._changes(written))
            self._withdrawals += arrivals.withdrawn
            self._arrived.update(arrivals.sequences)
            learned = self._knowledge is not None
            if learned:
                self._fresh.update(session[0] for session in arrivals.new)
                self._waiting.update(arrivals.sequences)
        if arrivals.withdrawn and learned:
            self.consolidate()

    def _changes(self, written: Sequence[Held]) -> Changes:
        """Return what happened since the roster was last brought up."""
        after = self.roster.sequence
        last = after + len(written)
        if written and [one.sequence for one in written] == [*range(after + 1, last + 1)]:
            return Changes(last, {}, list(written))  # nobody else has written meanwhile
        return self.store.changes(after)

    def catch_up(
        self, at_hand: Mapping[int, _Screened] | None = None, seconds: float | None = None
    ) -> None:
        """Learn what happened in the store; `at_hand` saves reading exports back.

        With `seconds`, at least one export and no further one after so long.
        """
        self.note()
        self._take_waiting(at_hand or {}, seconds)

    def judge_by(self, threshold: float) -> None:
        """Judge everything held by another quality threshold, and learn anew."""
        if threshold != self.config.quality_threshold:
            with self.lock:
                self.config = self.config.replace(quality_threshold=threshold)
                self._recount()
            self.consolidate()

    def forgive(self, agent_id: str) -> None:
        """Let an agent in until it is judged again."""
        knowledge = self.knowledge
        with self.lock:
            knowledge.standings.pop(agent_id, None)
            self._fresh.add(agent_id)
        self.catch_up()

    # Learning

    def tick(self, *, on_time: bool) -> LearnResult | None:
        """Consolidate if enough is new or, with `on_time`, if something has waited long enough."""
        _ = self.knowledge
        if not self._is_due(on_time):
            return None
        with self._learning:
            # Somebody else may have been faster.
            return self._relearn() if self._is_due(on_time) else None

    def consolidate(self) -> LearnResult:
        """Learn anew from everything held and serve that; ends a rollback."""
        with self._learning:
            return self._relearn()

    def snapshot(self) -> int:
        """Keep what is known now; returns the version."""
        _ = self.knowledge
        with self._taking, self.lock:
            knowledge = self.knowledge
            version = self.store.save_snapshot(knowledge.sequence, *knowledge.to_bytes())
        if version is None:
            raise StoreError("`store`: an agent was withdrawn meanwhile; nothing was kept")
        return version

    def rollback(self, version: int) -> None:
        """Serve a snapshot, and learn nothing until the next :meth:`consolidate`."""
        knowledge = self._load(version)
        if knowledge is None:
            raise RangeError(f"`version` must name a usable snapshot; got {version}")
        with self._learning, self.lock:
            self.store.pin(version)
            self._knowledge, self._pinned = knowledge, version

    def _is_due(self, on_time: bool) -> bool:
        waited_ms = 1e3 * (time.monotonic() - self._last)
        late = on_time and waited_ms >= self.config.background_interval_ms
        return self._enough() or (late and bool(self._fresh) and self._pinned is None)

    def _relearn(self) -> LearnResult:
        while True:
            with self.lock:
                config, withdrawals = self.config, self._withdrawals
                sequence = self.roster.sequence
                starts = {session: self.roster.first(session) for session in self.roster}
                fresh, self._fresh, self._arrived = self._fresh, set(), {}
            try:
                knowledge, result = learn(config, starts, self._read)
            except BaseException:
                with self.lock:
                    self._fresh |= fresh
                raise
            knowledge.sequence = sequence
            if config is self.config and withdrawals == self._withdrawals:
                self._keep(knowledge)
            with self.lock:
                if config is not self.config or withdrawals != self._withdrawals:
                    continue  # what was just learned is no longer what should be known
                self._waiting = dict(self._arrived)
                if self._pinned is not None:
                    self.store.pin(None)
                self._knowledge, self._pinned = knowledge, None
                self.consolidations += 1
                self._last = time.monotonic()
            self._take_waiting({})
            return result

    def _keep(self, knowledge: Knowledge) -> None:
        """Write a snapshot, if anybody could ever read it; learning goes on if that fails."""
        if not self.store.durable:
            return
        try:
            self.store.save_snapshot(knowledge.sequence, *knowledge.to_bytes())
            self.store.prune_snapshots(_SNAPSHOTS_KEPT)
        except StoreError as error:
            _log.error("no snapshot was kept: %s", error)

    def _take_waiting(self, at_hand: Mapping[int, _Screened], seconds: float | None = None) -> None:
        """Let the serving engine learn what was noted, one by one."""
        _ = self.knowledge
        end = None if seconds is None else time.monotonic() + seconds
        with self._taking:
            while True:
                with self.lock:
                    knowledge = self.knowledge
                    if not self._waiting:
                        knowledge.sequence = self.roster.sequence
                        return
                    session = next(iter(self._waiting))
                    sequence = self._waiting.pop(session)
                    pinned = self._pinned is not None
                # If a consolidation swaps meanwhile, it has learned this one or has it waiting.
                self._take(knowledge, session, at_hand.get(sequence), pinned)
                if end is not None and time.monotonic() >= end:
                    return

    def _take(
        self, knowledge: Knowledge, session: Session, screened: _Screened | None, pinned: bool
    ) -> None:
        """Let an engine learn a session that arrived, or leave it to the next consolidation."""
        found = None if pinned else screened or self._read(session)
        if pinned or (found is not None and not knowledge.take(*found)):
            with self.lock:
                self._fresh.add(session[0])

    def _read(self, session: Session) -> _Screened | None:
        """Read an export back; None where it is gone, or was damaged and is set aside."""
        found = self.store.export(session)
        if found is None:
            with self.lock:
                self.roster.discard(session)
            return None
        export = found[1]
        try:
            return export, trust.screen(export, self.config.embedding_dim_)[0]
        except SonaError as error:
            self.store.set_aside(session, f"not acceptable: {error}")
            with self.lock:
                self.roster.discard(session)
            return None

    # Starting

    def _remember(self) -> None:
        """Know again what the store holds: the last good snapshot, then what came after it."""
        knowledge = self._last_good()
        if knowledge is None:
            self._relearn()
            return
        while True:
            changes = self.store.changes(knowledge.sequence)
            for session in [
                held.session for held in changes.sessions if held.session in self.roster
            ]:
                self._fresh.add(session[0])
                self._take(knowledge, session, None, self._pinned is not None)
            knowledge.sequence = changes.sequence
            with self.lock:
                if knowledge.sequence >= self.roster.sequence:  # else more was noted meanwhile
                    self._knowledge = knowledge
                    return

    def _last_good(self) -> Knowledge | None:
        usable = [s.version for s in self.store.snapshots() if s.fault is None]
        for version in usable if self._pinned is None else [self._pinned, *usable]:
            try:
                found = self._load(version)
            except FormatError:
                continue
            if found is not None:
                return found
        return None

    def _load(self, version: int) -> Knowledge | None:
        """Read a snapshot; None if there is none or it was made with other settings."""
        found = self.store.snapshot(version)
        if found is None:
            return None
        try:
            knowledge = Knowledge.from_bytes(*found)
        except FormatError as error:
            self.store.fault_snapshot(version, str(error))
            raise
        return knowledge if knowledge.engine.config == self.config else None

    def _recount(self) -> None:
        """Judge what was judged by another threshold."""
        threshold = self.config.quality_threshold

        def anew(session: Session) -> Summary | None:
            found = self._read(session)
            return None if found is None else trust.summarise(*found, threshold)

        changed = self.roster.recount(threshold, anew)
        if changed:
            self.store.resummarise(changed)
