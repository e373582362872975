"""Who sends to whom: one coordinator, regions under a global one, or peers without any.

All three have the same four verbs. Here they run inside one process, for tests, simulations and
fleets of threads; each is made of :class:`~sona.federated.FederatedCoordinator` and nothing else,
so whatever the topology, coordinators that have heard of the same sessions know the same.
Between processes and hosts the verbs are those of :class:`sona.federated.network.Link`.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from sona.checks import check_count
from sona.config import SonaConfig
from sona.federated.coordinator import FederatedCoordinator
from sona.federated.export import AgentExport
from sona.federated.records import AggregationResult
from sona.federated.warm_start import WarmStart

__all__ = ["Hierarchical", "PeerToPeer", "Star", "Topology"]


class Topology(ABC):
    """The four verbs, wherever those who answer are."""

    @abstractmethod
    def submit(self, export: AgentExport) -> AggregationResult:
        """Hand an export in; it is acknowledged by returning."""

    @abstractmethod
    def warm_start(self, k: int | None = None) -> WarmStart:
        """Return what a new agent starts with; see :meth:`FederatedCoordinator.warm_start`."""

    @abstractmethod
    def publish(self) -> int:
        """Let coordinators tell each other what they hold; returns sessions that travelled."""

    @abstractmethod
    def presence(self) -> dict[str, list[str]]:
        """Return who is there, by coordinator.

        In one process these are the agents that each coordinator has heard of; on the network,
        whoever is linked to it at this moment.
        """


class InProcess(Topology):
    """A topology whose coordinators live in this process."""

    @property
    @abstractmethod
    def coordinators(self) -> Sequence[FederatedCoordinator]:
        """All coordinators; the first hands out warm starts, and knows all by :meth:`publish`."""

    @abstractmethod
    def exchange(self) -> int:
        """Let coordinators tell each other what they hold; returns sessions that travelled."""

    @abstractmethod
    def home_of(self, agent_id: str) -> FederatedCoordinator:
        """Return the coordinator that an agent hands in to; its name decides."""

    def submit(self, export: AgentExport) -> AggregationResult:
        return self.home_of(export.agent_id).aggregate(export)

    def publish(self) -> int:
        travelled = self.exchange()
        self.coordinators[0].force_consolidate()
        return travelled

    def warm_start(self, k: int | None = None) -> WarmStart:
        return self.coordinators[0].warm_start(k)

    def presence(self) -> dict[str, list[str]]:
        return {c.coordinator_id: sorted(c.contributions) for c in self.coordinators}


class Star(InProcess):
    """One coordinator for all agents.

    Parameters
    ----------
    config : SonaConfig, optional
        Settings of the coordinator; the coordinator preset if not given.

    Examples
    --------
    >>> from sona import SonaConfig
    >>> from sona.federated import AgentExport, Hierarchical, Star, TrajectoryExport
    >>> config = SonaConfig.for_coordinator(hidden_dim=2)
    >>> star, regions = Star(config), Hierarchical(2, config)
    >>> for name in ("a", "b", "c"):
    ...     export = AgentExport(name, [TrajectoryExport([1.0, 0.0], 0.9, "small")])
    ...     for topology in (star, regions):
    ...         _ = topology.submit(export)
    >>> star.publish(), regions.publish()
    (0, 3)
    >>> str(star.coordinators[0].stats()).partition(",")[2]
    ' agents=3, trajectories=3, patterns=1, avg_quality=0.9000)'
    >>> str(regions.coordinators[0].stats()).partition(",")[2]
    ' agents=3, trajectories=3, patterns=1, avg_quality=0.9000)'
    """

    def __init__(self, config: SonaConfig | None = None) -> None:
        self._coordinator = FederatedCoordinator("global", config)

    @property
    def coordinators(self) -> Sequence[FederatedCoordinator]:
        return [self._coordinator]

    def home_of(self, agent_id: str) -> FederatedCoordinator:
        return self._coordinator

    def exchange(self) -> int:
        return 0


class Hierarchical(InProcess):
    """Regional coordinators that forward to a global one.

    Parameters
    ----------
    regions : int
        Number of regions, at least 1. An agent's name decides its region.
    config : SonaConfig, optional
        Settings of every coordinator; the coordinator preset if not given.
    """

    def __init__(self, regions: int, config: SonaConfig | None = None) -> None:
        self._global = FederatedCoordinator("global", config)
        self._regional = [
            FederatedCoordinator(f"region-{number}", config)
            for number in range(check_count("regions", regions))
        ]

    @property
    def coordinators(self) -> Sequence[FederatedCoordinator]:
        return [self._global, *self._regional]

    def home_of(self, agent_id: str) -> FederatedCoordinator:
        return self._regional[zlib.crc32(agent_id.encode()) % len(self._regional)]

    def exchange(self) -> int:
        return sum(self._global.merge(region) for region in self._regional)


class PeerToPeer(InProcess):
    """Peers that gossip; there is no coordinator above them.

    Parameters
    ----------
    peers : int
        Number of peers, at least 1. An agent's name decides which one it hands its exports to.
    config : SonaConfig, optional
        Settings of every peer; the coordinator preset if not given.
    seed : int, default 0
        Decides who talks to whom.
    """

    def __init__(self, peers: int = 2, config: SonaConfig | None = None, seed: int = 0) -> None:
        self._peers = [
            FederatedCoordinator(f"peer-{number}", config)
            for number in range(check_count("peers", peers))
        ]
        self._rng = np.random.default_rng(seed)

    @property
    def coordinators(self) -> Sequence[FederatedCoordinator]:
        return self._peers

    def home_of(self, agent_id: str) -> FederatedCoordinator:
        return self._peers[zlib.crc32(agent_id.encode()) % len(self._peers)]

    def exchange(self) -> int:
        """Gossip in random pairs until nobody has news."""
        travelled = 0
        while any(peer.ledger != self._peers[0].ledger for peer in self._peers):
            order = self._rng.permutation(len(self._peers))
            for a, b in zip(order, np.roll(order, -1), strict=True):
                travelled += self._peers[a].merge(self._peers[b])
                travelled += self._peers[b].merge(self._peers[a])
        return travelled
