"""The merge algebra: which export of which session counts, whoever heard of it in which order.

What a fleet contributed is a :class:`Ledger`: a map from session (agent, start) to the stamp of
its latest export, and a map from agent to its *epoch*, a number that every withdrawal and every
readmission raises by one. Both are joined key by key, by the larger of two totally ordered
values, so joining is commutative, associative and idempotent by construction.

An agent is withdrawn while its epoch is odd. A stamp carries the epoch in which it was taken in
and counts only in that epoch. Of two stamps of one session the *lower* epoch wins, then the later
export: what was withdrawn once stays withdrawn, also when it is delivered again after its agent
was readmitted. An agent comes back by being readmitted and starting a new session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from sona import wire

__all__ = ["Ledger", "Session", "Stamp", "ruling"]

#: Agent and start of its session, milliseconds since the epoch.
Session: TypeAlias = tuple[str, int]


class Stamp(NamedTuple):
    """Which export of a session counts, and since which epoch of its agent.

    Attributes
    ----------
    epoch : int
        Epoch of the agent in which the session was taken in.
    timestamp, rows, export_id
        :attr:`AgentExport.order`: of two exports of a session the larger supersedes.
    """

    epoch: int
    timestamp: int
    rows: int
    export_id: str

    @property
    def rank(self) -> tuple[int, int, int, str]:
        """Of two stamps of a session, the one with the larger rank stands."""
        return (-self.epoch, self.timestamp, self.rows, self.export_id)


class _Body(msgspec.Struct):
    sessions: list[tuple[str, int, int, int, int, str]]
    epochs: dict[str, int]


class Ledger:
    """Who contributed what: a value with a join.

    Parameters
    ----------
    stamps : mapping of session to Stamp, optional
    epochs : mapping of str to int, optional
        Epoch of each agent; 0 where none is given, odd while withdrawn.

    Notes
    -----
    Nothing changes a ledger after it was made.

    Examples
    --------
    >>> early, late = Stamp(0, 1000, 3, "a"), Stamp(0, 2000, 5, "b")
    >>> here, there = Ledger({("agent", 0): early}), Ledger({("agent", 0): late})
    >>> here | there == there | here, (here | there)["agent", 0].rows
    (True, 5)
    >>> gone = Ledger({}, {"agent": 1})
    >>> list((here | gone).sessions())
    []
    """

    __slots__ = ("_epochs", "_stamps")

    def __init__(
        self,
        stamps: Mapping[Session, Stamp] | None = None,
        epochs: Mapping[str, int] | None = None,
    ) -> None:
        self._stamps = dict(stamps or {})
        self._epochs = {agent: epoch for agent, epoch in (epochs or {}).items() if epoch}
        # No stamp is older than what its ledger knows of the agent.
        for (agent, _), stamp in self._stamps.items():
            if stamp.epoch > self._epochs.get(agent, 0):
                self._epochs[agent] = stamp.epoch

    def __or__(self, other: Ledger) -> Ledger:
        """Join two ledgers."""
        stamps, epochs = dict(self._stamps), dict(self._epochs)
        for session, stamp in other._stamps.items():
            held = stamps.get(session)
            if held is None or stamp.rank > held.rank:
                stamps[session] = stamp
        for agent, epoch in other._epochs.items():
            epochs[agent] = max(epoch, epochs.get(agent, 0))
        return Ledger(stamps, epochs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ledger):
            return NotImplemented
        return self._stamps == other._stamps and self._epochs == other._epochs

    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, session: Session) -> Stamp:
        return self._stamps[session]

    def __len__(self) -> int:
        return len(self._stamps)

    @property
    def stamps(self) -> Mapping[Session, Stamp]:
        """Every stamp, also of sessions that were withdrawn."""
        return self._stamps

    @property
    def epochs(self) -> Mapping[str, int]:
        """Epochs of the agents that were ever withdrawn."""
        return self._epochs

    def epoch(self, agent_id: str) -> int:
        """Epoch of an agent; odd while it is withdrawn."""
        return self._epochs.get(agent_id, 0)

    def counts(self, session: Session) -> bool:
        """Whether the session is held and not withdrawn."""
        stamp = self._stamps.get(session)
        return stamp is not None and stamp.epoch == self.epoch(session[0]) and not stamp.epoch % 2

    def sessions(self) -> Iterator[Session]:
        """Sessions that count, in canonical order."""
        return (session for session in sorted(self._stamps) if self.counts(session))

    def news_for(self, other: Ledger) -> list[Session]:
        """Sessions that count, by all that both know, and whose export `other` lacks."""
        both = self | other
        return [
            session
            for session in self.sessions()
            if both.counts(session) and self._later(session, other)
        ]

    def graves_in(self, other: Ledger) -> dict[Session, Stamp]:
        """Sessions that are withdrawn by all that both know, where `other` says so first."""
        both = self | other
        return {
            session: stamp
            for session, stamp in other._stamps.items()
            if not both.counts(session) and other._later(session, self)
        }

    def _later(self, session: Session, other: Ledger) -> bool:
        held = other._stamps.get(session)
        return held is None or self._stamps[session].rank > held.rank

    def to_bytes(self) -> bytes:
        """Write it as one message, some 100 bytes a session."""
        sessions = [(*session, *self._stamps[session]) for session in sorted(self._stamps)]
        return msgspec.json.encode(_Body(sessions, dict(sorted(self._epochs.items()))))

    @classmethod
    def from_bytes(cls, data: bytes) -> Ledger:
        """Read what :meth:`to_bytes` wrote.

        Raises
        ------
        FormatError
            If the bytes are not a ledger.
        """
        body = wire.decode_json(data, _Body)
        stamps = {row[:2]: Stamp(*row[2:]) for row in body.sessions}
        return cls(stamps, body.epochs)

    def __repr__(self) -> str:
        return f"Ledger(sessions={len(self)}, epochs={self._epochs})"


def ruling(
    held: Stamp | None, epoch: int, order: tuple[int, int, str]
) -> Literal["accepted", "superseded", "duplicate", "withdrawn"]:
    """Say what becomes of an export: `held` is its session's stamp, `epoch` that of its agent.

    ``accepted`` founds a session, ``superseded`` replaces what was held; the others change
    nothing, except that a session first heard of while its agent is withdrawn is dead for good.
    """
    if epoch % 2 or (held is not None and held.epoch != epoch):
        return "withdrawn"
    if held is None:
        return "accepted"
    return "superseded" if order > held[1:] else "duplicate"
