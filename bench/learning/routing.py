"""Routing on real outcomes: sona, its ablations and simple rivals, over several splits.

python bench/learning/routing.py offline --data FOLDER
python bench/learning/routing.py online | intents | drift | newcomer | calibration --data FOLDER
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from routing_data import Log, Table, apgr, folder, gain_and_cost, load, pick, record, split, unit

from sona.learning import levels, outcome, routing, selectivity
from sona.learning.routing import Router

Rival = Callable[[Log, np.ndarray, int, int], np.ndarray]


def sona(log: Log, queries: np.ndarray, models: int, seed: int) -> np.ndarray:
    router = Router(log.x.shape[1], capacity=50_000, seed=seed)
    for x, r, q in zip(log.x, log.route, log.quality, strict=True):
        router.observe(x, str(r), float(q))
    router.learn()
    columns = [router.routes.index(str(r)) for r in range(models)]
    return np.array([router.expect(x)[0][columns] for x in queries])


@contextmanager
def patched(*changes: tuple[object, str, object]) -> Iterator[None]:
    before = [(where, name, getattr(where, name)) for where, name, _ in changes]
    for where, name, value in changes:
        setattr(where, name, value)
    try:
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)


def ablated(*changes: tuple[object, str, object]) -> Rival:
    def run(log: Log, queries: np.ndarray, models: int, seed: int) -> np.ndarray:
        with patched(*changes):
            return sona(log, queries, models, seed)

    return run


def means(log: Log, models: int) -> np.ndarray:
    count = np.bincount(log.route, minlength=models)
    return np.bincount(log.route, log.quality, models) / np.maximum(count, 1)


def best_single(log: Log, queries: np.ndarray, models: int, seed: int) -> np.ndarray:
    return np.tile(means(log, models), (len(queries), 1))


def knn(log: Log, queries: np.ndarray, models: int, seed: int) -> np.ndarray:
    out = best_single(log, queries, models, seed)
    for r in range(models):
        mine = log.route == r
        near = np.argpartition(-(queries @ log.x[mine].T), 99, axis=1)[:, :100]
        out[:, r] = log.quality[mine][near].mean(axis=1)
    return out


def clusters(shrink: float) -> Rival:
    def run(log: Log, queries: np.ndarray, models: int, seed: int) -> np.ndarray:
        from sona.learning import SphericalKMeans

        km = SphericalKMeans(50, seed=seed, max_iter=20).fit(log.x)
        mean = means(log, models)
        flat = km.labels_ * models + log.route
        count = np.bincount(flat, minlength=50 * models).reshape(50, models)
        total = np.bincount(flat, log.quality, 50 * models).reshape(50, models)
        cell = (total + shrink * mean) / np.maximum(count + shrink, 1e-9)
        return cell[km.predict(queries)]

    return run


def ridge(log: Log, queries: np.ndarray, models: int, seed: int) -> np.ndarray:
    out = best_single(log, queries, models, seed)
    for r in range(models):
        mine = log.route == r
        x = log.x[mine]
        residual = log.quality[mine] - out[0, r]
        weights = np.linalg.solve(x.T @ x + 10.0 * np.eye(x.shape[1]), x.T @ residual)
        out[:, r] += queries @ weights
    return out


def logistic(log: Log, queries: np.ndarray, models: int, seed: int) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    out = np.empty((len(queries), models))
    for r in range(models):
        mine = log.route == r
        fitted = LogisticRegression(C=0.1, max_iter=200).fit(log.x[mine], log.quality[mine] > 0.5)
        out[:, r] = fitted.predict_proba(queries)[:, 1]
    return out


RIVALS: dict[str, Rival] = {
    "best single": best_single,
    "kNN, 100": knn,
    "50 clusters": clusters(0.0),
    "50 clusters, shrunk": clusters(20.0),
    "ridge": ridge,
    "logistic": logistic,
    "sona": sona,
    "- no cells": ablated((outcome, "_LINEAR", 1.0)),
    "- no linear part": ablated((outcome, "_LINEAR", 0.0)),
    "- one clustering": ablated((outcome, "_SHRINKS", (1,)), (outcome, "_STARTS", 1)),
    "- evidence off, ratio 0.5": ablated((outcome, "_RATIOS", (0.5,))),
    "- no memory": ablated((routing, "_RESIDUAL_PRIOR", 1e12), (routing, "_FRESH_WEIGHT", 0.0)),
    "- memory expert only": ablated((selectivity.Selectivity, "weight", 1.0)),
}
SETS = [
    ("mmlu", "log", 5),
    ("mmlu", "full", 5),
    ("gsm8k", "log", 20),
    ("zeroeval", "log", 5),
    ("zeroeval", "full", 5),
]


def offline(args: argparse.Namespace) -> None:
    names = [n for n in RIVALS if not args.only or any(o in n for o in args.only.split(","))]
    drawn: dict[str, dict[str, list[float]]] = {}
    for name, mode, seeds in SETS:
        if args.set not in (None, name) or args.mode not in (None, mode):
            continue
        table = load(folder(args.data), name)
        models = table.quality.shape[1]
        for shuffle in (False, True):
            title = f"{name}, {mode}" + (", outcomes shuffled" if shuffle else "")
            print(f"\n{title}, {seeds} splits")
            for rival in ["sona"] if shuffle else names:
                figures = []
                for seed in range(args.first_seed, args.first_seed + seeds):
                    train, test = split(len(table.x), seed)
                    log = record(table, train, mode, seed, shuffle)
                    expected = RIVALS[rival](log, table.x[test], models, seed)
                    if models == 2:
                        figures.append((apgr(expected, table.quality[test]),))
                    else:
                        figures.append(
                            gain_and_cost(expected, pick(table, test), pick(table, train))
                        )
                report(rival, figures, ["APGR"] if models == 2 else ["gain", "cost at -1 pt"])
                drawn.setdefault(f"{name}, {mode}", {})[
                    f"{rival}, shuffled" if shuffle else rival
                ] = [figure[0] for figure in figures]
    if args.plot:
        bars(args.plot, drawn)


def bars(path: str, drawn: dict[str, dict[str, list[float]]]) -> None:
    import matplotlib.pyplot as plt

    tallest = max(len(rows) for rows in drawn.values())
    figure, columns = plt.subplots(
        1, len(drawn), figsize=(4 * len(drawn), 1 + 0.3 * tallest), squeeze=False
    )
    for axes, (title, rows) in zip(columns[0], drawn.items(), strict=True):
        means_ = [np.mean(values) for values in rows.values()]
        axes.errorbar(
            means_, list(rows), xerr=[np.std(v) for v in rows.values()], fmt="o", capsize=2
        )
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
        axes.set(title=title)
    figure.tight_layout()
    figure.savefig(path)


def report(name: str, figures: list[tuple[float, ...]], labels: list[str]) -> None:
    values = np.array(figures)
    cells = [
        f"{label} {column.mean():+.4f} (sd {column.std():.4f}, worst {column.min():+.4f})"
        for label, column in zip(labels, values.T, strict=True)
    ]
    print(f"  {name:28s}", "  ".join(cells), flush=True)


def thompson(table: Table, order: np.ndarray, seed: int, weight: float) -> np.ndarray:
    """Context-free Thompson sampling with a Beta per route; returns rewards."""
    rng = np.random.default_rng(seed)
    wins = np.ones((2, table.quality.shape[1]))
    rewards = []
    for i in order:
        r = int((rng.beta(wins[0], wins[1]) - weight * np.arange(wins.shape[1])).argmax())
        q = table.quality[i, r]
        wins[:, r] += q, 1.0 - q
        rewards.append(q - weight * r)
    return np.array(rewards)


def stream(table: Table, order: np.ndarray, seed: int, weight: float) -> np.ndarray:
    router = Router(table.x.shape[1], seed=seed)
    rewards = []
    for i in order:
        choice = router.decide(table.x[i], ["0", "1"], {"1": 1.0}, weight, explore=True)
        q = table.quality[i, int(choice.route)]
        router.observe(table.x[i], choice.route, float(q))
        rewards.append(q - weight * int(choice.route))
        if router.due:
            router.learn()
    return np.array(rewards)


def lin_ucb(table: Table, order: np.ndarray, seed: int, weight: float) -> np.ndarray:
    """Ridge per route on the embedding and a constant, and an upper bound of its expectation."""
    dim = table.x.shape[1] + 1
    inverse, product = np.stack([np.eye(dim)] * 2), np.zeros((2, dim))
    rewards = []
    for i in order:
        x = np.append(table.x[i], 1.0)
        reach = inverse @ x
        bound = (reach * product).sum(axis=1) + 0.1 * np.sqrt(reach @ x)
        r = int((bound - weight * np.arange(2)).argmax())
        q = table.quality[i, r]
        inverse[r] -= np.outer(reach[r], reach[r]) / (1.0 + reach[r] @ x)
        product[r] += q * x
        rewards.append(q - weight * r)
    return np.array(rewards)


def likeliest(ridges: list, noise: float) -> list[tuple[float, float]]:  # type: ignore[type-arg]
    found = [sum(ridge.log_evidence(r, noise) for ridge in ridges) for r in outcome._RATIOS]
    return [(outcome._RATIOS[int(np.argmax(found))], 1.0)]


STREAMS: dict[str, tuple[Callable[..., np.ndarray], list[tuple[object, str, object]]]] = {
    "best single, in hindsight": (lambda t, order, seed, w: t.quality[order, 1] - w, []),
    "LinUCB": (lin_ucb, []),
    "sona": (stream, []),
    "- doubts drawn in full": (stream, [(levels, "_NEAR", 1e12)]),
    "- raw means as levels": (stream, [(outcome, "_ROUNDS", 1)]),
    "- likeliest ratio only": (stream, [(outcome, "_plausible", likeliest)]),
}


def online(args: argparse.Namespace) -> None:
    """Reward, quality less 0.1 for the strong model, against context-free Thompson sampling."""
    table = load(folder(args.data), "mmlu")
    gains: dict[str, list[tuple[float, ...]]] = {}
    curves: dict[str, list[np.ndarray]] = {}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        order = np.random.default_rng(seed).permutation(len(table.x))
        theirs = thompson(table, order, seed, 0.1)
        half = len(order) // 2
        for name, (method, changes) in STREAMS.items():
            if args.only and not any(part in name for part in args.only.split(",")):
                continue
            with patched(*changes):
                gain = method(table, order, seed, 0.1) - theirs
            gains.setdefault(name, []).append((gain.mean(), gain[half:].mean()))
            curves.setdefault(name, []).append(gain.cumsum())
            report(f"seed {seed}, {name}", gains[name][-1:], ["whole stream", "second half"])
    print(f"\nagainst context-free Thompson sampling, {args.seeds} seeds")
    for name, figures in gains.items():
        report(name, figures, ["whole stream", "second half"])
    if args.plot:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(6, 4))
        for name, runs in curves.items():
            axes.plot(np.mean(runs, axis=0), label=name)
        axes.axhline(0.0, color="grey", linestyle=":")
        axes.set(xlabel="requests", ylabel="reward gained over context-free Thompson")
        axes.legend(fontsize="small")
        figure.tight_layout()
        figure.savefig(args.plot)


def intents(args: argparse.Namespace) -> None:
    """77 intents as routes, 5 examples each, then right / wrong: share of right routes."""
    model_only = [(routing, "_RESIDUAL_PRIOR", 1e12), (routing, "_FRESH_WEIGHT", 0.0)]
    for name, changes in (
        ("sona", []),
        ("- no memory", [*model_only, (selectivity.Selectivity, "weight", 0.0)]),
    ):
        figures = []
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            with patched(*changes):
                figures.append(right_intents(args, seed))
        report(name, figures, ["0", "500", "5000"])


def right_intents(args: argparse.Namespace, seed: int) -> tuple[float, ...]:
    z = np.load(folder(args.data) / "intent_banking77.npz")
    x, label = unit(z["emb"]), z["label"].astype(int)
    train, test = np.flatnonzero(z["split"] == "train"), np.flatnonzero(z["split"] == "test")
    order = np.random.default_rng(seed).permutation(train)
    rank = np.zeros(len(order), int)
    for k in range(77):
        mine = np.flatnonzero(label[order] == k)
        rank[mine] = np.arange(len(mine))
    shots, queries = order[rank < 5], order[rank >= 5][:5000]
    router = Router(x.shape[1], seed=seed)
    for i in shots:
        router.observe(x[i], str(label[i]), 1.0)
    row = []
    for step in range(len(queries) + 1):
        if step in (0, 500, len(queries)):
            hits = [router.decide(x[i]).route == str(label[i]) for i in test]
            row.append(float(np.mean(hits)))
        if step < len(queries):
            i = queries[step]
            route = router.decide(x[i]).route
            router.observe(x[i], route, float(route == str(label[i])))
            if args.learn and router.due:
                router.learn()
    return tuple(row)


def drift(args: argparse.Namespace) -> None:
    """Three routes of quality .8, .7, .6; the first falls to .3: requests until it is left."""
    delays, false_alarms = [], 0
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        rng = np.random.default_rng(seed)
        router = Router(32, seed=seed)
        quality = [0.8, 0.7, 0.6]
        chosen = []
        for step in range(2_000):
            if step == 1_500:
                quality[0] = 0.3
                false_alarms += len(router._levels.turned)
            x = rng.standard_normal(32).astype(np.float32)
            x /= np.linalg.norm(x)
            route = router.decide(x, ["0", "1", "2"], explore=True).route
            router.observe(x, route, float(rng.random() < quality[int(route)]))
            chosen.append(int(route))
            if router.due and step < 1_500:
                router.learn()
        after = np.array(chosen[1_500:]) == 0
        left = next(t for t in range(len(after)) if after[t : t + 50].mean() <= 0.1)
        delays.append((float(left),))
    report("requests until left", delays, ["delay"])
    print("  alarms before anything happened:", false_alarms)


def newcomer(args: argparse.Namespace) -> None:
    """Two routes of quality .7 and .6; after 1,500 requests a third one is offered.

    It is better everywhere (.85), or for a fifth of the queries (.95, elsewhere .4). Reported:
    how many of the queries it is better for came before it took 14 of 20 of them (-1: never within
    2,500 requests), and its share of the last 200 of them.
    """
    for name, changes in (
        ("sona", []),
        ("- doubts drawn in full", [(levels, "_NEAR", 1e12)]),
    ):
        for everywhere in (True, False):
            figures = []
            for seed in range(args.first_seed, args.first_seed + args.seeds):
                with patched(*changes):
                    won = np.array(offered(seed, everywhere))
                taken = [i for i in range(len(won) - 19) if won[i : i + 20].sum() >= 14]
                figures.append((float(min(taken, default=-1)), float(won[-200:].mean())))
            title = f"{name}, better {'everywhere' if everywhere else 'for a fifth'}"
            report(title, figures, ["until taken", "share at the end"])
            print("    until taken, per seed:", [int(until) for until, _ in figures])


def offered(seed: int, everywhere: bool) -> list[bool]:
    rng = np.random.default_rng(seed)
    router = Router(32, seed=seed)
    x = rng.standard_normal((4_000, 32)).astype(np.float32)
    region = rng.random(4_000) < 0.2
    x[region] *= 0.4
    x[region, 0] += 3.0
    won = []
    for step, query in enumerate(unit(x)):
        better = everywhere or bool(region[step])
        names = ["0", "1", "2"] if step >= 1_500 else ["0", "1"]
        route = router.decide(query, names, explore=True).route
        new = 0.85 if everywhere else 0.95 if better else 0.4
        router.observe(query, route, float(rng.random() < (0.7, 0.6, new)[int(route)]))
        if router.due:
            router.learn()
        if step >= 1_500 and better:
            won.append(route == "2")
    return won


def calibration(args: argparse.Namespace) -> None:
    for name, mode in (("mmlu", "log"), ("gsm8k", "log"), ("zeroeval", "full")):
        table = load(folder(args.data), name)
        models = table.quality.shape[1]
        figures = []
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            train, test = split(len(table.x), seed)
            log = record(table, train, mode, seed)
            router = Router(table.x.shape[1], capacity=50_000, seed=seed)
            for x, r, q in zip(log.x, log.route, log.quality, strict=True):
                router.observe(x, str(r), float(q))
            router.learn()
            columns = [router.routes.index(str(r)) for r in range(models)]
            both = np.array([np.array(router.expect(x))[:, columns] for x in table.x[test]])
            p, sd, q = both[:, 0].ravel(), both[:, 1].ravel(), table.quality[test].ravel()
            bins = np.minimum((p * 10).astype(int), 9)
            ece = sum(abs((p - q)[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
            # Local means of 20 neighbouring test queries per route against what was expected.
            near = np.argsort(-(table.x[test][:200] @ table.x[test].T), axis=1)[:, :20]
            error = (both[:, 0] - table.quality[test])[near].mean(axis=1)
            noise = (both[:, 0] * (1 - both[:, 0]))[near].mean(axis=1) / 20
            z = error / np.sqrt(noise + np.square(both[:, 1])[near].mean(axis=1))
            figures.append((ece, z.std(), float((np.abs(z) < 1.645).mean()), sd.mean()))
        report(f"{name} {mode}", figures, ["ECE", "sd of z", "90 % covers", "mean sd"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", choices=[f.__name__ for f in QUESTIONS])
    parser.add_argument("--data")
    parser.add_argument("--set", choices=["mmlu", "gsm8k", "zeroeval"])
    parser.add_argument("--mode", choices=["log", "full"])
    parser.add_argument("--plot", help="offline, online: write a picture here")
    parser.add_argument("--only", help="part of the name of a method; several by comma")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--learn", action="store_true", help="intents: run the background loop")
    args = parser.parse_args()
    start = time.perf_counter()
    next(f for f in QUESTIONS if f.__name__ == args.question)(args)
    print(f"{time.perf_counter() - start:.0f} s")


QUESTIONS = [offline, online, intents, drift, newcomer, calibration]

if __name__ == "__main__":
    main()
