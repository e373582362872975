"""What happened in a store: sessions and agents that changed, in order of the change."""

from __future__ import annotations

from typing import NamedTuple

from sona.federated.merge import Session, Stamp
from sona.federated.records import Summary

__all__ = ["Changes", "Held"]


class Held(NamedTuple):
    """One session as the store describes it.

    Attributes
    ----------
    session, stamp
        See :mod:`sona.federated.merge`.
    sequence : int
        Number of the change that wrote it.
    summary : Summary or None
        None for a session that is only known to be withdrawn.
    """

    session: Session
    stamp: Stamp
    sequence: int
    summary: Summary | None


class Changes(NamedTuple):
    """What happened in the store after some sequence number.

    Attributes
    ----------
    sequence : int
        The last number.
    agents : dict of str to (int, int)
        Epoch and strikes of agents that changed.
    sessions : list of Held
        Sessions that changed, in order of sequence.
    """

    sequence: int
    agents: dict[str, tuple[int, int]]
    sessions: list[Held]
