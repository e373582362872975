"""What a store needs of a database, and the tables that it keeps there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

__all__ = ["SCHEMA", "SCHEMA_VERSION", "Database", "Run"]

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, number BIGINT NOT NULL);
INSERT INTO facts VALUES ('sequence', 0);
CREATE TABLE agents (
    agent_id TEXT PRIMARY KEY,
    sequence BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    strikes BIGINT NOT NULL
);
CREATE TABLE sessions (
    agent_id TEXT NOT NULL,
    started BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    sent BIGINT NOT NULL,
    n_rows BIGINT NOT NULL,
    export_id TEXT NOT NULL,
    received BIGINT NOT NULL,
    summary BLOB NOT NULL,
    PRIMARY KEY (agent_id, started)
);
CREATE UNIQUE INDEX sessions_by_sequence ON sessions (sequence);
CREATE TABLE bodies (sequence BIGINT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE decisions (
    number BIGINT PRIMARY KEY,
    made BIGINT NOT NULL,
    agent_id TEXT NOT NULL,
    started BIGINT NOT NULL,
    export_id TEXT NOT NULL,
    ruling TEXT NOT NULL,
    reasons TEXT NOT NULL
);
CREATE TABLE snapshots (
    version BIGINT PRIMARY KEY,
    made BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    fault TEXT,
    n_bytes BIGINT NOT NULL,
    facts BLOB NOT NULL,
    engine BLOB NOT NULL
);
CREATE TABLE set_aside (
    number BIGINT PRIMARY KEY,
    found BIGINT NOT NULL,
    place TEXT NOT NULL,
    fault TEXT NOT NULL,
    body BLOB NOT NULL
)
"""

Run = Callable[..., list[Any]]


class Database(Protocol):
    """What a store needs of a database: transactions that writers take turns in."""

    name: str
    durable: bool
    error: type[Exception]

    def writing(self) -> AbstractContextManager[Run]:
        """Open a transaction that excludes all other writers; commit at the end."""

    def read(self, sql: str, *values: Any) -> list[Any]:
        """Run one query on what is committed; waits for no writer."""

    def check(self) -> list[str]:
        """Return what the database finds wrong with itself."""

    def backup(self, path: str) -> None:
        """Write a consistent copy, also while others write."""

    def restore(self, path: str) -> None:
        """Replace everything by a copy that :meth:`backup` wrote."""

    def close(self) -> None:
        """Let go of the database."""
