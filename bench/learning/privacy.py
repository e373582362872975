"""What privacy costs: 50 agents on MMLU whose exports carry noise.

python bench/learning/privacy.py --data FOLDER

A tenth of the training queries is public: the cells are its clusters, which no agent's traffic
went into. "rows" and "compact" are exports without privacy. Epsilon is what the accountant library
states for one export of each session at delta 1e-5; it protects one trajectory, or the agent.
"""

from __future__ import annotations

import argparse

import numpy as np
from federation import AGENTS, traffic
from routing_data import Log, apgr, folder, load, record, split

from sona import SonaConfig
from sona.federated import AgentExport, FederatedCoordinator, Privacy
from sona.federated.table import TrajectoryTable
from sona.learning.kmeans import SphericalKMeans
from sona.learning.sketch import sketch

ROUTES = ("0", "1")
WAYS: dict[str, dict[str, object] | None] = {
    "rows": None,
    "compact": None,
    "trajectory, noise 0.5": {"noise_multiplier": 0.5},
    "trajectory, noise 1": {"noise_multiplier": 1.0},
    "trajectory, noise 2": {"noise_multiplier": 2.0},
    "trajectory, noise 4": {"noise_multiplier": 4.0},
    "agent, noise 1": {"noise_multiplier": 1.0, "unit": "agent", "clip": 40.0},
}


def learned(log: Log, agent: np.ndarray, way: str, cells: np.ndarray) -> FederatedCoordinator:
    dim = log.x.shape[1]
    config = SonaConfig.for_coordinator(hidden_dim=dim, micro_lora_lr=0.0, base_lora_lr=0.0)
    coordinator = FederatedCoordinator("bench", config)
    settings = WAYS[way]
    privacy = None if settings is None else Privacy(cells, ROUTES, **settings)  # type: ignore[arg-type]
    for a in range(AGENTS):
        mine = np.flatnonzero(agent == a)
        x, routes, quality = log.x[mine], [str(r) for r in log.route[mine]], log.quality[mine]
        if way == "rows":
            table = TrajectoryTable(x, quality, 1_000 * mine, routes, [() for _ in mine])
            export = AgentExport(f"agent-{a}", table, None, 10, 1_000 + a)
        else:
            release = sketch if privacy is None else privacy.release
            made = release(x, routes, quality)
            export = AgentExport(f"agent-{a}", (), None, 10, 1_000 + a, made)
        coordinator.aggregate(export, learn=False)
    coordinator.force_consolidate()
    return coordinator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cells", type=int, default=16)
    args = parser.parse_args()
    table = load(folder(args.data), "mmlu")
    figures: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for seed in range(args.seeds):
        train, test = split(len(table.x), seed)
        public, train = train[: len(train) // 10], train[len(train) // 10 :]
        log = record(table, train, "log", seed)
        agent = traffic(table.group[train], seed)
        cells = SphericalKMeans(args.cells, seed=0).fit(table.x[public]).centroids_
        for way in WAYS:
            coordinator = learned(log, agent, way, cells)
            expected = np.array(
                [list(coordinator.route(x, ROUTES).expected.values()) for x in table.x[test]]
            )
            quality = table.quality[test]
            q0 = quality[np.arange(len(test)), expected.argmax(axis=1)].mean()
            figures[way].append((q0, apgr(expected, quality)))
    print(f"MMLU, {AGENTS} agents, {args.cells} public cells, mean of {args.seeds} seeds")
    for way, rows in figures.items():
        q0, last = np.mean(rows, axis=0)
        settings = WAYS[way]
        epsilon = np.inf if settings is None else Privacy(cells, ROUTES, **settings).epsilon()  # type: ignore[arg-type]
        print(f"{way:22s} epsilon {epsilon:6.2f}  q0 {q0:.4f}  APGR {last:.4f}")


if __name__ == "__main__":
    main()
