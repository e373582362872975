"""What makes a node a regional coordinator: it hands on what it holds to the one above."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sona.errors import SonaError, UnansweredError
from sona.federated.merge import Ledger
from sona.federated.network.between import NodeLink
from sona.federated.network.exchange import Exchange
from sona.federated.network.security import Security

if TYPE_CHECKING:
    from sona.federated.network.node import Node

__all__ = ["Forwarding"]

_log = logging.getLogger(__name__)


class Forwarding(Exchange):
    """Forwards from the regional coordinator's own store, and inherits the warm start above.

    What is above is asked what it holds and is sent what it lacks. Nothing is kept between runs,
    so nothing can be remembered wrongly: after either side was killed, away or restored from an
    old copy, the next round sends the difference.

    Parameters
    ----------
    upstream : str or sequence of str
        Endpoints of the coordinator above.
    region : str
        Name of the region.
    security : Security
    interval_s : float, default 5.0
        How often to ask what is above although nothing new came in.

    Raises
    ------
    LinkError, SecurityError
        If an endpoint or its security cannot be used.
    """

    def __init__(
        self,
        upstream: str | Sequence[str],
        region: str,
        *,
        security: Security,
        interval_s: float = 5.0,
    ) -> None:
        super().__init__(interval_s)
        self._link = NodeLink(upstream, region, security=security, wait_s=0.0)
        self._above: Ledger | None = None
        self._asked = 0.0
        self._refused: set[str] = set()

    def exchange(self, node: Node) -> int:
        try:
            return self._forward(node)
        except SonaError:
            self._above = None
            raise

    def close(self) -> None:
        super().close()
        self._link.close()

    def _forward(self, node: Node) -> int:
        coordinator = node.coordinator
        # A burst is many rounds: what was sent is known to be there, so it is not asked for again.
        stale = time.monotonic() - self._asked > self._interval_s
        if self._above is None or stale:
            self._above, self._asked = self._link.ledger(coordinator.ledger), time.monotonic()
            coordinator.heed(self._above)
        held, sent = coordinator.ledger, 0
        if held.epochs != self._above.epochs:
            self._link.heed(held)
        for export in coordinator.missing(self._above):
            if export.export_id in self._refused:
                continue
            try:
                self._link.forward(export)
                sent += 1
            except UnansweredError:
                raise
            except SonaError as error:
                _log.error("%s was refused above: %s", export, error)
                self._refused.add(export.export_id)
        self._above |= held
        if sent or stale:
            node.inherit(self._link.warm_start())
        return sent
