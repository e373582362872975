"""Who may speak for whom: bearer tokens bound to a tenant and, if wanted, to one agent.

A token is ``sona_ID_SECRET``. The file keeps the SHA-256 of the secret only; 256 random bits need
no slow hash. The look-up goes by the public ID, and the secret's hash is compared in constant
time, against a dummy where the ID is unknown, so that time tells nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from os import PathLike, fspath
from typing import NamedTuple

from sona.checks import check_text
from sona.errors import RangeError, StoreError
from sona.federated.sqlite import write_ahead

__all__ = ["Caller", "TokenBook", "TokenInfo", "check_tenant"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    agent TEXT,
    hash BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
)
"""
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_TOKEN = re.compile(r"sona_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


class Caller(NamedTuple):
    """Who asks.

    Attributes
    ----------
    tenant : str
        Whose knowledge is at stake.
    agent : str or None
        The only agent that the caller may speak for; None: any of the tenant.
    token_id : str
        Public part of the token; empty where none is required.
    """

    tenant: str
    agent: str | None
    token_id: str


class TokenInfo(NamedTuple):
    """What may be shown of a token: everything but its secret."""

    token_id: str
    tenant: str
    agent: str | None
    created_at: int
    revoked_at: int | None


def check_tenant(tenant: object) -> str:
    """Return `tenant` if it is a name that every file system takes."""
    if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
        raise RangeError(
            "`tenant` must be 1 to 63 of a-z, 0-9, '-' and '_', beginning with a letter or a"
            f" digit; got {tenant!r}"
        )
    return tenant


class TokenBook:
    """The tokens of one service, in an SQLite file that several processes may open.

    Parameters
    ----------
    path : path_like
        SQLite file; created if missing.

    Raises
    ------
    StoreError
        If it cannot be opened.

    Notes
    -----
    Safe to use from several threads. Every look-up reads the file, so a revoked token is refused
    with the next request; it costs some 20 microseconds.

    Examples
    --------
    >>> book = TokenBook(":memory:")
    >>> token = book.create("acme", "agent-1")
    >>> book.verify(token)[:2]
    ('acme', 'agent-1')
    >>> book.revoke(book.tokens()[0].token_id), book.verify(token)
    (True, None)
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        import sqlite3  # not at import of sona: only those who serve need it

        self._lock = threading.Lock()
        self._nobody = hashlib.sha256(secrets.token_bytes(32)).digest()
        try:
            self._db = sqlite3.connect(
                fspath(path), timeout=10.0, isolation_level=None, check_same_thread=False
            )
            write_ahead(self._db)
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(_SCHEMA)
        except sqlite3.Error as error:
            raise StoreError(f"`store`: cannot open {fspath(path)!r}: {error}") from error

    def create(self, tenant: str, agent: str | None = None) -> str:
        """Make a token and return it; nobody can read it again.

        Parameters
        ----------
        tenant : str
            Whose knowledge it opens.
        agent : str, optional
            The only agent whose exports it may bring; any agent of the tenant if not given.
        """
        check_tenant(tenant)
        if agent is not None:
            check_text("agent", agent)
        token_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        row = (token_id, tenant, agent, _hash(secret), _now())
        with self._lock:
            self._db.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, NULL)", row)
        return f"sona_{token_id}_{secret}"

    def verify(self, token: str) -> Caller | None:
        """Return whose token it is; None if it is unknown, malformed or revoked."""
        match = _TOKEN.fullmatch(token)
        token_id, secret = match.groups() if match else ("", "")
        with self._lock:
            row = self._db.execute(
                "SELECT tenant, agent, hash FROM tokens WHERE id = ? AND revoked_at IS NULL",
                (token_id,),
            ).fetchone()
        tenant, agent, known = row or ("", None, self._nobody)
        same = hmac.compare_digest(_hash(secret), known)
        return Caller(tenant, agent, token_id) if same and row else None

    def tokens(self) -> list[TokenInfo]:
        """Return all tokens, the oldest first, revoked ones included."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, tenant, agent, created_at, revoked_at FROM tokens"
                " ORDER BY created_at, id"
            ).fetchall()
        return [TokenInfo(*row) for row in rows]

    def revoke(self, token_id: str) -> bool:
        """Refuse a token from now on; False if there is no such token in use."""
        with self._lock:
            done = self._db.execute(
                "UPDATE tokens SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
                (_now(), token_id),
            )
        return done.rowcount == 1

    def required(self) -> bool:
        """Whether callers must show a token: from the first one that was ever made."""
        with self._lock:
            return self._db.execute("SELECT 1 FROM tokens LIMIT 1").fetchone() is not None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _now() -> int:
    return time.time_ns() // 1_000_000
