"""Compact exports: small, without a single query, and learned from."""

import numpy as np
import pytest

from sona import SonaConfig
from sona.errors import FormatError, RangeError
from sona.federated import AgentExport, EphemeralAgent, FederatedCoordinator

DIM = 64
TOPICS = np.random.default_rng(0).standard_normal((4, DIM)).astype(np.float32)
CONFIG = SonaConfig.for_coordinator(
    hidden_dim=DIM, pattern_clusters=20, micro_lora_lr=0.0, base_lora_lr=0.0
)


def agent(name, requests=80):
    made = EphemeralAgent(name, SonaConfig.for_ephemeral(hidden_dim=DIM))
    rng = np.random.default_rng(list(name.encode()))
    for _ in range(requests):
        topic, route = int(rng.integers(4)), int(rng.integers(2))
        x = TOPICS[topic] + 0.3 * rng.standard_normal(DIM)
        made.process_trajectory(x, x, float(topic % 2 == route), f"route-{route}")
    return made


def test_a_compact_export_is_small_and_travels_exactly():
    made = agent("a", 200)
    export = made.export_state(compact=True)
    data = export.to_bytes()
    assert len(data) <= 8_000
    assert len(export.trajectories) == 0
    assert export.rows == 200
    again = AgentExport.from_bytes(data)
    assert again == export
    assert again.export_id == export.export_id
    assert again.session == made.export_state().session
    with pytest.raises(RangeError, match="compact"):
        export.to_json()
    with pytest.raises(FormatError):
        AgentExport.from_bytes(data[:-20])


def test_a_fleet_learns_from_compact_exports_and_counts_every_outcome():
    coord = FederatedCoordinator("c", CONFIG)
    for name in "abcd":
        result = coord.aggregate(agent(name).export_state(compact=True))
        assert result.trajectories_accepted + result.trajectories_rejected == 80
    coord.force_consolidate()
    assert coord.metrics.trajectories_held == 320
    counted = sum(s.count for p in coord.get_all_patterns() for s in p.routes.values())
    assert counted == pytest.approx(320)
    for number, topic in enumerate(TOPICS):
        assert coord.route(topic).route == f"route-{number % 2}"


def test_a_later_compact_export_supersedes():
    coord = FederatedCoordinator("c", CONFIG)
    made = agent("a", 40)
    coord.aggregate(made.export_state(compact=True))
    made.process_trajectory(TOPICS[0], TOPICS[0], 1.0, "route-0")
    result = coord.aggregate(made.export_state(compact=True))
    assert not result.duplicate
    assert coord.metrics.trajectories_held == 41
    coord.force_consolidate()
    counted = sum(s.count for p in coord.get_all_patterns() for s in p.routes.values())
    assert counted == pytest.approx(41)


def test_an_impossible_sketch_is_refused_whole():
    export = agent("a").export_state(compact=True)
    means = export.sketch.means.copy()
    means[0, 0] = 7.0
    hostile = AgentExport("b", (), None, 0, 0, export.sketch._replace(means=means))
    with pytest.raises(RangeError, match="quality"):
        FederatedCoordinator("c", CONFIG).aggregate(hostile)
