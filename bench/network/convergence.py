"""Regions and peers against one coordinator: what each knows of the same fleet.

    python -m bench.network.convergence [--seeds 20]

For each seed a fleet of 12 agents, some of whom hand in twice, to different nodes, or hand in an
early and a late export of their session, in random order. One, two and four regions forward to a
global coordinator; eight peers gossip over random links in random order. All of it over Zenoh on
loopback. Compared with one coordinator that got every export, after each has consolidated: number
of agents, trajectories and patterns, counts per pattern and route, and the largest difference in
any quality or expectation. The bound asserted is 0: all of them hold the same sessions, and what a
coordinator knows is a function of the sessions that it holds.
"""

from __future__ import annotations

import argparse
from random import Random

import numpy as np
from bench.network.process import free_endpoint

from sona import SonaConfig
from sona.federated import AgentExport, FederatedCoordinator, TrajectoryExport
from sona.federated.network import Forwarding, Gossip, Link, Node, Security

DIM = 8
CONFIG = SonaConfig.for_coordinator(hidden_dim=DIM)
OFF = Security.off()
PROBES = np.eye(DIM, dtype=np.float32)
ROUTES = ["a", "b", "c"]


def fleet(seed: int) -> list[AgentExport]:
    """Exports in the order in which they are handed in."""
    rng, made = np.random.default_rng(seed), []
    for number in range(12):
        rows = [
            TrajectoryExport(
                PROBES[rng.integers(4)] + 0.2 * rng.standard_normal(DIM),
                float(rng.random()),
                ROUTES[int(rng.integers(3))],
                (),
                10_000 * number + row,
            )
            for row in range(20)
        ]
        start = 10_000 * number
        for length in {int(rng.integers(5, 21)), 20}:
            made.append(AgentExport(f"agent-{number}", rows[:length], None, length, start + length))
    return [made[i] for i in rng.permutation(len(made))]


class Known:
    """What a coordinator knows once it has consolidated."""

    def __init__(self, coordinator: FederatedCoordinator) -> None:
        coordinator.force_consolidate()
        patterns = coordinator.get_all_patterns()
        self.counts = (
            coordinator.agent_count,
            coordinator.total_trajectories,
            coordinator.metrics.trajectories_held,
            [{route: stats.count for route, stats in p.routes.items()} for p in patterns],
        )
        self.qualities = np.array(
            [stats.mean for p in patterns for stats in p.routes.values()]
            + [v for x in PROBES for v in coordinator.route(x, ROUTES).expected.values()]
        )

    def apart(self, other: Known) -> float:
        """Largest difference in quality; infinite where a count differs."""
        if self.counts != other.counts or len(self.qualities) != len(other.qualities):
            return float("inf")
        return float(np.abs(self.qualities - other.qualities).max())


def hand_in(exports: list[AgentExport], wheres: list[str], order: Random) -> None:
    links = [Link(where, f"host-{n}", security=OFF) for n, where in enumerate(wheres)]
    for export in exports:
        for link in order.choices(links, k=order.choice([1, 1, 2])):
            link.submit(export)
    for link in links:
        link.close()


def regions(count: int, exports: list[AgentExport], order: Random) -> list[Known]:
    above, wheres = free_endpoint(), [free_endpoint() for _ in range(count)]
    top = Node(FederatedCoordinator("global", CONFIG), [above], security=OFF)
    nodes = [
        Node(
            FederatedCoordinator(f"region-{n}", CONFIG),
            [where],
            security=OFF,
            exchange=Forwarding(above, f"region-{n}", security=OFF),
        )
        for n, where in enumerate(wheres)
    ]
    hand_in(exports, wheres, order)
    for node in nodes:
        node.publish()
        node.close()
    top.close()
    return [Known(top.coordinator)]


def peers(count: int, exports: list[AgentExport], order: Random) -> list[Known]:
    wheres = [free_endpoint() for _ in range(count)]
    nodes = []
    for n, where in enumerate(wheres):
        # A ring, so that everyone can be reached, and one more neighbour at random.
        others = {(n + 1) % count, order.choice([m for m in range(count) if m != n])}
        gossip = Gossip([wheres[m] for m in others], f"peer-{n}", security=OFF, interval_s=3_600.0)
        coordinator = FederatedCoordinator(f"peer-{n}", CONFIG)
        nodes.append(Node(coordinator, [where], security=OFF, exchange=gossip))
    hand_in(exports, wheres, order)
    while any(n.coordinator.ledger != nodes[0].coordinator.ledger for n in nodes):
        order.choice(nodes).publish()
    for node in nodes:
        node.close()
    return [Known(node.coordinator) for node in nodes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    worst: dict[str, float] = {}
    for seed in range(args.seeds):
        exports, order = fleet(seed), Random(seed)
        single = FederatedCoordinator("single", CONFIG)
        for export in exports:
            single.aggregate(export)
        expected = Known(single)
        for name, found in (
            *((f"{n} region(s)", regions(n, exports, order)) for n in (1, 2, 4)),
            ("8 peers", peers(8, exports, order)),
        ):
            apart = max(known.apart(expected) for known in found)
            worst[name] = max(apart, worst.get(name, 0.0))
        print(f"seed {seed}: {worst}", flush=True)
    for name, apart in worst.items():
        print(f"{name}: largest difference over {args.seeds} seeds {apart:g}, counts identical")
    assert not any(worst.values())


if __name__ == "__main__":
    main()
