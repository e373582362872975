"""From the bytes of a request to an export that a tenant takes, and to a line of its history."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

from sona.federated import AgentExport, AggregationResult
from sona.service.history import Entry, now_ms
from sona.service.problems import ProblemError
from sona.service.tokens import Caller

__all__ = ["entry_of", "outcomes_by_route", "read_export"]

#: A warm start shows in what a session does first; later it has learned for itself.
_FIRST = 10


def read_export(body: bytes, caller: Caller, most_rows: int) -> AgentExport:
    """Parse an export that `caller` may bring.

    Raises
    ------
    FormatError
        If the bytes are no export.
    ProblemError
        403 for another agent's export, 422 for more than `most_rows` trajectories.
    """
    export = AgentExport.from_bytes(body)
    if caller.agent is not None and export.agent_id != caller.agent:
        raise ProblemError(
            403,
            f"`agent_id` must be {caller.agent!r}, to which the token is bound; got"
            f" {export.agent_id!r}",
            "agent_id",
        )
    if export.rows > most_rows:
        raise ProblemError(
            422, f"`trajectories` must be at most {most_rows}; got {export.rows}", "trajectories"
        )
    return export


def entry_of(export: AgentExport, result: AggregationResult, warm: bool) -> Entry:
    """Say in a few hundred bytes what an export brought and what became of it."""
    sane = [quality for quality in export.trajectories.quality.tolist() if 0.0 <= quality <= 1.0]
    first = sane[:_FIRST]
    routes = outcomes_by_route(export)
    count = sum(number for number, _ in routes.values())
    mean = sum(total for _, total in routes.values()) / count if count else None
    return Entry(
        at=now_ms(),
        agent=export.agent_id,
        result="duplicate" if result.duplicate else "new",
        accepted=result.trajectories_accepted,
        rejected=result.trajectories_rejected,
        reasons=result.reasons,
        quality=sum(sane) / len(sane) if sane else mean,
        first=sum(first) / len(first) if first else None,
        warm=warm,
        routes={} if result.duplicate else routes,
    )


def outcomes_by_route(export: AgentExport) -> dict[str, tuple[int, float]]:
    """Return number of outcomes and sum of their quality for each named route."""
    found: Iterable[tuple[str | None, int, float]]
    if export.sketch is not None:
        found = (
            (route, round(count), mean * count)
            for _, route, mean, count in export.sketch.outcomes()
        )
    else:
        table = export.trajectories
        found = zip(table.routes, repeat(1), table.quality.tolist(), strict=False)
    sums: dict[str, tuple[int, float]] = {}
    for route, count, total in found:
        if route is not None and count and 0.0 <= total <= count:
            held = sums.get(route, (0, 0.0))
            sums[route] = (held[0] + count, held[1] + total)
    return sums
