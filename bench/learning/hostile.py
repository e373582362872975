"""A fleet of 50 agents of which some are hostile, merged by a coordinator with its defaults.

python bench/learning/hostile.py --data FOLDER

q0: quality when cost is free. MMLU has two routes and APGR; ZeroEval eleven and the area under
the concave hull of quality over cost, up to the cost of the best single route. Adapters are off:
they do not take part in a routing decision.

"absent": the hostile agents send nothing. That is what a defence that knew who is hostile would
reach: with them go their requests, and where outcomes are few that alone moves the figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from federation import AGENTS, traffic
from routing_data import Log, Table, apgr, folder, load, record, split

from sona import SonaConfig
from sona.errors import RangeError
from sona.federated import AgentExport, FederatedCoordinator
from sona.federated.table import TrajectoryTable

REPLAYS = 20
ATTACKS = ("clean", "absent", "inverted", "promotes the worst", "inverted, 20 replays", "malformed")


def exports(
    log: Log, agent: np.ndarray, bad: np.ndarray, attack: str, worst: int, seed: int
) -> Iterator[AgentExport]:
    """What the agents send; the hostile ones, by the attack."""
    rng = np.random.default_rng([seed, 9])
    for a in range(AGENTS):
        mine = np.flatnonzero(agent == a)
        x, route, quality = log.x[mine], log.route[mine], log.quality[mine].copy()
        hostile = a in bad
        if hostile and attack == "absent":
            continue
        if hostile and attack.startswith("inverted"):
            quality = 1.0 - quality
        if hostile and attack == "promotes the worst":
            route, quality = np.full(len(mine), worst), np.ones(len(mine))
        for replay in range(REPLAYS if hostile and "replays" in attack else 1):
            sent = x + 1e-4 * rng.standard_normal(x.shape) if replay else x.copy()
            if hostile and attack == "malformed":
                sent[::3], quality[1::3] = np.nan, 7.0
                sent[2::3] *= 1e9
            times = 1_000 * mine + replay
            yield AgentExport(
                f"agent-{a}",
                TrajectoryTable(
                    sent.astype(np.float32),
                    quality.astype(np.float64),
                    times.astype(np.int64),
                    [str(r) for r in route],
                    [() for _ in mine],
                ),
                None,
                10,
                1_000_000 * (replay + 1) + a,
            )


def merged(sent: Iterator[AgentExport], dim: int) -> FederatedCoordinator:
    config = SonaConfig.for_coordinator(hidden_dim=dim, micro_lora_lr=0.0, base_lora_lr=0.0)
    coordinator = FederatedCoordinator("bench", config)
    for export in sent:
        with suppress(RangeError):  # malformed: refused
            coordinator.aggregate(export, learn=False)
    coordinator.force_consolidate()
    return coordinator


def area(expected: np.ndarray, test: Table, train: Table) -> float:
    """Mean quality over budgets up to the cost of the best single route."""
    best = int(train.quality.mean(axis=0).argmax())
    rows = np.arange(len(expected))
    price = train.cost.mean(axis=0) / train.cost.mean(axis=0).max()
    points = set()
    for knob in np.concatenate([[0.0], np.logspace(-3, 3, 200)]):
        chosen = (expected - knob * price).argmax(axis=1)
        points.add((test.cost[rows, chosen].mean(), test.quality[rows, chosen].mean()))
    hull: list[tuple[float, float]] = []
    for cost, quality in sorted(points):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (cost - hull[-2][0]) <= (
            quality - hull[-2][1]
        ) * (hull[-1][0] - hull[-2][0]):
            hull.pop()
        hull.append((cost, quality))
    costs, qualities = np.array(hull).T
    budgets = np.linspace(costs.min(), test.cost[:, best].mean(), 200)
    return float(np.interp(budgets, costs, np.maximum.accumulate(qualities)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data")
    parser.add_argument("--seeds", type=int, default=5, help="at least 2")
    parser.add_argument("--first", type=int, default=0, help="number of the first seed")
    parser.add_argument("--share", type=float, default=0.2, help="share of hostile agents")
    parser.add_argument("--set", choices=["mmlu", "zeroeval"], default="mmlu")
    parser.add_argument("--attacks", nargs="+", default=ATTACKS)
    args = parser.parse_args()
    table = load(folder(args.data), args.set)
    routes = [str(r) for r in range(table.quality.shape[1])]
    figures: dict[str, list[tuple[float, ...]]] = {attack: [] for attack in args.attacks}
    for seed in range(args.first, args.first + args.seeds):
        train, test = split(len(table.x), seed)
        log = record(table, train, "log", seed)
        agent = traffic(table.group[train], seed)
        hostile = np.random.default_rng([seed, 7]).permutation(AGENTS)
        worst = int(table.quality[train].mean(axis=0).argmin())
        pick = Table(*(column[test] for column in table))
        learned = Table(*(column[train] for column in table))
        for attack in args.attacks:
            bad = hostile[: 0 if attack == "clean" else int(AGENTS * args.share)]
            coordinator = merged(exports(log, agent, bad, attack, worst, seed), table.x.shape[1])
            expected = np.array(
                [list(coordinator.route(x, routes).expected.values()) for x in table.x[test]]
            )
            q0 = pick.quality[np.arange(len(test)), expected.argmax(axis=1)].mean()
            last = (
                apgr(expected, pick.quality) if len(routes) == 2 else area(expected, pick, learned)
            )
            out = {a for a, s in coordinator.reputation.items() if s.dropped or s.strikes}
            caught = sum(f"agent-{a}" in out for a in bad) / max(len(bad), 1)
            lost = sum(f"agent-{a}" in out for a in range(AGENTS) if a not in bad)
            figures[attack].append((q0, last, caught, lost / (AGENTS - len(bad))))
            print(f"seed {seed} {attack:22s}", *(f"{v:.4f}" for v in figures[attack][-1]))
    name = "APGR" if len(routes) == 2 else "area"
    print(f"\n{args.share:.0%} hostile, {args.set}, mean of {args.seeds} seeds")
    for attack, rows in figures.items():
        q0, last, caught, lost = np.mean(rows, axis=0)
        beside = "".join(
            f"  {_difference(rows, figures[other])} against {other}"
            for other in ("clean", "absent")
            if other in figures and other != attack
        )
        print(
            f"{attack:22s} q0 {q0:.4f}  {name} {last:.4f}{beside}"
            f"  hostile caught {caught:.2f}  honest dropped {lost:.3f}"
        )


def _difference(rows: list[tuple[float, ...]], other: list[tuple[float, ...]]) -> str:
    """Mean difference of APGR or area, seed by seed, and its standard error."""
    apart = np.array(rows)[:, 1] - np.array(other)[:, 1]
    return f"{apart.mean():+.4f} (se {apart.std(ddof=1) / len(apart) ** 0.5:.4f})"


if __name__ == "__main__":
    main()
