"""The store's database on PostgreSQL, for several coordinators on different hosts."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sona.errors import MissingExtraError, StoreError, VersionError
from sona.federated.store import SCHEMA, SCHEMA_VERSION, Run

__all__ = ["PostgresDatabase"]

# Names the lock that writers take turns by, so that sequence numbers become visible in order.
_LOCK = 0x50_4E_41


class PostgresDatabase:
    """A schema ``sona`` in a PostgreSQL database.

    Parameters
    ----------
    address : str
        ``postgresql://user@host/database``.

    Raises
    ------
    MissingExtraError
        If psycopg is not installed.
    StoreError
        If the server cannot be reached or refuses.
    VersionError
        If a newer release wrote the schema.
    """

    def __init__(self, address: str) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise MissingExtraError(
                "a store on PostgreSQL needs psycopg: pip install 'sona[postgres]'"
            ) from error
        self.error: type[Exception] = psycopg.Error
        self.durable = True
        self._lock = threading.RLock()
        self._address = address
        self._psycopg = psycopg
        self.name = "PostgreSQL store"
        try:
            self._db = self._connect()
            info = self._db.info
            self.name = f"PostgreSQL store {info.dbname!r} at {info.host}"
            self._migrate()
        except psycopg.Error as error:
            raise StoreError(f"`store`: cannot open {self.name}: {error}") from error

    @contextmanager
    def writing(self) -> Iterator[Run]:
        with self._lock:
            try:
                self._reconnect()
                with self._db.transaction():
                    self._run("SELECT pg_advisory_xact_lock(?)", _LOCK)
                    yield self._run
            except self.error as error:
                raise StoreError(f"`store`: {self.name} did not commit: {error}") from error

    def read(self, sql: str, *values: Any) -> list[Any]:
        with self._lock:
            try:
                self._reconnect()
                return self._run(sql, *values)
            except self.error as error:
                raise StoreError(f"`store`: cannot read {self.name}: {error}") from error

    def check(self) -> list[str]:
        return []  # the server checks its pages when it reads them

    def backup(self, path: str) -> None:
        raise StoreError(f"`path`: {self.name} is backed up with pg_dump")

    def restore(self, path: str) -> None:
        raise StoreError(f"`path`: {self.name} is restored with pg_restore")

    def close(self) -> None:
        with self._lock:
            self._closer()

    def _connect(self) -> Any:
        db = self._psycopg.connect(
            self._address, autocommit=True, options="-c synchronous_commit=on"
        )
        self._closer = weakref.finalize(self, db.close)
        return db

    def _reconnect(self) -> None:
        """Open a new connection where the server closed the old one."""
        if self._db.broken:
            self._db = self._connect()
            self._run("SET search_path TO sona")

    def _run(self, sql: str, *values: Any) -> list[Any]:
        cursor = self._db.execute(sql.replace("?", "%s"), values or None)
        return [] if cursor.description is None else list(cursor.fetchall())

    def _migrate(self) -> None:
        with self._db.transaction():
            self._run("SELECT pg_advisory_xact_lock(?)", _LOCK)
            self._run("CREATE SCHEMA IF NOT EXISTS sona")
            self._run("SET search_path TO sona")
            if not self._run("SELECT 1 FROM pg_tables WHERE schemaname = 'sona'"):
                for statement in SCHEMA.replace("BLOB", "BYTEA").split(";"):
                    self._run(statement)
                self._run("INSERT INTO facts VALUES ('schema', ?)", SCHEMA_VERSION)
            version = int(self._run("SELECT number FROM facts WHERE name = 'schema'")[0][0])
            if version > SCHEMA_VERSION:
                raise VersionError(
                    f"`store`: {self.name} has schema {version}; this release reads up to"
                    f" {SCHEMA_VERSION}"
                )
