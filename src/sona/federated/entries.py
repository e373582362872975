"""What the store writes within one transaction: sessions, agents, decisions, sequence numbers."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from sona.federated.database import Run
from sona.federated.export import AgentExport
from sona.federated.merge import Session, Stamp

__all__ = [
    "audit",
    "bury_agent",
    "forget_snapshots",
    "now_ms",
    "place",
    "set_agent",
    "stamp_of",
    "standing_of",
]

#: Decisions kept for looking back; older ones go, so that a flood of replays cannot fill a disk.
DECISIONS_KEPT = 100_000


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
    run("INSERT INTO agents VALUES (?, ?, ?, ?)", agent_id, _next(run), epoch, strikes)


def stamp_of(run: Run, session: Session) -> Stamp | None:
    """Return what is held of a session."""
    rows = run(
        "SELECT epoch, sent, n_rows, export_id FROM sessions WHERE agent_id = ? AND started = ?",
        *session,
    )
    return Stamp(*rows[0]) if rows else None


def place(run: Run, session: Session, held: Stamp | None, stamp: Stamp, summary: bytes) -> int:
    """Write a session's row under the next sequence number; what was `held` of it goes."""
    if held is not None:
        run(
            "DELETE FROM bodies WHERE sequence IN"
            " (SELECT sequence FROM sessions WHERE agent_id = ? AND started = ?)",
            *session,
        )
        run("DELETE FROM sessions WHERE agent_id = ? AND started = ?", *session)
    sequence = _next(run)
    run(
        "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        *(*session, sequence, *stamp, now_ms(), summary),
    )
    return sequence


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
    """Remember what was decided about an export."""
    number = 1 + int(run("SELECT coalesce(max(number), 0) FROM decisions")[0][0])
    run(
        "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?)",
        *(number, now_ms(), *export.session, export.export_id, decided),
        msgspec.json.encode(dict(reasons)).decode(),
    )
    run("DELETE FROM decisions WHERE number <= ?", number - DECISIONS_KEPT)


def _next(run: Run) -> int:
    run("UPDATE facts SET number = number + 1 WHERE name = 'sequence'")
    return int(run("SELECT number FROM facts WHERE name = 'sequence'")[0][0])
