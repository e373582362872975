"""What happened to a tenant's exports: for the page, and to know an idempotency key again.

Exactly-once does not hang on this file: the coordinator knows an export by its content. History
is therefore written behind the answers, several entries with one commit; a killed process loses
at most the last moment of it, never an export.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from os import PathLike, fspath
from typing import Any

import msgspec

from sona import wire
from sona.errors import StoreError
from sona.federated.sqlite import write_ahead
from sona.service.records import Consolidation, Decision, Totals
from sona.service.timeline import Timeline

__all__ = ["Entry", "History"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, body TEXT NOT NULL)
"""
#: Entries that are kept on disk, and keys that are remembered.
_KEPT = 100_000
_KEYS = 100_000
_RECENT = 30
_CONSOLIDATIONS = 10


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of history: an export, or a consolidation (``seconds`` set).

    ``quality`` is the mean over the session, ``first`` over its first requests, in which a warm
    start shows.
    """

    at: int
    agent: str = ""
    result: str = ""
    accepted: int = 0
    rejected: int = 0
    reasons: dict[str, int] = {}
    quality: float | None = None
    first: float | None = None
    warm: bool = False
    routes: dict[str, tuple[int, float]] = {}
    key: str | None = None
    digest: str = ""
    seconds: float | None = None


class History:
    """The past of one tenant, in memory in bounded form, and behind it in a file.

    Parameters
    ----------
    path : path_like
        SQLite file; created if missing.

    Notes
    -----
    :meth:`add` and the views belong to the event loop's thread; :meth:`flush` may run in
    another.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        import sqlite3  # not at import of sona: only those who serve need it

        self.timeline = Timeline()
        self.reasons: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._agents: set[str] = set()
        self._keys: OrderedDict[str, str] = OrderedDict()
        self._recent: deque[Decision] = deque(maxlen=_RECENT)
        self._consolidations: deque[Consolidation] = deque(maxlen=_CONSOLIDATIONS)
        self._unwritten: list[Entry] = []
        self._write_lock = threading.Lock()
        self._error = sqlite3.Error
        try:
            self._db = sqlite3.connect(
                fspath(path), timeout=10.0, isolation_level=None, check_same_thread=False
            )
            write_ahead(self._db)
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_SCHEMA)
            rows = self._db.execute("SELECT body FROM entries ORDER BY number").fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"`store`: cannot open {fspath(path)!r}: {error}") from error
        for (body,) in rows:
            try:
                self._count(wire.decoder(Entry).decode(body))
            except msgspec.DecodeError:  # one bad line is not worth the rest
                self._counts["unreadable"] += 1

    def add(self, entry: Entry) -> None:
        """Count an entry; :meth:`flush` writes it."""
        self._count(entry)
        self._unwritten.append(entry)

    def known(self, key: str) -> str | None:
        """Return the digest of the body that came with a key; None if the key is new."""
        return self._keys.get(key)

    def flush(self) -> None:
        """Write what is not written yet.

        Raises
        ------
        StoreError
            If it could not be written; it is kept and tried again, the oldest leaving first.
        """
        with self._write_lock:
            batch, self._unwritten = self._unwritten, []
            if not batch:
                return
            rows = [(msgspec.json.encode(entry).decode(),) for entry in batch]
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("INSERT INTO entries (body) VALUES (?)", rows)
                self._db.execute(
                    "DELETE FROM entries WHERE number <= (SELECT max(number) FROM entries) - ?",
                    (_KEPT,),
                )
                self._db.execute("COMMIT")
            except self._error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._unwritten = [*batch, *self._unwritten][-_KEPT:]
                raise StoreError(f"`store`: history was not written: {error}") from error

    def close(self) -> None:
        """Write what is left and close the file."""
        self.flush()
        self._db.close()

    @property
    def totals(self) -> Totals:
        """Counts over all that is remembered."""
        counts = self._counts
        return Totals(
            agents=len(self._agents),
            exports=counts["new"],
            duplicates=counts["duplicate"],
            refused=counts["refused"],
            accepted=counts["accepted"],
            rejected=counts["rejected"],
        )

    @property
    def recent(self) -> list[Decision]:
        """The last exports, the latest first."""
        return list(reversed(self._recent))

    @property
    def consolidations(self) -> list[Consolidation]:
        """The last consolidations, the latest first."""
        return list(reversed(self._consolidations))

    def _count(self, entry: Entry) -> None:
        if entry.seconds is not None:
            done = Consolidation(entry.at, entry.seconds, entry.accepted, len(self._agents))
            self._consolidations.append(done)
            return
        self._counts[entry.result] += 1
        self._recent.append(
            Decision(
                entry.at,
                entry.agent,
                entry.result,
                entry.accepted,
                entry.rejected,
                entry.quality,
                entry.warm,
                entry.reasons,
            )
        )
        if entry.key is not None and entry.result != "refused":
            self._keys[entry.key] = entry.digest
            if len(self._keys) > _KEYS:
                self._keys.popitem(last=False)
        if entry.result == "refused":
            self.reasons.update(entry.reasons)
        if entry.result != "new":
            return
        self._counts["accepted"] += entry.accepted
        self._counts["rejected"] += entry.rejected
        self.reasons.update(entry.reasons)
        self.timeline.add(
            entry.at,
            new_agent=entry.agent not in self._agents,
            accepted=entry.accepted,
            rejected=entry.rejected,
            quality=entry.first,
            warm=entry.warm,
            routes=entry.routes,
        )
        self._agents.add(entry.agent)


def now_ms() -> int:
    """Wall-clock time for people; nothing is decided by it."""
    return time.time_ns() // 1_000_000


def entry_facts(entry: Entry) -> dict[str, Any]:
    """Return what a log line says of an entry."""
    built: dict[str, Any] = msgspec.to_builtins(entry)
    for private in ("key", "digest", "routes"):
        built.pop(private, None)
    return built
