"""The six tests of the Rust crate's federated module, in Python form."""

import pytest

from sona.federated import (
    AgentExport,
    AgentExportStats,
    EphemeralAgent,
    FederatedCoordinator,
    TrajectoryExport,
)


def test_ephemeral_agent_creation():
    agent = EphemeralAgent.default_federated("agent-1", hidden_dim=256)
    assert agent.agent_id == "agent-1"
    assert agent.trajectory_count == 0


def test_trajectory_collection():
    agent = EphemeralAgent.default_federated("agent-1", hidden_dim=256)
    agent.process_trajectory([0.1] * 256, [0.5] * 256, 0.8, "code", ["file:main.rs"])
    assert agent.trajectory_count == 1
    assert agent.avg_quality == pytest.approx(0.8)


def test_agent_export():
    agent = EphemeralAgent.default_federated("agent-1", hidden_dim=256)
    for i in range(5):
        agent.process_trajectory([i * 0.1] * 256, [0.5] * 256, 0.7 + i * 0.05)
    export = agent.export_state()
    assert export.agent_id == "agent-1"
    assert len(export.trajectories) == 5
    assert export.stats.avg_quality > 0.7


def test_coordinator_creation():
    coord = FederatedCoordinator.default_coordinator("coord-1", hidden_dim=256)
    assert coord.coordinator_id == "coord-1"
    stats = coord.stats()
    assert stats.total_agents == 0
    assert stats.total_trajectories == 0


def test_aggregation():
    coord = FederatedCoordinator.default_coordinator("coord-1", hidden_dim=256)
    coord.quality_threshold = 0.5
    export = AgentExport(
        agent_id="agent-1",
        trajectories=[
            TrajectoryExport(
                embedding=[0.1] * 256, quality=0.8, route="code", context=[], timestamp=0
            ),
            TrajectoryExport(
                embedding=[0.2] * 256, quality=0.3, route=None, context=[], timestamp=0
            ),
        ],
        stats=AgentExportStats(total_trajectories=2, avg_quality=0.55, patterns_learned=0),
        session_duration_ms=1000,
        timestamp=0,
    )
    result = coord.aggregate(export)
    assert result.trajectories_accepted == 1
    assert result.trajectories_rejected == 1
    assert result.total_agents == 1


def test_multi_agent_aggregation():
    coord = FederatedCoordinator.default_coordinator("coord-1", hidden_dim=256)
    coord.consolidation_interval = 2
    for i in range(3):
        export = AgentExport(
            agent_id=f"agent-{i}",
            trajectories=[TrajectoryExport(embedding=[i * 0.1] * 256, quality=0.8)],
            stats=AgentExportStats(),
            session_duration_ms=1000,
            timestamp=0,
        )
        assert coord.aggregate(export).consolidated == (i == 1)
    stats = coord.stats()
    assert stats.total_agents == 3
    assert stats.total_trajectories == 3
