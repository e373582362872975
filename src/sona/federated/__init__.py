"""The fleet: what leaves an agent, who merges it, what a new agent starts with."""

from sona.federated.agent import EphemeralAgent
from sona.federated.coordinator import FederatedCoordinator
from sona.federated.export import AgentExport, AgentExportStats, TrajectoryExport
from sona.federated.privacy import Privacy
from sona.federated.records import (
    AgentContribution,
    AggregationResult,
    CoordinatorMetrics,
    CoordinatorStats,
)
from sona.federated.topology import Hierarchical, PeerToPeer, Star, Topology
from sona.federated.warm_start import WarmStart

__all__ = [
    "AgentContribution",
    "AgentExport",
    "AgentExportStats",
    "AggregationResult",
    "CoordinatorMetrics",
    "CoordinatorStats",
    "EphemeralAgent",
    "FederatedCoordinator",
    "Hierarchical",
    "PeerToPeer",
    "Privacy",
    "Star",
    "Topology",
    "TrajectoryExport",
    "WarmStart",
]
