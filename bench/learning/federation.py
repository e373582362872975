"""A fleet of 50 short-lived agents on MMLU: all trajectories in one place against 8 kB each.

python bench/learning/federation.py --data FOLDER
"""

from __future__ import annotations

import argparse

import numpy as np
from routing import bars
from routing_data import Log, apgr, folder, load, record, split

from sona.learning.routing import Router
from sona.learning.sketch import sketch

AGENTS = 50


def traffic(group: np.ndarray, seed: int) -> np.ndarray:
    """Which agent sees which query: every group is spread by a Dirichlet(0.3) draw."""
    rng = np.random.default_rng([seed, 2])
    agent = np.empty(len(group), int)
    for g in np.unique(group):
        mine = np.flatnonzero(group == g)
        agent[mine] = rng.choice(AGENTS, len(mine), p=rng.dirichlet(np.full(AGENTS, 0.3)))
    return agent


def full(log: Log, agent: np.ndarray) -> tuple[Router, float]:
    router = Router(log.x.shape[1], capacity=50_000)
    for i in np.argsort(agent, kind="stable"):
        router.observe(log.x[i], str(log.route[i]), float(log.quality[i]))
    return router, 4 * log.x.size / AGENTS / 1000


def compact(log: Log, agent: np.ndarray, max_bytes: int) -> tuple[Router, float]:
    router = Router(log.x.shape[1], capacity=50_000)
    largest = 0
    for a in np.unique(agent):
        mine = agent == a
        routes = [str(r) for r in log.route[mine]]
        summary = sketch(log.x[mine], routes, log.quality[mine], max_bytes)
        largest = max(largest, summary.nbytes)
        router.absorb(summary)
    return router, largest / 1000


def failures_dropped(log: Log, agent: np.ndarray) -> tuple[Router, float]:
    kept = log.quality >= 0.5
    return full(Log(log.x[kept], log.route[kept], log.quality[kept]), agent[kept])


WAYS = {
    "pooled": lambda log, agent: full(log, np.zeros(len(agent))),
    "full exports": full,
    "compact, 8 kB": lambda log, agent: compact(log, agent, 8_000),
    "compact, 4 kB": lambda log, agent: compact(log, agent, 4_000),
    "failures dropped": failures_dropped,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--plot", help="write a picture here")
    args = parser.parse_args()
    table = load(folder(args.data), "mmlu")
    figures: dict[str, list[float]] = {name: [] for name in WAYS}
    sizes: dict[str, float] = {}
    for seed in range(args.seeds):
        train, test = split(len(table.x), seed)
        log = record(table, train, "log", seed)
        agent = traffic(table.group[train], seed)
        for name, way in WAYS.items():
            router, sizes[name] = way(log, agent)
            router.learn()
            columns = [router.routes.index(r) for r in ("0", "1")]
            expected = np.array([router.expect(x)[0][columns] for x in table.x[test]])
            figures[name].append(apgr(expected, table.quality[test]))
    pooled = np.array(figures["pooled"])
    for name, values in figures.items():
        change = np.array(values) - pooled
        print(
            f"{name:18s} APGR {np.mean(values):.4f} (sd {np.std(values):.4f})"
            f"  against pooled {change.mean():+.4f} (worst {change.min():+.4f})"
            f"  {sizes[name]:.1f} kB per agent"
        )
    if args.plot:
        bars(args.plot, {"MMLU, log, 50 agents, APGR": figures})


if __name__ == "__main__":
    main()
