"""What does the whole engine learn, through its public verbs only?

    python bench/learning/engine.py --data FOLDER [--shots 5] [--outcomes 5000]

Routes are the labels. The bank's examples are recorded with quality 1; then each query of a
stream is routed, and recorded with quality 1 or 0. Figures are accuracies on the test split:

- `route`: `route()`, which remembers single outcomes beside patterns and adapters;
- `pattern`: the leading route of `find_patterns(x, 1)`, the adapted query in the learned bank;
- `micro`, `base`, `both`: the label whose mean example is nearest to the adapted query.

`never`: nobody calls a background cycle; `tick`: after each request; `every 1000`: forced.
"""

from __future__ import annotations

import argparse

import numpy as np
from adaptation_data import (
    Labelled,
    Task,
    add_data_options,
    banking,
    examples,
    folder,
    mean_and_spread,
    task,
)

from sona import LearnedPattern, SonaConfig, SonaEngine

MEASURES = ("route", "pattern", "micro", "base", "both")
PLAN: list[tuple[str, str, dict[str, float]]] = [
    ("cycles never", "never", {}),
    ("cycles by tick()", "tick", {}),
    ("by tick(), micro off", "tick", {"micro_lora_lr": 0.0}),
    ("by tick(), base off", "tick", {"base_lora_lr": 0.0}),
    ("cycles every 1,000", "force", {}),
    ("every 1,000, micro off", "force", {"micro_lora_lr": 0.0}),
    ("every 1,000, base off", "force", {"base_lora_lr": 0.0}),
    ("every 1,000, EWC off", "force", {"ewc_lambda": 0.0}),
    ("every 1,000, adapters off", "force", {"micro_lora_lr": 0.0, "base_lora_lr": 0.0}),
]


def leading(pattern: LearnedPattern) -> str:
    return max(pattern.routes, key=lambda r: pattern.routes[r].mean * pattern.routes[r].count)


def record(engine: SonaEngine, x: np.ndarray, route: str, quality: float) -> None:
    trajectory = engine.begin_trajectory(x)
    trajectory.set_model_route(route)
    engine.end_trajectory(trajectory, quality)


def run(
    data: Labelled,
    t: Task,
    seed: int,
    shots: int | None,
    cycles: str,
    settings: dict[str, float],
    rank: int,
    shuffle: bool = False,
) -> list[float]:
    """Return the accuracy of every measure."""
    config = SonaConfig(hidden_dim=t.centroids.shape[1], base_lora_rank=rank, seed=seed, **settings)  # type: ignore[arg-type]
    engine = SonaEngine(config)
    rng = np.random.default_rng(seed)
    bank = examples(data, shots, np.random.default_rng(seed))
    rows = [(row, number) for number, mine in enumerate(bank.values()) for row in mine]
    for i in rng.permutation(len(rows)):
        record(engine, data.x[rows[i][0]], str(rows[i][1]), 1.0)
    lot = rng.permutation(len(t.stream))
    frozen = np.argmax(t.stream @ t.centroids.T, axis=1) == t.labels
    for i, (x, label) in enumerate(zip(t.stream, t.labels, strict=True), start=1):
        route = engine.route(x).route
        hit = float(frozen[lot[i - 1]]) if shuffle else float(route == str(label))
        record(engine, x, route, hit)
        if cycles == "tick":
            engine.tick()
        elif cycles == "force" and i % 1_000 == 0:
            engine.force_learn()
    route = [engine.route(x).route == str(y) for x, y in zip(t.test, t.test_labels, strict=True)]
    near = [
        leading(engine.find_patterns(x, 1)[0]) == str(y)
        for x, y in zip(t.test, t.test_labels, strict=True)
    ]
    below = engine.apply_base_lora(0, t.test)
    adapted = (engine.apply_micro_lora(t.test), below, engine.apply_micro_lora(below))
    return [float(np.mean(route)), float(np.mean(near)), *map(t.accuracy, adapted)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    parser.add_argument("--shots", type=int, default=5, help="examples per label; 0: all")
    parser.add_argument("--outcomes", type=int, default=5_000)
    parser.add_argument("--rank", type=int, default=8, help="of base-LoRA")
    parser.add_argument("--row", choices=[name for name, _, _ in PLAN], help="only this row")
    parser.add_argument("--shuffled", action="store_true", help="outcomes permuted across queries")
    args = parser.parse_args()
    data, shots = banking(folder(args)), args.shots or None
    tasks = [task(data, seed, shots, args.outcomes) for seed in range(args.seeds)]
    frozen = [t.accuracy(t.test) for t in tasks]
    print(f"frozen {mean_and_spread(frozen)}, {args.outcomes} outcomes, {args.seeds} seeds")
    print(f"{'':28s}" + "".join(f"{name:>16s}" for name in MEASURES))
    results: dict[str, np.ndarray] = {}
    for name, cycles, settings in PLAN:
        if args.row in (None, name):
            runs = [
                run(data, t, seed, shots, cycles, settings, args.rank, args.shuffled)
                for seed, t in enumerate(tasks)
            ]
            results[name] = np.array(runs)
            cells = [mean_and_spread(list(column)) for column in results[name].T]
            print(f"{name:28s}" + "".join(f"{cell:>16s}" for cell in cells), flush=True)
    whole = {cycles: name for name, cycles, settings in PLAN if not settings}
    for name, cycles, settings in PLAN:
        if settings and {name, whole[cycles]} <= results.keys():
            change = (results[name] - results[whole[cycles]]).T
            cells = [f"{column.mean():+.3f} ± {column.std():.3f}" for column in change]
            print(f"{'change: ' + name:28s}" + "".join(f"{c:>16s}" for c in cells))
    if args.plot:
        plot(args.plot, results, float(np.mean(frozen)))


def plot(path: str, results: dict[str, np.ndarray], frozen: float) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    width = 0.8 / len(MEASURES)
    for i, measure in enumerate(MEASURES):
        mean = [values[:, i].mean() for values in results.values()]
        spread = [values[:, i].std() for values in results.values()]
        axes.barh(np.arange(len(results)) + i * width, mean, width, xerr=spread, label=measure)
    axes.set_yticks(np.arange(len(results)) + 0.4, list(results))
    axes.axvline(frozen, color="grey", linestyle=":", label="frozen")
    axes.set(xlim=(0.7, 0.95), xlabel="accuracy on unseen queries")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
