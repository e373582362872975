"""The topologies between processes and hosts, on Eclipse Zenoh (``pip install 'sona[zenoh]'``).

Two things make up every topology: a :class:`Node`, which answers for a coordinator, and a
:class:`Link`, which asks a node::

    star            agent ── Link ──> Node

    hierarchical    agent ── Link ──> Node(Forwarding) ── NodeLink ──> Node

    peers           agent ── Link ──> Node(Gossip) <── NodeLink ── Node(Gossip)

Every link is a Zenoh client session of its own to the one node at its endpoint, and nodes never
join each other's routing, so a question reaches whom it was put to and nobody else. What may
fail, fails the same way everywhere: a question without an answer is *unknown*, never *failed*,
and is put again after a random wait; everything that can be asked is idempotent.
"""

from sona.federated.network.forwarding import Forwarding
from sona.federated.network.gossip import Gossip
from sona.federated.network.link import Link
from sona.federated.network.node import Node
from sona.federated.network.security import Security

__all__ = ["Forwarding", "Gossip", "Link", "Node", "Security"]
