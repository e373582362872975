"""The coordinator's store: exports, decisions and snapshots of what was learned, in SQL.

A write returns after its commit; what was acknowledged survives a killed process and a power
cut. Every decision about an export is made inside the transaction that records it, so several
coordinators on one store neither lose nor double anything. Each change of a session or an agent
takes the next number of one *sequence*; whoever knows the store up to a number asks for what
came after it.

The same statements run on SQLite (:mod:`sona.federated.sqlite`) and on PostgreSQL
(:mod:`sona.federated.postgres`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath

import msgspec

from sona import wire
from sona.errors import FormatError, StoreError
from sona.federated import entries
from sona.federated.changes import Changes, Held
from sona.federated.database import Database
from sona.federated.export import AgentExport
from sona.federated.merge import Session, Stamp
from sona.federated.records import Decision, Snapshot, Summary
from sona.federated.together import Together
from sona.federated.trust import Judged

__all__ = ["Store", "open_store"]

_log = logging.getLogger(__name__)


class Store:
    """Exports, decisions and snapshots of one fleet.

    Parameters
    ----------
    database : Database

    Notes
    -----
    Safe to use from several threads, and several stores may share one database. Exports that
    several threads put at the same time are committed together. Whatever :class:`StoreError` is
    raised, nothing was changed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._together = Together(database)

    @property
    def name(self) -> str:
        """Where it is; shows no password."""
        return self._database.name

    @property
    def durable(self) -> bool:
        """Whether it outlives the process."""
        return self._database.durable

    # Exports

    def put(self, judged: Judged) -> tuple[str, Held | None]:
        """Commit an export and what was decided about it.

        Returns
        -------
        ruling : str
            See :func:`~sona.federated.merge.ruling`.
        held : Held or None
            The change; None where nothing changed.

        Raises
        ------
        StoreError
            If it could not be committed.
        """
        return self._together.commit(lambda run: entries.put_all(run, [judged]))[0]

    def put_all(self, judged: Sequence[Judged]) -> list[tuple[str, Held | None] | StoreError]:
        """Commit several exports with one transaction, as :meth:`put` each of them.

        One that cannot be committed spoils no other: its error stands in its place.
        """
        if not judged:
            return []
        try:
            return list(self._together.commit(lambda run: entries.put_all(run, judged)))
        except StoreError as error:
            if len(judged) == 1:
                return [error]
            return [told for one in judged for told in self.put_all([one])]

    def refuse(self, export: AgentExport, reason: str, *, strike: bool) -> None:
        """Record that an export was refused whole, and count a strike against its agent."""
        with self._database.writing() as run:
            if strike:
                epoch, strikes = entries.standing_of(run, export.agent_id)
                entries.set_agent(run, export.agent_id, epoch, strikes + 1)
            entries.audit(run, export, "refused", {reason: export.rows})

    def changes(self, after: int) -> Changes:
        """Return what happened after a sequence number; cheap when nothing did."""
        read = self._database.read
        last = int(read("SELECT number FROM facts WHERE name = 'sequence'")[0][0])
        if last == after:
            return Changes(last, {}, [])
        # What is committed meanwhile comes with the next call, agents and sessions alike.
        agents = read(
            "SELECT agent_id, epoch, strikes FROM agents WHERE sequence > ? AND sequence <= ?",
            *(after, last),
        )
        rows = read(
            "SELECT agent_id, started, epoch, sent, n_rows, export_id, sequence, summary"
            " FROM sessions WHERE sequence > ? AND sequence <= ? ORDER BY sequence",
            *(after, last),
        )
        sessions = []
        for row in rows:
            try:
                summary = wire.decoder(Summary).decode(row[7]) if row[7] else None
            except msgspec.DecodeError as error:
                self.set_aside(row[:2], f"summary is unreadable: {error}")
                continue
            sessions.append(Held((row[0], row[1]), Stamp(*row[2:6]), row[6], summary))
        return Changes(
            last, {agent: (epoch, strikes) for agent, epoch, strikes in agents}, sessions
        )

    def export(self, session: Session) -> tuple[int, AgentExport] | None:
        """Return a session's sequence number and export; None where it holds none.

        A damaged one is reported, set aside and None from then on.
        """
        try:
            rows = self._database.read(
                "SELECT sessions.sequence, body FROM sessions"
                " JOIN bodies ON bodies.sequence = sessions.sequence"
                " WHERE agent_id = ? AND started = ?",
                *session,
            )
            return (int(rows[0][0]), AgentExport.from_bytes(rows[0][1])) if rows else None
        except (FormatError, StoreError) as error:
            self.set_aside(session, f"export is unreadable: {error}")
            return None

    def resummarise(self, summaries: Mapping[Session, Summary]) -> None:
        """Describe sessions anew: by another threshold, nothing else of them changed."""
        with self._database.writing() as run:
            for session, summary in summaries.items():
                run(
                    "UPDATE sessions SET summary = ? WHERE agent_id = ? AND started = ?",
                    msgspec.json.encode(summary),
                    *session,
                )

    # Agents

    def set_agent(
        self, agent_id: str, epoch: int | None = None, strikes: int | None = None
    ) -> None:
        """Change an agent's epoch or its strikes.

        A new epoch takes the agent's exports out, and with them every snapshot, for each may
        have learned from them. An epoch never falls.
        """
        with self._database.writing() as run:
            old_epoch, old_strikes = entries.standing_of(run, agent_id)
            epoch = max(old_epoch, old_epoch if epoch is None else epoch)
            entries.set_agent(run, agent_id, epoch, old_strikes if strikes is None else strikes)
            if epoch > old_epoch:
                entries.bury_agent(run, agent_id, epoch)

    def withdraw_sessions(self, stamps: Mapping[Session, Stamp]) -> None:
        """Learn from elsewhere that sessions were withdrawn."""
        with self._database.writing() as run:
            for session, stamp in stamps.items():
                held = entries.stamp_of(run, session)
                if held is None or stamp.rank > held.rank:
                    entries.place(run, session, held, stamp, b"")
                    if held is not None:
                        entries.forget_snapshots(run)

    # Decisions

    def decisions(self, limit: int = 100, before: int | None = None) -> list[Decision]:
        """Return what was decided, the newest first; `before` continues a listing."""
        rows = self._database.read(
            "SELECT number, made, agent_id, started, export_id, ruling, reasons FROM decisions"
            " WHERE number < ? ORDER BY number DESC LIMIT ?",
            2**62 if before is None else before,
            limit,
        )
        return [_decision(*row) for row in rows]

    # Snapshots

    def save_snapshot(self, sequence: int, facts: bytes, engine: bytes) -> int | None:
        """Keep what was learned from everything up to `sequence`; returns its version.

        None, and nothing is kept, if an agent was withdrawn since.
        """
        with self._database.writing() as run:
            if run("SELECT 1 FROM agents WHERE sequence > ? AND epoch > 0", sequence):
                return None
            version = 1 + int(run("SELECT coalesce(max(version), 0) FROM snapshots")[0][0])
            run(
                "INSERT INTO snapshots VALUES (?, ?, ?, NULL, ?, ?, ?)",
                *(version, entries.now_ms(), sequence, len(facts) + len(engine), facts, engine),
            )
        return version

    def snapshots(self) -> list[Snapshot]:
        """Return all snapshots, the newest first."""
        rows = self._database.read(
            "SELECT version, made, sequence, n_bytes, fault FROM snapshots ORDER BY version DESC"
        )
        return [Snapshot(*row) for row in rows]

    def snapshot(self, version: int) -> tuple[bytes, bytes] | None:
        """Return facts and engine of a snapshot; None where there is none."""
        rows = self._database.read("SELECT facts, engine FROM snapshots WHERE version = ?", version)
        return (bytes(rows[0][0]), bytes(rows[0][1])) if rows else None

    def fault_snapshot(self, version: int, fault: str) -> None:
        """Mark a snapshot as unusable; it is listed and never loaded again."""
        _log.error("%s: snapshot %d is set aside: %s", self.name, version, fault)
        with self._database.writing() as run:
            run("UPDATE snapshots SET fault = ? WHERE version = ?", fault, version)

    def prune_snapshots(self, keep: int) -> int:
        """Delete all but the newest `keep` sound snapshots; returns how many went."""
        sound = [s.version for s in self.snapshots() if s.fault is None][:keep]
        with self._database.writing() as run:
            before = int(run("SELECT count(*) FROM snapshots")[0][0])
            run("DELETE FROM snapshots WHERE version < ?", min(sound, default=2**62))
            return before - int(run("SELECT count(*) FROM snapshots")[0][0])

    def pinned(self) -> int | None:
        """Version that was rolled back to, while that holds."""
        rows = self._database.read("SELECT number FROM facts WHERE name = 'pinned'")
        return int(rows[0][0]) if rows else None

    def pin(self, version: int | None) -> None:
        """Hold on to a snapshot, or let go."""
        with self._database.writing() as run:
            run("DELETE FROM facts WHERE name = 'pinned'")
            if version is not None:
                run("INSERT INTO facts VALUES ('pinned', ?)", version)

    # Care

    def set_aside(self, session: Session, fault: str) -> None:
        """Take a damaged session out of the way, keeping what is left of it."""
        place = f"{session[0]} started {session[1]}"
        _log.error("%s: export of %s is set aside: %s", self.name, place, fault)
        try:
            with self._database.writing() as run:
                found = run(
                    "SELECT sequence FROM sessions WHERE agent_id = ? AND started = ?", *session
                )
                for (sequence,) in found:
                    body = run("SELECT body FROM bodies WHERE sequence = ?", sequence)
                    number = 1 + int(run("SELECT coalesce(max(number), 0) FROM set_aside")[0][0])
                    run(
                        "INSERT INTO set_aside VALUES (?, ?, ?, ?, ?)",
                        *(number, entries.now_ms(), place, fault, body[0][0] if body else b""),
                    )
                    run("DELETE FROM bodies WHERE sequence = ?", sequence)
                run("DELETE FROM sessions WHERE agent_id = ? AND started = ?", *session)
        except StoreError as error:  # a page that cannot be read cannot be moved either
            _log.error("%s: %s stays where it is: %s", self.name, place, error)

    def faults(self) -> list[str]:
        """Return what was set aside, one line each, the newest first."""
        rows = self._database.read("SELECT place, fault FROM set_aside ORDER BY number DESC")
        return [f"{place}: {fault}" for place, fault in rows]

    def check(self) -> list[str]:
        """Read everything and return what is wrong, one line each; nothing is changed.

        Raises
        ------
        StoreError
            If the database cannot be read at all.
        """
        found = [*self._database.check(), *self.faults()]
        for snapshot in self.snapshots():
            if snapshot.fault is not None:
                found.append(f"snapshot {snapshot.version}: {snapshot.fault}")
        for agent_id, started, summary, body in self._everything():
            try:
                if summary:
                    wire.decoder(Summary).decode(summary)
                    AgentExport.from_bytes(b"" if body is None else body)
            except (FormatError, msgspec.DecodeError) as error:
                found.append(f"export of {agent_id} started {started}: {error}")
        return found

    def backup(self, path: str | PathLike[str]) -> None:
        """Write a consistent copy of everything to a file, also while others write.

        Raises
        ------
        StoreError
            If it cannot be written, or the database has a tool of its own for it.
        """
        self._database.backup(fspath(path))

    def restore(self, path: str | PathLike[str]) -> None:
        """Replace everything by a copy that :meth:`backup` wrote; a damaged copy is refused.

        Coordinators that are open on the store must be opened anew.

        Raises
        ------
        StoreError
            If the copy is no sound store.
        """
        self._database.restore(fspath(path))

    def close(self) -> None:
        """Close the store; it cannot be used afterwards."""
        self._database.close()

    def _everything(self) -> Iterator[tuple[str, int, bytes, bytes | None]]:
        last: tuple[str, int] = ("", -(2**63))
        while page := self._database.read(
            "SELECT agent_id, started, summary, body FROM sessions"
            " LEFT JOIN bodies ON bodies.sequence = sessions.sequence"
            " WHERE (agent_id, started) > (?, ?) ORDER BY agent_id, started LIMIT 20",
            *last,
        ):
            yield from page
            last = page[-1][:2]


def open_store(where: str | PathLike[str] | Store | None) -> Store:
    """Open a store: a path (SQLite), a ``postgresql://`` address, or None for a private one.

    A private store holds what does not fit memory in a temporary file and ends with the process.
    """
    if isinstance(where, Store):
        return where
    text = "" if where is None else fspath(where)
    if text.startswith(("postgresql://", "postgres://")):
        from sona.federated.postgres import PostgresDatabase

        return Store(PostgresDatabase(text))
    from sona.federated.sqlite import SqliteDatabase

    if where is not None and not text:
        raise StoreError("`store` must name a file; got an empty path")
    return Store(SqliteDatabase(text))


def _decision(
    number: int, made: int, agent: str, started: int, export_id: str, decided: str, reasons: str
) -> Decision:
    told = msgspec.json.decode(reasons, type=dict[str, int])
    return Decision(number, made, agent, started, export_id, decided, told)
