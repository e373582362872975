"""The coordinator's durable store: the latest export of every session, in SQLite.

A write returns after the commit reached the disk (write-ahead log, ``synchronous=FULL``), so
what was acknowledged survives a killed process and a power cut. The store keeps what was sent,
bit for bit; what was learned from it is derived again at start-up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from os import PathLike, fspath
from typing import TYPE_CHECKING

from sona.errors import FormatError, StoreError, VersionError
from sona.federated.export import AgentExport

if TYPE_CHECKING:
    pass

__all__ = ["ExportStore"]

_log = logging.getLogger(__name__)
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE exports (
    agent_id TEXT NOT NULL,
    started INTEGER NOT NULL,
    export_id TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (agent_id, started)
)
"""


class ExportStore:
    """Exports on disk, one row per agent session.

    Parameters
    ----------
    path : path_like
        SQLite file; created if missing.

    Raises
    ------
    StoreError
        If the file cannot be opened or is not a store.
    VersionError
        If a newer release wrote it.

    Notes
    -----
    Safe to use from several threads; one process at a time should write.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        import sqlite3  # not at import of sona: only those who store need it

        self._lock = threading.Lock()
        self._error = sqlite3.Error
        self._path = fspath(path)
        try:
            self._db = sqlite3.connect(
                self._path, timeout=30.0, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._migrate()
        except sqlite3.Error as error:
            raise StoreError(f"`store`: cannot open {self._path!r}: {error}") from error

    def put(self, export: AgentExport) -> None:
        """Commit an export; it replaces an earlier one of the same session.

        Raises
        ------
        StoreError
            If it could not be committed; nothing was written.
        """
        agent_id, started = export.session
        row = (agent_id, started, export.export_id, time.time_ns() // 1_000_000, export.to_bytes())
        try:
            with self._lock:
                self._db.execute("INSERT OR REPLACE INTO exports VALUES (?, ?, ?, ?, ?)", row)
        except self._error as error:
            raise StoreError(f"`store`: {self._path!r} did not commit: {error}") from error

    def __iter__(self) -> Iterator[AgentExport]:
        """Read all exports in order of session; a damaged row is logged and left out."""
        for agent_id, started, body in self._rows():
            try:
                yield AgentExport.from_bytes(body)
            except FormatError as error:
                _log.error("export of %s started %d is unreadable: %s", agent_id, started, error)

    def __len__(self) -> int:
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM exports").fetchone()[0])

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        with self._lock:
            self._db.close()

    def _rows(self) -> Iterator[tuple[str, int, bytes]]:
        # A cursor of its own per page: writers are not held up while a long read goes on.
        last = ("", -(2**63))
        while True:
            with self._lock:
                page = self._db.execute(
                    "SELECT agent_id, started, body FROM exports"
                    " WHERE (agent_id, started) > (?, ?) ORDER BY agent_id, started LIMIT 100",
                    last,
                ).fetchall()
            if not page:
                return
            yield from page
            last = page[-1][:2]

    def _migrate(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._db.execute("BEGIN IMMEDIATE")
            if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
                self._db.execute(_SCHEMA)
                self._db.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
            self._db.execute("COMMIT")
        elif version > _SCHEMA_VERSION:
            self._db.close()
            raise VersionError(
                f"`store`: {self._path!r} has schema {version}; this release reads up to"
                f" {_SCHEMA_VERSION}"
            )
