"""What travels as JSON between the service, its client and the page.

The OpenAPI document takes its schemas from these records, so the two cannot disagree.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = [
    "AgentPage",
    "AgentView",
    "Bucket",
    "Consolidation",
    "Decision",
    "ExportReceipt",
    "Health",
    "MapPoint",
    "Mean",
    "Overview",
    "PatternMap",
    "PatternPage",
    "PatternView",
    "ProblemView",
    "RouteAnswer",
    "RouteQuestion",
    "RouteRow",
    "RouteView",
    "Totals",
]

Unit = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0)]
Name = Annotated[str, Meta(min_length=1, max_length=1024)]
Price = Annotated[float, Meta(ge=0.0, le=1e12)]


class View(msgspec.Struct, frozen=True):
    """Base of the records: immutable; a client ignores fields that a newer service adds."""


class ProblemView(View, frozen=True):
    """RFC 9457: what was refused and why."""

    title: str
    status: int
    detail: str
    place: str | None = None


class ExportReceipt(View, frozen=True):
    """What became of an export; it is committed when this arrives."""

    agent_id: str
    ruling: str
    trajectories_accepted: Count
    trajectories_rejected: Count
    consolidated: bool
    total_agents: Count
    total_trajectories: Count
    duplicate: bool
    reasons: dict[str, Count]


class RouteQuestion(View, frozen=True, forbid_unknown_fields=True):
    """A query that wants a route."""

    embedding: Annotated[list[float], Meta(min_length=1, max_length=65_536)]
    routes: Annotated[list[Name], Meta(min_length=1, max_length=1024)] | None = None
    costs: dict[Name, Price] | None = None
    cost_weight: Price = 0.0
    explore: bool = False


class RouteView(View, frozen=True):
    """What one route achieved."""

    count: Annotated[float, Meta(ge=0.0)]
    mean: float
    variance: float


class PatternView(View, frozen=True):
    """A pattern without its centroid."""

    id: int
    size: Count
    quality: float
    best_route: str | None
    routes: dict[str, RouteView]
    similarity: float | None = None


class RouteAnswer(View, frozen=True):
    """The decision and its reasons."""

    route: str
    expected: dict[str, float]
    uncertainty: dict[str, float]
    explored: bool
    patterns: list[PatternView]
    version: Count


class PatternPage(View, frozen=True):
    """Patterns, the largest first."""

    total: Count
    offset: Count
    version: Count
    patterns: list[PatternView]


class AgentView(View, frozen=True):
    """What one agent contributed."""

    agent_id: str
    trajectories: Count
    quality: float
    sessions: Count
    timestamp: int
    session_duration_ms: int


class AgentPage(View, frozen=True):
    """Agents, the latest first."""

    total: Count
    offset: Count
    agents: list[AgentView]


class Health(View, frozen=True):
    """Whether the service lives and takes requests."""

    status: str
    detail: str | None = None


class Mean(View, frozen=True):
    """A number of sessions and their mean quality; None while there are none."""

    count: Count
    mean: float | None


class Bucket(View, frozen=True):
    """What happened in one stretch of time."""

    at: int
    exports: Count
    agents: Count
    accepted: Count
    rejected: Count
    cold: Mean
    warm: Mean


class RouteRow(View, frozen=True):
    """One route over everything learned.

    ``trend`` is the mean quality of the latest quarter of the time shown less that of the time
    before; ``cost`` is what callers last said it costs; ``recent`` the mean of each stretch of
    time, None where the route was not used.
    """

    route: str
    count: float
    mean: float
    cost: float | None
    trend: float | None
    recent: list[float | None]


class MapPoint(View, frozen=True):
    """A pattern on the map."""

    id: int
    x: float
    y: float
    size: Count
    quality: float
    route: str | None


class PatternMap(View, frozen=True):
    """Patterns in two dimensions, the largest first; ``explained`` is the share of variance."""

    explained: float
    total: Count
    points: list[MapPoint]


class Decision(View, frozen=True):
    """What became of one export."""

    at: int
    agent: str
    result: str
    accepted: Count
    rejected: Count
    quality: float | None
    warm: bool
    reasons: dict[str, Count]


class Consolidation(View, frozen=True):
    """One time that everything was learned anew."""

    at: int
    seconds: float
    trajectories: Count
    agents: Count


class Totals(View, frozen=True):
    """Counts since the store was made, as far as the history goes back."""

    agents: Count
    exports: Count
    duplicates: Count
    refused: Count
    accepted: Count
    rejected: Count


class Overview(View, frozen=True):
    """Everything that the page shows, at one moment."""

    tenant: str
    at: int
    status: str
    version: Count
    totals: Totals
    bucket_ms: Count
    timeline: list[Bucket]
    cold: Mean
    warm: Mean
    reasons: dict[str, Count]
    routes: list[RouteRow]
    map: PatternMap
    consolidations: list[Consolidation]
    recent: list[Decision]
