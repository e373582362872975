"""The coordinator: idempotent, superseding, counted right, durable, useful to the next agent."""

import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sona import SonaConfig
from sona.errors import DTypeError, RangeError, ShapeError, StoreError
from sona.federated import (
    AgentExport,
    AgentExportStats,
    EphemeralAgent,
    FederatedCoordinator,
    TrajectoryExport,
)

DIM = 8
AXES = np.eye(DIM, dtype=np.float32)
CONFIG = SonaConfig.for_coordinator(hidden_dim=DIM)


def rows(count, quality=0.8, route="a", axis=0, seed=0):
    noise = np.random.default_rng(seed).standard_normal((count, DIM)) * 0.1
    return [TrajectoryExport(AXES[axis] + n, quality, route, (), i) for i, n in enumerate(noise)]


def export(agent="agent-1", trajectories=(), timestamp=1000, duration=500):
    return AgentExport(agent, trajectories, None, duration, timestamp)


@pytest.fixture
def coord():
    return FederatedCoordinator("coord", CONFIG)


def fingerprint(coordinator):
    engine = coordinator.master_engine
    return (
        str(coordinator.stats()),
        [(p.id, p.centroid.tobytes(), p.cluster_size, repr(p.routes)) for p in engine.patterns],
        engine.apply_micro_lora(AXES).tobytes(),
    )


def test_the_same_export_twice_changes_nothing(coord):
    sent = export(trajectories=rows(20))
    first = coord.aggregate(sent)
    before = fingerprint(coord)
    again = coord.aggregate(AgentExport.from_bytes(sent.to_bytes()))
    assert (first.duplicate, again.duplicate) == (False, True)
    assert again.total_trajectories == first.total_trajectories == 20
    assert fingerprint(coord) == before
    assert coord.metrics.exports_duplicate == 1


def test_it_is_a_duplicate_whichever_way_it_travelled(coord):
    sent = export(trajectories=rows(3))
    coord.aggregate(sent)
    assert coord.aggregate(AgentExport.from_json(sent.to_json())).duplicate


def test_a_later_export_of_a_session_supersedes(coord):
    agent = EphemeralAgent("agent-1", SonaConfig.for_ephemeral(hidden_dim=DIM))
    for axis in range(3):
        agent.process_trajectory(AXES[axis], AXES[axis], 0.8, "a")
    early = agent.export_state()
    coord.aggregate(early)
    for axis in range(2):
        agent.process_trajectory(AXES[axis], AXES[axis], 0.8, "a")
    result = coord.aggregate(agent.export_state())
    assert (result.total_agents, result.total_trajectories) == (1, 5)
    assert coord.contributions["agent-1"].trajectory_count == 5
    stale = coord.aggregate(early)
    assert stale.duplicate
    assert stale.total_trajectories == 5


def test_another_session_of_an_agent_adds(coord):
    coord.aggregate(export(trajectories=rows(3), timestamp=1000))
    result = coord.aggregate(export(trajectories=rows(4), timestamp=9000))
    assert (result.total_agents, result.total_trajectories) == (1, 7)
    assert coord.contributions["agent-1"].sessions == 2


def test_the_order_of_arrival_does_not_matter_after_consolidation():
    sent = [
        export(f"agent-{i}", rows(15, [0.9, 0.1][i % 2], "ab"[i % 2], i % 3, seed=i))
        for i in range(6)
    ]
    prints = []
    for order in (range(6), reversed(range(6)), [3, 1, 5, 0, 4, 2]):
        coordinator = FederatedCoordinator("coord", CONFIG)
        for i in order:
            coordinator.aggregate(sent[i])
        coordinator.force_consolidate()
        prints.append(fingerprint(coordinator))
    assert prints[0] == prints[1] == prints[2]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=8))
def test_counts_are_conserved_over_any_history(history):
    """Duplicates, reordering and superseding: what counts is the latest export per session."""
    coordinator = FederatedCoordinator("coord", CONFIG)
    latest = {}
    for agent, version in history:
        count = 2 + 3 * version
        coordinator.aggregate(export(f"agent-{agent}", rows(count), 1000 + version, 500 + version))
        latest[agent] = max(latest.get(agent, 0), count)
    assert coordinator.total_trajectories == sum(latest.values())
    assert coordinator.stats().total_agents == len(latest)
    held = sum(c.trajectory_count for c in coordinator.contributions.values())
    assert held == sum(latest.values())


def test_failures_are_rejected_but_counted_in_the_route_statistics(coord):
    coord.aggregate(export(trajectories=rows(30, 0.9, "good") + rows(30, 0.0, "bad")))
    coord.force_consolidate()
    decision = coord.route(AXES[0], ["bad", "good"])
    assert decision.route == "good"
    assert decision.expected["bad"] < 0.4 < decision.expected["good"]
    counted = sum(p.routes["bad"].count for p in coord.get_all_patterns() if "bad" in p.routes)
    assert counted == pytest.approx(30)


