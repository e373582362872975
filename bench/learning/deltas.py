"""Would it help to merge the adapters that agents have learned, besides their outcomes?

python bench/learning/deltas.py --data FOLDER [--agents 20] [--outcomes 2000] [--learn]

Banking77: a coordinator knows five examples an intent; agents start warm with that and share a
stream of right / wrong outcomes. Accuracy of the nearest mean example to what micro-LoRA makes of
unseen queries: with the coordinator's adapter learned from all rows, with the one it has when
exports are compact, and with the best rank-2 adapter of the mean of what the agents' adapters do
(products averaged, not factors). `--learn`: agents run a background cycle before they end.
"""

from __future__ import annotations

import argparse

import numpy as np
from adaptation_data import add_data_options, banking, examples, folder, task

from sona import SonaConfig
from sona.federated import EphemeralAgent, FederatedCoordinator
from sona.learning import MicroLoRA

RANK = 2


def merged(adapters: list[tuple[np.ndarray, np.ndarray]], weights: list[int]) -> MicroLoRA:
    """The adapter of rank 2 nearest to the weighted mean of the products B A."""
    shares = np.array(weights, float) / sum(weights)
    out_basis, out_part = np.linalg.qr(
        np.hstack([share * B for share, (_, B) in zip(shares, adapters, strict=True)])
    )
    in_basis, in_part = np.linalg.qr(np.hstack([A.T for A, _ in adapters]))
    left, strength, right = np.linalg.svd(out_part @ in_part.T)
    root = np.sqrt(strength[:RANK])
    adapter = MicroLoRA(dim=len(in_basis), rank=RANK)
    adapter.lora_A = (in_basis @ right[:RANK].T * root).T.astype(np.float32)
    adapter.lora_B = (out_basis @ left[:, :RANK] * root).astype(np.float32)
    return adapter


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    parser.add_argument("--agents", type=int, default=20)
    parser.add_argument("--outcomes", type=int, default=2_000)
    parser.add_argument("--learn", action="store_true")
    args = parser.parse_args()
    data = banking(folder(args))
    for seed in range(args.seeds):
        t = task(data, seed, 5, args.outcomes)
        dim = t.centroids.shape[1]
        own = SonaConfig.for_ephemeral(hidden_dim=dim)
        founder = EphemeralAgent("founder", own)
        for number, mine in enumerate(examples(data, 5, np.random.default_rng(seed)).values()):
            for row in mine:
                founder.process_trajectory(data.x[row], data.x[row], 1.0, str(number))
        start, full, compact = (
            FederatedCoordinator(name, SonaConfig.for_coordinator(hidden_dim=dim))
            for name in ("start", "full", "compact")
        )
        for coordinator in (start, full, compact):
            coordinator.aggregate(founder.export_state(), learn=False)
        start.force_consolidate()
        warm = start.warm_start()
        adapters, counts = [], []
        for number in range(args.agents):
            agent = EphemeralAgent(f"agent-{number}", own, warm)
            for i in range(number, args.outcomes, args.agents):
                x, route = t.stream[i], agent.route(t.stream[i]).route
                agent.process_trajectory(x, x, float(route == str(t.labels[i])), route)
            if args.learn:
                agent.force_learn()
            micro = agent.engine.micro_lora
            adapters.append((micro.lora_A.copy(), micro.scaling * micro.lora_B))
            counts.append(agent.trajectory_count)
            full.aggregate(agent.export_state(), learn=False)
            compact.aggregate(agent.export_state(compact=True), learn=False)
        full.force_consolidate()
        compact.force_consolidate()
        length = np.mean([np.linalg.norm(B @ A) for A, B in adapters])
        print(
            f"seed {seed}: frozen {t.accuracy(t.test):.4f}"
            f"  from rows {t.accuracy(full.master_engine.apply_micro_lora(t.test)):.4f}"
            f"  compact {t.accuracy(compact.master_engine.apply_micro_lora(t.test)):.4f}"
            f"  agents merged {t.accuracy(merged(adapters, counts).apply(t.test)):.4f}"
            f"  (mean length of an agent's {length:.3g})",
            flush=True,
        )


if __name__ == "__main__":
    main()
