"""The names under which nodes answer.

Every name has one meaning and one answer: a reply comes under the very name that was asked.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

__all__ = [
    "ALIVE",
    "ALL",
    "EXPORT",
    "FORWARD",
    "HEED",
    "LEDGER",
    "PUBLISH",
    "SUBMIT",
    "WARM",
    "alive",
    "export",
    "last",
    "session",
    "submit",
    "submit_like",
]

_ROOT = "sona/1"  # rises when an old process could misread a new one

ALL = f"{_ROOT}/**"
ALIVE = f"{_ROOT}/alive/**"
FORWARD = f"{_ROOT}/forward"
HEED = f"{_ROOT}/heed"
LEDGER = f"{_ROOT}/ledger"
PUBLISH = f"{_ROOT}/publish"
WARM = f"{_ROOT}/warm"
EXPORT = f"{_ROOT}/export/*/*"
SUBMIT = f"{_ROOT}/submit/*"


def submit(agent_id: str) -> str:
    """Name under which an agent hands in."""
    return f"{_ROOT}/submit/{_chunk(agent_id)}"


def submit_like(pattern: str) -> str:
    """Names of all agents that a pattern means; a ``*`` in it stands for any text."""
    if pattern == "*":
        return SUBMIT
    return f"{_ROOT}/submit/{'$*'.join(map(_chunk, pattern.split('*')))}"


def export(session: tuple[str, int]) -> str:
    """Name of the export that is held of a session."""
    return f"{_ROOT}/export/{_chunk(session[0])}/{session[1]}"


def alive(role: str, name: str) -> str:
    """Name of the liveliness token of an agent or a node."""
    return f"{_ROOT}/alive/{role}/{_chunk(name)}"


def last(key: str) -> str:
    """Return what the last part of a name stands for."""
    return unquote(key.rpartition("/")[2])


def session(key: str) -> tuple[str, int]:
    """Return the session that :func:`export` named."""
    agent_id, started = key.split("/")[-2:]
    return unquote(agent_id), int(started)


def _chunk(text: str) -> str:
    # Percent signs are legal in a key, and so everything that is not may hide behind them.
    return quote(text, safe="")
