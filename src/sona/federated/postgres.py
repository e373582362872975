"""The store's database on PostgreSQL, for several coordinators on different hosts."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sona.errors import MissingExtraError, StoreError, VersionError
from sona.federated.database import SCHEMA, SCHEMA_VERSION, Run

__all__ = ["PostgresDatabase"]

# Names the lock that writers take turns by, so that sequence numbers become visible in order.
_LOCK = 0x50_4E_41


class _Line:
    """One connection, opened again where the server closed it, and who has it now."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self.lock = threading.Lock()
        self._connect = connect
        self._db: Any = None

    @property
    def db(self) -> Any:
        if self._db is None or self._db.broken:
            self._db = self._connect()
        return self._db

    def run(self, sql: str, *values: Any) -> list[Any]:
        cursor = self.db.execute(sql.replace("?", "%s"), values or None)
        return [] if cursor.description is None else list(cursor.fetchall())

    def close(self) -> None:
        with self.lock:
            if self._db is not None:
                self._db.close()


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
        self.name = "PostgreSQL store"
        self._address = address
        self._psycopg = psycopg
        # What is read need not wait until a disk has what is written.
        self._writer, self._reader = _Line(self._connect), _Line(self._connect)
        try:
            info = self._writer.db.info
            self.name = f"PostgreSQL store {info.dbname!r} at {info.host}"
            self._migrate()
        except psycopg.Error as error:
            raise StoreError(f"`store`: cannot open {self.name}: {error}") from error

    @contextmanager
    def writing(self) -> Iterator[Run]:
        with self._writer.lock:
            try:
                with self._writer.db.transaction():
                    self._writer.run("SELECT pg_advisory_xact_lock(?)", _LOCK)
                    yield self._writer.run
            except self.error as error:
                raise StoreError(f"`store`: {self.name} did not commit: {error}") from error

    def read(self, sql: str, *values: Any) -> list[Any]:
        with self._reader.lock:
            try:
                return self._reader.run(sql, *values)
            except self.error as error:
                raise StoreError(f"`store`: cannot read {self.name}: {error}") from error

    def check(self) -> list[str]:
        return []  # the server checks its pages when it reads them

    def backup(self, path: str) -> None:
        raise StoreError(f"`path`: {self.name} is backed up with pg_dump")

    def restore(self, path: str) -> None:
        raise StoreError(f"`path`: {self.name} is restored with pg_restore")

    def close(self) -> None:
        self._writer.close()
        self._reader.close()

    def _connect(self) -> Any:
        db = self._psycopg.connect(
            self._address,
            autocommit=True,
            options="-c synchronous_commit=on -c search_path=sona",
        )
        weakref.finalize(self, db.close)
        return db

    def _migrate(self) -> None:
        run = self._writer.run
        with self._writer.db.transaction():
            run("SELECT pg_advisory_xact_lock(?)", _LOCK)
            run("CREATE SCHEMA IF NOT EXISTS sona")
            if not run("SELECT 1 FROM pg_tables WHERE schemaname = 'sona'"):
                for statement in SCHEMA.replace("BLOB", "BYTEA").split(";"):
                    run(statement)
                run("INSERT INTO facts VALUES ('schema', ?)", SCHEMA_VERSION)
            version = int(run("SELECT number FROM facts WHERE name = 'schema'")[0][0])
            if version > SCHEMA_VERSION:
                raise VersionError(
                    f"`store`: {self.name} has schema {version}; this release reads up to"
                    f" {SCHEMA_VERSION}"
                )
