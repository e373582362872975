"""The fleet: what leaves an agent, who merges it, what a new agent starts with."""

from sona.federated.export import AgentExport, AgentExportStats, TrajectoryExport

__all__ = ["AgentExport", "AgentExportStats", "TrajectoryExport"]
