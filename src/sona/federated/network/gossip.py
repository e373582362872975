"""What makes a node a peer: it asks its neighbours what they hold and takes what it lacks."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sona.errors import LinkError, SonaError, StoreError, UnansweredError
from sona.federated.network.between import NodeLink
from sona.federated.network.exchange import Exchange
from sona.federated.network.security import Security

if TYPE_CHECKING:
    from sona.federated.network.node import Node

__all__ = ["Gossip"]

_log = logging.getLogger(__name__)


class Gossip(Exchange):
    """Anti-entropy by pulling: compare ledgers, fetch what is missing, neighbour by neighbour.

    Peers that can reach each other over others end with the same sessions, in whatever order
    they talk. A neighbour that is away is asked again in the next round.

    Parameters
    ----------
    neighbours : sequence of str
        Endpoints of other peers, at least one. Links need not be mutual; news travels against
        their direction.
    name : str
        Of this peer.
    security : Security
    interval_s : float, default 2.0
        Between two rounds.

    Raises
    ------
    LinkError, SecurityError
        If an endpoint or its security cannot be used.
    """

    def __init__(
        self, neighbours: Sequence[str], name: str, *, security: Security, interval_s: float = 2.0
    ) -> None:
        super().__init__(interval_s)
        if not neighbours:
            raise LinkError("`neighbours` must name at least one endpoint; got none")
        self._links = [NodeLink(n, name, security=security, wait_s=0.0) for n in neighbours]
        self._refused: set[str] = set()

    def exchange(self, node: Node) -> int:
        taken, silent = 0, 0
        for link in random.sample(self._links, len(self._links)):
            try:
                taken += self._pull(node, link)
            except UnansweredError as error:
                _log.debug("a neighbour is away: %s", error)
                silent += 1
                away = error
        if silent == len(self._links):
            raise away
        return taken

    def stir(self) -> None:
        """News waits to be asked for: who has it need do nothing."""

    def close(self) -> None:
        super().close()
        for link in self._links:
            link.close()

    def _pull(self, node: Node, link: NodeLink) -> int:
        theirs = link.ledger(node.coordinator.ledger)
        node.coordinator.heed(theirs)
        taken = 0
        for session in theirs.news_for(node.coordinator.ledger):
            export = link.export(session)
            if export is None or export.export_id in self._refused:
                continue
            try:
                taken += not node.take_in(export).duplicate
            except StoreError:
                raise
            except SonaError as error:
                _log.error("%s is refused here: %s", export, error)
                self._refused.add(export.export_id)
        return taken