def test_average_quality_is_computed_not_believed(coord):
    sent = AgentExport("a", rows(2, 0.5), AgentExportStats(2, 99.0, 7), 0, 0)
    coord.aggregate(sent)
    assert coord.stats().avg_quality == pytest.approx(0.5)
    assert coord.contributions["a"].avg_quality == pytest.approx(0.5)
    assert "avg_quality=0.5000" in str(coord.stats())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 7.0, -3.0])
def test_an_export_with_bad_quality_is_refused_and_nothing_changes(coord, bad):
    coord.aggregate(export("good", rows(5)))
    before = fingerprint(coord)
    with pytest.raises(RangeError, match="quality"):
        coord.aggregate(export("bad", [TrajectoryExport(AXES[0], bad)]))
    assert fingerprint(coord) == before
    assert "bad" not in coord.contributions


def test_single_bad_rows_are_left_out_with_a_reason(coord):
    bad = [TrajectoryExport(np.full(DIM, np.nan), 0.9), TrajectoryExport(AXES[0] * 1e9, 0.9)]
    result = coord.aggregate(export(trajectories=rows(5) + bad))
    assert (result.trajectories_accepted, result.trajectories_rejected) == (5, 2)
    assert sum(result.reasons.values()) == 2
    assert any("not finite" in reason for reason in result.reasons)
    assert np.isfinite(coord.master_engine.apply_micro_lora(AXES)).all()


def test_what_is_no_export_is_refused(coord):
    with pytest.raises(DTypeError, match="`export` must be an AgentExport; got int"):
        coord.aggregate(3)


def test_another_dimension_is_refused_by_name(coord):
    with pytest.raises(ShapeError, match=r"\(8,\); got \(3,\)"):
        coord.aggregate(AgentExport("a", [TrajectoryExport([1.0, 2.0, 3.0], 0.5)]))
    assert coord.stats().total_agents == 0


def test_consolidation_counts_new_agents_only(coord):
    coord.consolidation_interval = 2
    sent = export("agent-0", rows(2))
    assert not coord.aggregate(sent).consolidated
    assert not coord.aggregate(sent).consolidated
    assert coord.aggregate(export("agent-1", rows(2))).consolidated
    assert not coord.aggregate(export("agent-2", rows(2))).consolidated


@pytest.mark.parametrize("value", [0, -1])
def test_an_interval_below_one_is_refused(coord, value):
    with pytest.raises(RangeError, match="`consolidation_interval`"):
        coord.consolidation_interval = value


def test_the_threshold_decides_what_is_accepted(coord):
    coord.aggregate(export(trajectories=rows(4, 0.5) + rows(3, 0.9)))
    assert coord.total_trajectories == 7
    coord.quality_threshold = 0.6
    assert coord.total_trajectories == 3
    with pytest.raises(RangeError, match="`quality_threshold`"):
        coord.quality_threshold = 1.5


def test_patterns_are_handed_out(coord):
    assert coord.get_all_patterns() == []
    for axis in range(3):
        coord.aggregate(export(f"agent-{axis}", rows(10, 0.9, "a", axis, axis)))
    coord.force_consolidate()
    assert len(coord.get_all_patterns()) >= 3
    assert len(coord.get_initial_patterns(2)) == 2


def test_learning_is_reported_truthfully(coord):
    coord.consolidation_interval = 1
    assert coord.aggregate(export(trajectories=rows(12))).consolidated
    assert len(coord.get_all_patterns()) > 0
    assert coord.force_consolidate().trajectories_processed == 12


def test_a_restarted_coordinator_knows_everything(tmp_path):
    path = tmp_path / "store.db"
    first = FederatedCoordinator("coord", CONFIG, store=path)
    for i in range(3):
        first.aggregate(export(f"agent-{i}", rows(10, 0.9, "a", i, i)))
    first.force_consolidate()
    expected = fingerprint(first)
    first.close()
    second = FederatedCoordinator("coord", CONFIG, store=path)
    assert fingerprint(second) == expected
    assert second.aggregate(export("agent-0", rows(10, 0.9, "a", 0, 0))).duplicate
    second.close()


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    path = tmp_path / "store.db"
    code = textwrap.dedent(
        """
        import os, signal, sys
        from sona import SonaConfig
        from sona.federated import AgentExport, FederatedCoordinator, TrajectoryExport
        coord = FederatedCoordinator("c", SonaConfig.for_coordinator(hidden_dim=2), sys.argv[1])
        for i in range(7):
            coord.aggregate(AgentExport(f"agent-{i}", [TrajectoryExport([1.0, 0.0], 0.9)]))
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert ended.returncode == -9
    again = FederatedCoordinator("c", SonaConfig.for_coordinator(hidden_dim=2), path)
    assert again.stats().total_trajectories == 7
    again.close()


def test_a_file_that_is_no_store_is_refused(tmp_path):
    path = tmp_path / "not-a-store"
    path.write_bytes(b"something else entirely" * 50)
    with pytest.raises(StoreError, match="not-a-store"):
        FederatedCoordinator("coord", CONFIG, store=path)
