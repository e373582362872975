"""What the store writes within one transaction: sessions, agents, decisions, sequence numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from sona.federated.changes import Held
from sona.federated.database import Run
from sona.federated.export import AgentExport
from sona.federated.merge import Session, Stamp, ruling
from sona.federated.trust import Judged

__all__ = [
    "audit",
    "bury_agent",
    "forget_snapshots",
    "now_ms",
    "place",
    "put_all",
    "set_agent",
    "stamp_of",
    "standing_of",
]

#: Decisions kept for looking back; older ones go, so that a flood of replays cannot fill a disk.
DECISIONS_KEPT = 100_000
#: So many of them go at once.
_DECISIONS_GO = 1_000
#: Exports that one statement writes: a statement takes a bounded number of values.
_TOGETHER = 100


def now_ms() -> int:
    """Milliseconds since the epoch; shown, never decided by."""
    return time.time_ns() // 1_000_000


def standing_of(run: Run, agent_id: str) -> tuple[int, int]:
    """Return epoch and strikes of an agent."""
    rows = run("SELECT epoch, strikes FROM agents WHERE agent_id = ?", agent_id)
    return (int(rows[0][0]), int(rows[0][1])) if rows else (0, 0)


def set_agent(run: Run, agent_id: str, epoch: int, strikes: int) -> None:
    """Write an agent's row under the next sequence number."""
    run("DELETE FROM agents WHERE agent_id = ?", agent_id)
    (sequence,), _ = _next(run)
    run("INSERT INTO agents VALUES (?, ?, ?, ?)", agent_id, sequence, epoch, strikes)


def stamp_of(run: Run, session: Session) -> Stamp | None:
    """Return what is held of a session."""
    rows = run(
        "SELECT epoch, sent, n_rows, export_id FROM sessions WHERE agent_id = ? AND started = ?",
        *session,
    )
    return Stamp(*rows[0]) if rows else None


def place(run: Run, session: Session, held: Stamp | None, stamp: Stamp, summary: bytes) -> None:
    """Write a session's row under the next sequence number; what was `held` of it goes."""
    if held is not None:
        _clear(run, session)
    (sequence,), _ = _next(run)
    _insert(run, "sessions", [(*session, sequence, *stamp, now_ms(), summary)])


def put_all(run: Run, puts: Sequence[Judged]) -> list[tuple[str, Held | None]]:
    """Decide about exports, one after the other, and write them and what was decided.

    Returns
    -------
    list of (str, Held or None)
        For each the ruling, and the change; None where nothing changed.
    """
    return list(chain.from_iterable(_put(run, some) for some in _apart(puts)))


def bury_agent(run: Run, agent_id: str, epoch: int) -> None:
    """Delete what an agent sent in other epochs; the stamps stay, so that it stays out."""
    other = "FROM sessions WHERE agent_id = ? AND epoch <> ?"
    run(f"DELETE FROM bodies WHERE sequence IN (SELECT sequence {other})", agent_id, epoch)
    run("UPDATE sessions SET summary = ? WHERE agent_id = ? AND epoch <> ?", b"", agent_id, epoch)
    forget_snapshots(run)


def forget_snapshots(run: Run) -> None:
    """Delete every snapshot, because each may have learned from what was just taken out."""
    run("DELETE FROM snapshots")
    run("DELETE FROM facts WHERE name = 'pinned'")


def audit(run: Run, export: AgentExport, decided: str, reasons: Mapping[str, int]) -> None:
    """Remember what was decided about an export that is not put."""
    _audit(run, [(export, decided, reasons)], _next(run, 0)[1])


def _apart(puts: Sequence[Judged]) -> Iterator[Sequence[Judged]]:
    """Cut into stretches in which no session occurs twice: a later export meets the earlier."""
    begin, seen = 0, set[Session]()
    for end, one in enumerate(puts):
        if one.export.session in seen or len(seen) == _TOGETHER:
            yield puts[begin:end]
            begin, seen = end, set()
        seen.add(one.export.session)
    if seen:
        yield puts[begin:]


