"""What a coordinator keeps in memory of the fleet: a few hundred bytes per session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona.federated.changes import Changes
from sona.federated.merge import Ledger, Session, Stamp
from sona.federated.records import AgentContribution, Summary

__all__ = ["Arrivals", "Roster"]


class Arrivals(NamedTuple):
    """What came in.

    Attributes
    ----------
    sequences : dict of Session to int
        Sessions that count and are new or newer, in order of sequence number.
    new : list of Session
        Those among them that were not held before.
    withdrawn : bool
        Whether something that counted does no longer.
    """

    sequences: dict[Session, int]
    new: list[Session]
    withdrawn: bool


class Roster:
    """Sessions, epochs and strikes, with running counts so that nothing scans history.

    Notes
    -----
    Not thread-safe; the coordinator holds a lock.
    """

    def __init__(self) -> None:
        self.sequence = 0
        self.accepted = 0
        self._stamps: dict[Session, Stamp] = {}
        self._summaries: dict[Session, Summary] = {}  # of the sessions that count
        self._sessions_of: Counter[str] = Counter()
        self._epochs: dict[str, int] = {}
        self._strikes: dict[str, int] = {}

    def __contains__(self, session: object) -> bool:
        return session in self._summaries

    def __iter__(self) -> Iterator[Session]:
        """Sessions that count, in canonical order."""
        return iter(sorted(self._summaries))

    @property
    def agents(self) -> int:
        """Agents with a session that counts."""
        return len(self._sessions_of)

    def epoch(self, agent_id: str) -> int:
        """Epoch of an agent; odd while it is withdrawn."""
        return self._epochs.get(agent_id, 0)

    def strikes(self, agent_id: str) -> int:
        """Exports of an agent that were refused whole."""
        return self._strikes.get(agent_id, 0)

    @property
    def struck(self) -> dict[str, int]:
        """Strikes of all agents that have any."""
        return {agent: strikes for agent, strikes in sorted(self._strikes.items()) if strikes}

    def first(self, session: Session) -> int:
        """Earliest time among a session's rows."""
        return self._summaries[session].first

    def apply(self, changes: Changes) -> Arrivals:
        """Take in what happened in the store."""
        withdrawn = False
        moved = set()
        for agent_id, (epoch, strikes) in changes.agents.items():
            if epoch != self.epoch(agent_id):
                moved.add(agent_id)
            self._epochs[agent_id], self._strikes[agent_id] = epoch, strikes
        for session in [s for s in self._summaries if s[0] in moved] if moved else ():
            if not self._counts(session, self._stamps[session]):
                withdrawn = True
                self._drop(session)
        arrivals = Arrivals({}, [], False)
        for held in changes.sessions:
            self._stamps[held.session] = held.stamp
            if held.summary is None or not self._counts(held.session, held.stamp):
                withdrawn |= held.session in self
                self._drop(held.session)
                continue
            if held.session not in self:
                arrivals.new.append(held.session)
            self._hold(held.session, held.summary)
            arrivals.sequences[held.session] = held.sequence
        self.sequence = changes.sequence
        return arrivals._replace(withdrawn=withdrawn)

    def discard(self, session: Session) -> None:
        """Forget a session whose export turned out to be damaged."""
        self._drop(session)
        self._stamps.pop(session, None)

    def recount(
        self, threshold: float, anew: Callable[[Session], Summary | None]
    ) -> dict[Session, Summary]:
        """Judge sessions that were judged by another threshold; returns those that changed."""
        changed: dict[Session, Summary] = {}
        for session, summary in sorted(self._summaries.items()):
            if summary.threshold != threshold:
                fresh = anew(session)
                if fresh is None:
                    self.discard(session)
                else:
                    self._hold(session, fresh)
                    changed[session] = fresh
        return changed

    @property
    def ledger(self) -> Ledger:
        """The whole of it as a value that merges."""
        return Ledger(self._stamps, self._epochs)

    @property
    def contributions(self) -> dict[str, AgentContribution]:
        """What each agent contributed, over all its sessions."""
        by_agent: dict[str, list[Session]] = {}
        for session in self:
            by_agent.setdefault(session[0], []).append(session)
        return {agent: self._contribution(held) for agent, held in by_agent.items()}

    def quality(self) -> tuple[float, NDArray[np.int64]]:
        """Sum of the quality held, and how many outcomes fall in each of 101 steps of it."""
        held = [self._summaries[session] for session in self]
        steps = np.frombuffer(b"".join(s.histogram for s in held), np.uint32).reshape(-1, 101)
        return sum(s.total for s in held), steps.sum(axis=0, dtype=np.int64)

    def _counts(self, session: Session, stamp: Stamp) -> bool:
        return stamp.epoch == self.epoch(session[0]) and not stamp.epoch % 2

    def _hold(self, session: Session, summary: Summary) -> None:
        old = self._summaries.get(session)
        if old is None:
            self._sessions_of[session[0]] += 1
        else:
            self.accepted -= old.accepted
        self.accepted += summary.accepted
        self._summaries[session] = summary

    def _drop(self, session: Session) -> None:
        old = self._summaries.pop(session, None)
        if old is not None:
            self.accepted -= old.accepted
            self._sessions_of[session[0]] -= 1
            if not self._sessions_of[session[0]]:
                del self._sessions_of[session[0]]

    def _contribution(self, sessions: list[Session]) -> AgentContribution:
        held = [self._summaries[session] for session in sessions]
        rows = sum(summary.rows for summary in held)
        stamps = [self._stamps[session] for session in sessions]
        return AgentContribution(
            trajectory_count=rows,
            avg_quality=sum(summary.total for summary in held) / rows if rows else 0.0,
            timestamp=max(stamp.timestamp for stamp in stamps),
            session_duration_ms=sum(
                stamp.timestamp - session[1]
                for stamp, session in zip(stamps, sessions, strict=True)
            ),
            sessions=len(sessions),
        )
