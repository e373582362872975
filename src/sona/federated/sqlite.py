"""The store's database on SQLite: one file, or a private one that ends with the process."""

from __future__ import annotations

import os
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from sona.errors import StoreError, VersionError
from sona.federated.checkpoint import Checkpoints
from sona.federated.database import SCHEMA, SCHEMA_VERSION, Run
from sona.federated.migration import from_version_1

if TYPE_CHECKING:
    import sqlite3

__all__ = ["SqliteDatabase", "write_ahead"]

# How long a writer waits for another process before it gives up.
_WAIT_S = 30.0
# Of new files. An export is some hundred kilobytes, and each page of it is written with two calls.
_PAGE_BYTES = 16 << 10
# With so many bytes in the write-ahead log a commit starts it anew; see the checkpoint module.
_LOG_BYTES = 16 << 20
# Batches of every size have statements of their own, which need not be read again.
_STATEMENTS = 512


class SqliteDatabase:
    """A file in write-ahead-log mode with ``synchronous=FULL``.

    Parameters
    ----------
    path : str
        The file, created if missing; empty for a private temporary database, which SQLite keeps
        in memory while it is small and in an unnamed file when it is not.

    Raises
    ------
    StoreError
        If it cannot be opened or is no store.
    VersionError
        If a newer release wrote it.
    """

    def __init__(self, path: str) -> None:
        import sqlite3  # not at import of sona: only those who store need it

        self.error: type[Exception] = sqlite3.Error
        self.name = repr(path) if path else "private store"
        self.durable = bool(path)
        self._path = path
        self._sqlite3 = sqlite3
        self._closers: list[weakref.finalize[..., Any]] = []
        self._writing = self._reading = threading.Lock()
        self._written = 0
        self._checkpoints: Checkpoints | None = None
        try:
            self._db = self._reader = self._connect()
            if self.durable:
                self._db.execute(f"PRAGMA page_size={_PAGE_BYTES}")
                write_ahead(self._db)
                self._db.execute("PRAGMA synchronous=FULL")
                pages = _LOG_BYTES // self._number("page_size")
                self._db.execute(f"PRAGMA wal_autocheckpoint={pages}")
            self._migrate()
            if self.durable:  # what is read need not wait until a disk has what is written
                self._reading, self._reader = threading.Lock(), self._connect()
                self._reader.execute("PRAGMA query_only=1")
                self._checkpoints = Checkpoints(partial(_open, self._path))
                weakref.finalize(self, self._checkpoints.end)
        except sqlite3.Error as error:
            raise StoreError(f"`store`: cannot open {self.name}: {error}") from error

    @contextmanager
    def writing(self) -> Iterator[Run]:
        with self._writing:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    self._written = 0
                    yield self._run
                    self._db.execute("COMMIT")
                except BaseException:
                    # A full disk may have rolled back already.
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except self.error as error:
                raise StoreError(f"`store`: {self.name} did not commit: {error}") from error
            if self._checkpoints is not None:
                self._checkpoints.committed(self._written)

    def read(self, sql: str, *values: Any) -> list[Any]:
        with self._reading:
            try:
                return _run(self._reader, sql, *values)
            except self.error as error:
                raise StoreError(f"`store`: cannot read {self.name}: {error}") from error

    def check(self) -> list[str]:
        found = [row[0] for row in self.read("PRAGMA integrity_check")]
        return [] if found == ["ok"] else [f"{self.name}: {line}" for line in found]

    def backup(self, path: str) -> None:
        try:
            copy = self._sqlite3.connect(path)
            try:
                with self._reading:
                    self._reader.backup(copy)
            finally:
                copy.close()
        except self.error as error:
            raise StoreError(f"`path`: cannot back up to {path!r}: {error}") from error

    def restore(self, path: str) -> None:
        if not os.path.isfile(path):
            raise StoreError(f"`path`: there is no backup at {path!r}")
        try:
            copy = self._sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            try:
                version = copy.execute("PRAGMA user_version").fetchone()[0]
                sound = copy.execute("PRAGMA integrity_check").fetchone()[0]
                if sound != "ok" or not 0 < version <= SCHEMA_VERSION:
                    raise StoreError(
                        f"`path`: {path!r} is no sound store: schema {version}, {sound}"
                    )
                beside = os.path.dirname(os.path.abspath(self._path)) if self.durable else None
                with self._writing, tempfile.TemporaryDirectory(dir=beside) as folder:
                    pages = self._number("page_size")
                    if copy.execute("PRAGMA page_size").fetchone()[0] != pages:
                        # A file in use keeps its page size, and takes in pages of that size only.
                        fitting = os.path.join(folder, "copy.db")
                        copy.execute(f"PRAGMA page_size={pages}")
                        copy.execute("VACUUM INTO ?", (fitting,))
                        copy.close()
                        copy = self._sqlite3.connect(fitting)
                    copy.backup(self._db)
                    self._migrate()
            finally:
                copy.close()
        except self.error as error:
            raise StoreError(f"`path`: cannot restore from {path!r}: {error}") from error

    def close(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.end()
            self._checkpoints.join()
        for lock, closer in zip((self._writing, self._reading), self._closers, strict=False):
            with lock:
                closer()

    def _connect(self) -> sqlite3.Connection:
        db = _open(self._path)
        self._closers.append(weakref.finalize(self, db.close))
        return db

    def _run(self, sql: str, *values: Any) -> list[Any]:
        self._written += sum(len(value) for value in values if isinstance(value, bytes))
        return _run(self._db, sql, *values)

    def _migrate(self) -> None:
        if self._number("user_version") == SCHEMA_VERSION:
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            version = self._number("user_version")  # another process may have been faster
            if version > SCHEMA_VERSION:
                raise VersionError(
                    f"`store`: {self.name} has schema {version}; this release reads up to"
                    f" {SCHEMA_VERSION}"
                )
            if version < SCHEMA_VERSION:
                if version == 0 and self._run("SELECT 1 FROM sqlite_master LIMIT 1"):
                    raise StoreError(f"`store`: {self.name} is a database of something else")
                # An integer that is called so is the row's own number and needs no index.
                for statement in SCHEMA.replace("BIGINT PRIMARY", "INTEGER PRIMARY").split(";"):
                    self._db.execute(statement)
                if version == 1:
                    from_version_1(self._run)
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _number(self, pragma: str) -> int:
        return int(self._db.execute(f"PRAGMA {pragma}").fetchone()[0])


def _open(path: str) -> sqlite3.Connection:
    import sqlite3  # not at import of sona: only those who store need it

    return sqlite3.connect(
        path,
        timeout=_WAIT_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_STATEMENTS,
    )


def write_ahead(db: sqlite3.Connection) -> None:
    """Put a file into write-ahead-log mode, waiting for another process that does the same.

    A file changes its mode under a lock that SQLite itself does not wait for: where two processes
    open a new file at once, one of them is told that it is locked. Waits for at most 30 seconds.
    """
    import sqlite3  # not at import of sona: only those who store need it

    until = time.monotonic() + _WAIT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            locked = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not locked or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _run(db: sqlite3.Connection, sql: str, *values: Any) -> list[Any]:
    return db.execute(sql, values).fetchall()
