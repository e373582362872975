"""What a coordinator says about itself and about what it was sent."""

from __future__ import annotations

import msgspec

from sona.types import Record

__all__ = [
    "AgentContribution",
    "AggregationResult",
    "CoordinatorMetrics",
    "CoordinatorStats",
    "Decision",
    "Snapshot",
    "Standing",
    "Summary",
]


class AggregationResult(Record, frozen=True, eq=False):
    """What became of one export.

    Attributes
    ----------
    agent_id : str
        Who sent it.
    ruling : str
        ``accepted`` for a new session, ``superseded`` for a later export of one, ``duplicate``;
        ``withdrawn`` and ``refused`` where the agent is kept out.
    trajectories_accepted, trajectories_rejected : int
        Rows at or above the quality threshold; all others.
    consolidated : bool
        True when this export made a consolidation due and it ran.
    total_agents, total_trajectories : int
        Distinct agents and distinct accepted trajectories held now.
    duplicate : bool
        True when the export, or a later one of its session, was held already: nothing changed.
    reasons : dict of str to int
        Why rows were rejected, and how many for each reason.
    """

    agent_id: str
    ruling: str
    trajectories_accepted: int
    trajectories_rejected: int
    consolidated: bool
    total_agents: int
    total_trajectories: int
    duplicate: bool
    reasons: dict[str, int]


class AgentContribution(Record, frozen=True, eq=False):
    """What one agent contributed, over all its sessions.

    Attributes
    ----------
    trajectory_count : int
        Well-formed trajectories held, failures included.
    avg_quality : float
        Their mean quality, computed from what was received.
    timestamp : int
        Latest export, milliseconds since the epoch by the agent's clock.
    session_duration_ms : int
        Sum over the sessions.
    sessions : int
        Number of sessions.
    """

    trajectory_count: int
    avg_quality: float
    timestamp: int
    session_duration_ms: int
    sessions: int


class CoordinatorStats(Record, frozen=True, eq=False):
    """The coordinator at one moment.

    Attributes
    ----------
    coordinator_id : str
    total_agents, total_trajectories : int
        Distinct agents; distinct accepted trajectories.
    patterns_learned : int
        Patterns of the master engine.
    avg_quality : float
        Mean quality of all well-formed trajectories held, failures included.
    quality_threshold : float
    """

    coordinator_id: str
    total_agents: int
    total_trajectories: int
    patterns_learned: int
    avg_quality: float
    quality_threshold: float

    def __str__(self) -> str:
        return (
            f"Coordinator(id={self.coordinator_id}, agents={self.total_agents},"
            f" trajectories={self.total_trajectories}, patterns={self.patterns_learned},"
            f" avg_quality={self.avg_quality:.4f})"
        )


class CoordinatorMetrics(Record, frozen=True, eq=False):
    """Counters since the coordinator was started.

    Attributes
    ----------
    exports_aggregated, exports_duplicate, exports_refused : int
        What became of the exports.
    consolidations : int
        How often the master engine learned from everything held.
    trajectories_held : int
        Well-formed trajectories, failures included.
    quality_p05, quality_p50, quality_p95 : float
        Percentiles of their quality; 0.0 while there are none.
    """

    exports_aggregated: int
    exports_duplicate: int
    exports_refused: int
    consolidations: int
    trajectories_held: int
    quality_p05: float
    quality_p50: float
    quality_p95: float


class Decision(Record, frozen=True, eq=False):
    """What was decided about one export, as the store remembers it.

    Attributes
    ----------
    number : int
        Rises with time.
    made : int
        Milliseconds since the epoch by the coordinator's clock.
    agent_id : str
    started : int
        Start of the session by the agent's clock.
    export_id : str
    ruling : str
        ``accepted``, ``superseded`` (it replaced an earlier export of its session),
        ``duplicate``, ``withdrawn`` (its agent or session was) or ``refused``.
    reasons : dict of str to int
        Why rows were rejected or why it was refused, and how many rows each.
    """

    number: int
    made: int
    agent_id: str
    started: int
    export_id: str
    ruling: str
    reasons: dict[str, int]


class Snapshot(Record, frozen=True, eq=False):
    """Learned state that was kept.

    Attributes
    ----------
    version : int
    made : int
        Milliseconds since the epoch.
    sequence : int
        Number of the last change in the store that it knows.
    n_bytes : int
    fault : str or None
        What is wrong with it; such a snapshot is never loaded.
    """

    version: int
    made: int
    sequence: int
    n_bytes: int
    fault: str | None


class Standing(Record, frozen=True, eq=False):
    """How far an agent's outcomes agree with the fleet's.

    Attributes
    ----------
    strikes : int
        Exports that were refused because most of their rows were malformed.
    judged : int
        Rows that enough other agents could speak to; 0 where agreement is too thin to judge.
    error : float
        How far beyond chance its outcomes are from what others saw, in robust deviations.
    bias : float
        Its largest bias, on one route or over all, in robust deviations.
    dropped : bool
        Whether the last consolidation left it out.
    opposed : float
        Log odds that it says the opposite of what it saw; negative where it agrees.
    """

    strikes: int = 0
    judged: int = 0
    error: float = 0.0
    bias: float = 0.0
    dropped: bool = False
    opposed: float = 0.0

    def with_strikes(self, strikes: int) -> Standing:
        """Return the standing with other strikes."""
        return msgspec.structs.replace(self, strikes=strikes)


class Summary(Record, frozen=True, eq=False):
    """What a coordinator keeps in memory of one session.

    Attributes
    ----------
    rows, accepted : int
        Well-formed outcomes; those among them at or above `threshold`.
    threshold : float
    total : float
        Sum of their quality.
    histogram : bytes
        How many fall in each of 101 steps of quality, uint32.
    first : int
        Earliest time among the rows, milliseconds since the epoch.
    """

    rows: int
    accepted: int
    threshold: float
    total: float
    histogram: bytes
    first: int