def _put(run: Run, puts: Sequence[Judged]) -> list[tuple[str, Held | None]]:
    """Write exports of different sessions, each kind of row with one statement."""
    sessions = [one.export.session for one in puts]
    found = run(
        "SELECT asked.column1, asked.column2, agents.epoch,"
        " sessions.epoch, sent, n_rows, export_id"
        f" FROM (VALUES {_rows(len(puts), 2)}) AS asked"
        " LEFT JOIN agents ON agents.agent_id = asked.column1"
        " LEFT JOIN sessions ON sessions.agent_id = asked.column1"
        " AND sessions.started = asked.column2",
        *chain.from_iterable(sessions),
    )
    epochs: dict[str, int] = {row[0]: row[2] or 0 for row in found}
    held = {(row[0], row[1]): Stamp(*row[3:]) for row in found if row[3] is not None}
    stamps = [Stamp(epochs[one.export.agent_id], *one.export.order) for one in puts]
    decided = [
        ruling(held.get(session), stamp.epoch, stamp[1:])
        for session, stamp in zip(sessions, stamps, strict=True)
    ]
    taken = [what in ("accepted", "superseded") for what in decided]
    # Of an agent that is withdrawn, a session that was never heard of is dead from now on.
    placed = [i for i, session in enumerate(sessions) if taken[i] or session not in held]
    for i in placed:
        if sessions[i] in held:
            _clear(run, sessions[i])
    numbers, last = _next(run, len(placed))
    changes = {
        i: Held(sessions[i], stamps[i], sequence, puts[i].summary if taken[i] else None)
        for i, sequence in zip(placed, numbers, strict=True)
    }
    now = now_ms()
    _insert(
        run,
        "sessions",
        [
            (
                *(*one.session, one.sequence, *one.stamp, now),
                b"" if one.summary is None else msgspec.json.encode(one.summary),
            )
            for one in changes.values()
        ],
    )
    _insert(
        run,
        "bodies",
        [(one.sequence, puts[i].export.to_bytes()) for i, one in changes.items() if taken[i]],
    )
    told = [(one.export, what, one.reasons) for one, what in zip(puts, decided, strict=True)]
    _audit(run, told, last)
    return [(what, changes.get(i)) for i, what in enumerate(decided)]


def _clear(run: Run, session: Session) -> None:
    """Delete what is held of a session."""
    run(
        "DELETE FROM bodies WHERE sequence IN"
        " (SELECT sequence FROM sessions WHERE agent_id = ? AND started = ?)",
        *session,
    )
    run("DELETE FROM sessions WHERE agent_id = ? AND started = ?", *session)


def _audit(
    run: Run, decisions: Sequence[tuple[AgentExport, str, Mapping[str, int]]], last: int
) -> None:
    """Remember what was decided, after the decision number `last`."""
    now = now_ms()
    rows = [
        (
            *(number, now, *export.session, export.export_id, decided),
            msgspec.json.encode(reasons).decode(),
        )
        for number, (export, decided, reasons) in enumerate(decisions, last + 1)
    ]
    _insert(run, "decisions", rows)
    end = last + len(rows)
    if last // _DECISIONS_GO < end // _DECISIONS_GO:
        run("DELETE FROM decisions WHERE number <= ?", end - DECISIONS_KEPT)


def _next(run: Run, count: int = 1) -> tuple[range, int]:
    """Take the next sequence numbers, and look what number the last decision has."""
    if count:
        run("UPDATE facts SET number = number + ? WHERE name = 'sequence'", count)
    sequence, decision = run(
        "SELECT number, (SELECT coalesce(max(number), 0) FROM decisions)"
        " FROM facts WHERE name = 'sequence'"
    )[0]
    return range(int(sequence) - count + 1, int(sequence) + 1), int(decision)


def _insert(run: Run, table: str, rows: Sequence[Sequence[Any]]) -> None:
    if rows:
        values = chain.from_iterable(rows)
        run(f"INSERT INTO {table} VALUES {_rows(len(rows), len(rows[0]))}", *values)


def _rows(count: int, width: int) -> str:
    row = f"({', '.join('?' * width)})"
    return ", ".join([row] * count)
