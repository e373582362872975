"""Would a router remember better by adapted queries? The same log, raw and adapted.

    python bench/learning/adapted_memory.py --data FOLDER [--set banking|mmlu|gsm8k]

An engine learns from the log through its public verbs, a background cycle every 1,000 outcomes.
Then two routers are fed the same log: one the queries as they came, as the engine does, one the
queries that both adapters have moved. Figures are the share of right routes (banking) or APGR.
"""

from __future__ import annotations

import argparse

import numpy as np
from adaptation_data import add_data_options, banking, examples, folder, task
from routing_data import Log, apgr, load, split
from routing_data import record as draw

from sona import SonaConfig, SonaEngine
from sona.learning.routing import Router


def learn(engine: SonaEngine, x: np.ndarray, route: str, quality: float) -> None:
    trajectory = engine.begin_trajectory(x)
    trajectory.set_model_route(route)
    engine.end_trajectory(trajectory, quality)


def adapted(engine: SonaEngine, x: np.ndarray) -> np.ndarray:
    moved = engine.apply_micro_lora(engine.apply_base_lora(0, x))
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def remember(x: np.ndarray, log: Log, seed: int) -> Router:
    router = Router(x.shape[1], seed=seed)
    for row, route, quality in zip(x, log.route, log.quality, strict=True):
        router.observe(row, str(route), float(quality))
    router.learn()
    return router


def intents(data: str, seed: int) -> tuple[float, float]:
    everything = banking(data)
    t = task(everything, seed)
    engine = SonaEngine(SonaConfig(hidden_dim=t.centroids.shape[1], base_lora_rank=16, seed=seed))
    x, routes, qualities = [], [], []

    def take(row: np.ndarray, route: str, quality: float) -> None:
        x.append(row)
        routes.append(int(route))
        qualities.append(quality)
        learn(engine, row, route, quality)

    for number, mine in enumerate(examples(everything, 5, np.random.default_rng(seed)).values()):
        for row in mine:
            take(everything.x[row], str(number), 1.0)
    for i, (row, label) in enumerate(zip(t.stream, t.labels, strict=True), start=1):
        route = engine.route(row).route
        take(row, route, float(route == str(label)))
        if i % 1_000 == 0:
            engine.force_learn()
    log = Log(np.array(x), np.array(routes), np.array(qualities))
    found = []
    for train, test in ((log.x, t.test), (adapted(engine, log.x), adapted(engine, t.test))):
        router = remember(train, log, seed)
        chosen = [int(router.decide(row).route) for row in test]
        found.append(float(np.mean(np.array(chosen) == t.test_labels)))
    return found[0], found[1]


def models(data: str, name: str, seed: int) -> tuple[float, float]:
    table = load(data, name)
    train, test = split(len(table.x), seed)
    log = draw(table, train, "log", seed)
    engine = SonaEngine(SonaConfig(hidden_dim=table.x.shape[1], base_lora_rank=16, seed=seed))
    for i, (row, route, quality) in enumerate(zip(*log, strict=True), start=1):
        learn(engine, row, str(route), float(quality))
        if i % 1_000 == 0 or i == len(log.x):
            engine.force_learn()
    found = []
    for x in (table.x, adapted(engine, table.x)):
        router = remember(x[train], log, seed)
        columns = [router.routes.index(r) for r in "01"]
        expected = np.array([router.expect(row)[0][columns] for row in x[test]])
        found.append(apgr(expected, table.quality[test]))
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    parser.add_argument("--set", choices=["banking", "mmlu", "gsm8k"], action="append")
    args = parser.parse_args()
    for name in args.set or ["banking", "mmlu", "gsm8k"]:
        figures = []
        for seed in range(args.seeds):
            one = intents if name == "banking" else models
            extra = () if name == "banking" else (name,)
            figures.append(one(folder(args), *extra, seed))
        raw, moved = np.array(figures).T
        change = moved - raw
        print(
            f"{name:8s} raw {raw.mean():.4f} ± {raw.std():.4f}  adapted {moved.mean():.4f}"
            f"  change {change.mean():+.4f} ± {change.std():.4f}  per seed "
            + " ".join(f"{c:+.4f}" for c in change),
            flush=True,
        )


if __name__ == "__main__":
    main()
