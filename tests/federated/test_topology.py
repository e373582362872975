"""Whatever the topology and the order of gossip, the same sessions give the same knowledge."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sona import SonaConfig
from sona.errors import RangeError
from sona.federated import (
    AgentExport,
    FederatedCoordinator,
    Hierarchical,
    PeerToPeer,
    Star,
    TrajectoryExport,
)

DIM = 6
CONFIG = SonaConfig.for_coordinator(hidden_dim=DIM)


def exports(count=9):
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        rows = [
            TrajectoryExport(
                np.eye(DIM)[number % 3] + 0.2 * rng.standard_normal(DIM),
                float(rng.random()),
                "abc"[int(rng.integers(3))],
                (),
                1000 * number + row,
            )
            for row in range(12)
        ]
        made.append(AgentExport(f"agent-{number}", rows, None, 10, 1000 * number + 20))
    return made


def knowledge(coordinator):
    coordinator.force_consolidate()
    engine = coordinator.master_engine
    probes = np.eye(DIM, dtype=np.float32)
    return (
        [(p.id, p.centroid.tobytes(), repr(p.routes)) for p in engine.patterns],
        [engine.route(x).expected for x in probes],
        engine.apply_micro_lora(probes).tobytes(),
    )


@pytest.fixture(scope="module")
def expected():
    coordinator = FederatedCoordinator("single", CONFIG)
    for export in exports():
        coordinator.aggregate(export)
    return knowledge(coordinator)


@pytest.mark.parametrize(
    "topology",
    [
        lambda: Star(CONFIG),
        lambda: Hierarchical(1, CONFIG),
        lambda: Hierarchical(4, CONFIG),
        lambda: PeerToPeer(8, CONFIG, seed=1),
        lambda: PeerToPeer(8, CONFIG, seed=2),
    ],
    ids=["star", "one region", "four regions", "peers", "peers, other gossip"],
)
def test_every_topology_ends_with_what_one_coordinator_knows(topology, expected):
    made = topology()
    for export in reversed(exports()):
        made.submit(export)
        made.submit(export)
    made.publish()
    assert knowledge(made.coordinators[0]) == expected
    assert len(made.presence()[made.coordinators[0].coordinator_id]) == 9
    if isinstance(made, PeerToPeer):
        assert all(knowledge(peer) == expected for peer in made.coordinators)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=12))
def test_merging_is_commutative_associative_and_idempotent(handed_in):
    made = exports(6)

    def three():
        parts = [FederatedCoordinator(f"c{i}", CONFIG) for i in range(3)]
        for part, number in handed_in:
            parts[part].aggregate(made[number])
        return parts

    def ids(coordinator):
        return [export.export_id for export in coordinator.exports]

    a, b, c = three()
    a.merge(b)
    a.merge(c)
    left = ids(a)
    assert a.merge(c) == 0
    assert ids(a) == left
    a, b, c = three()
    b.merge(c)
    b.merge(a)
    assert ids(b) == left
    assert a.merge(b) == len(left) - len({n for part, n in handed_in if part == 0})


def test_a_count_below_one_is_refused():
    with pytest.raises(RangeError, match="`regions`"):
        Hierarchical(0, CONFIG)
    with pytest.raises(RangeError, match="`peers`"):
        PeerToPeer(0, CONFIG)
