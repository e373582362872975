"""Everything that the page shows, gathered from one tenant."""

from __future__ import annotations

from sona.service.history import now_ms
from sona.service.knowledge import Knowledge, best_route
from sona.service.records import MapPoint, Mean, Overview, PatternMap, RouteRow, Totals
from sona.service.tenant import Tenant
from sona.service.timeline import Timeline

__all__ = ["overview"]

#: Patterns that the map draws; it says how many there are.
_POINTS = 1_500


def overview(tenant: Tenant, status: str) -> Overview:
    """Gather the page's data. Cost: linear in the patterns drawn."""
    history, knowledge = tenant.history, tenant.knowledge
    timeline = history.timeline if history is not None else Timeline()
    costs = tenant.costs
    nobody = Mean(0, None)
    return Overview(
        tenant=tenant.name,
        at=now_ms(),
        status=status,
        version=knowledge.version if knowledge is not None else 0,
        totals=history.totals if history is not None else Totals(0, 0, 0, 0, 0, 0),
        bucket_ms=timeline.width_ms,
        timeline=timeline.view(),
        cold=timeline.cold.view() if history is not None else nobody,
        warm=timeline.warm.view() if history is not None else nobody,
        reasons=dict(history.reasons) if history is not None else {},
        routes=_routes(knowledge, timeline, costs) if knowledge is not None else [],
        map=_map(knowledge),
        consolidations=history.consolidations if history is not None else [],
        recent=history.recent if history is not None else [],
    )


def _routes(knowledge: Knowledge, timeline: Timeline, costs: dict[str, float]) -> list[RouteRow]:
    rows = [
        RouteRow(
            route,
            stats.count,
            stats.mean,
            costs.get(route),
            timeline.trend(route),
            timeline.recent(route),
        )
        for route, stats in knowledge.routes.items()
    ]
    return sorted(rows, key=lambda row: -row.mean)


def _map(knowledge: Knowledge | None) -> PatternMap:
    if knowledge is None:
        return PatternMap(0.0, 0, [])
    points = [
        MapPoint(
            pattern.id,
            round(float(x), 4),
            round(float(y), 4),
            pattern.cluster_size,
            round(pattern.avg_quality, 4),
            best_route(pattern),
        )
        for pattern, (x, y) in zip(
            knowledge.patterns[:_POINTS], knowledge.map.positions[:_POINTS], strict=True
        )
    ]
    return PatternMap(knowledge.map.explained, len(knowledge.patterns), points)
