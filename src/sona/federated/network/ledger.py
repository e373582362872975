"""What a coordinator holds, short enough to compare: which export of which session."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from sona import wire
from sona.federated.coordinator import FederatedCoordinator
from sona.federated.export import AgentExport

Session = tuple[str, int]
Order = tuple[int, int, str]


class Ledger:
    def __init__(self, orders: dict[Session, Order]) -> None:
        self.stamps = orders
        self.epochs: dict[str, int] = {}

    def __or__(self, other: Ledger) -> Ledger:
        orders = dict(self.stamps)
        for session, order in other.stamps.items():
            if session not in orders or orders[session] < order:
                orders[session] = order
        return Ledger(orders)

    def news_for(self, other: Ledger) -> list[Session]:
        return [
            session
            for session, order in sorted(self.stamps.items())
            if session not in other.stamps or other.stamps[session] < order
        ]

    def to_bytes(self) -> bytes:
        return msgspec.json.encode([(*s, *o) for s, o in sorted(self.stamps.items())])

    @classmethod
    def from_bytes(cls, data: bytes) -> Ledger:
        rows = wire.decode_json(data, list[tuple[str, int, int, int, str]])
        return cls({row[:2]: row[2:] for row in rows})


def ledger_of(coordinator: FederatedCoordinator) -> Ledger:
    return Ledger({export.session: export.order for export in coordinator.exports})


def missing(coordinator: FederatedCoordinator, ledger: Ledger) -> Iterator[AgentExport]:
    news = set(ledger_of(coordinator).news_for(ledger))
    return (export for export in coordinator.exports if export.session in news)


def export_of(coordinator: FederatedCoordinator, session: Session) -> AgentExport | None:
    return next((e for e in coordinator.exports if e.session == session), None)
