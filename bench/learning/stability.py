"""What can worthless or hostile feedback do to an engine? A million outcomes of each kind.

    python bench/learning/stability.py --data FOLDER [--steps 1000000] [--plot FILE.png]

Five examples per intent are recorded, then each query of an endless stream is decided by the
nearest mean example to the adapted query, and recorded with a quality that tells little or lies;
a background cycle runs every 50,000. `end` is the accuracy of the adapted decisions after the last
outcome, `worst` the lowest seen on the way, against frozen decisions; `largest weight` covers both
adapters. `--curves FILE` keeps what was measured, so that kinds can run one by one:
`--plot` alone with `--curves` draws them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from adaptation_data import Labelled, Task, add_data_options, banking, examples, folder, task

from sona import SonaConfig, SonaEngine

CYCLE = 50_000
Reward = Callable[[float, int, np.random.Generator], float]

KINDS: dict[str, tuple[Reward, int]] = {
    # Kind: (quality from (was it right, which pattern, random numbers), honest outcomes before)
    "noise": (lambda hit, c, rng: float(rng.random() < 0.5), 0),
    "right as often as honest": (lambda hit, c, rng: float(rng.random() < 0.76), 0),
    "constant 1": (lambda hit, c, rng: 1.0, 0),
    "constant 0": (lambda hit, c, rng: 0.0, 0),
    "inverted": (lambda hit, c, rng: 1.0 - hit, 0),
    "one pattern is praised": (lambda hit, c, rng: float(c == 3), 0),
    "one repeated query": (lambda hit, c, rng: hit, 0),
    "honest, then inverted": (lambda hit, c, rng: 1.0 - hit, 5_000),
}


class Curve(dict[int, float]):
    """Accuracy after so many outcomes; the largest weight ever seen."""

    heaviest = 0.0


def record(engine: SonaEngine, x: np.ndarray, route: str, quality: float) -> None:
    trajectory = engine.begin_trajectory(x)
    trajectory.set_model_route(route)
    engine.end_trajectory(trajectory, quality)


def run(kind: str, data: Labelled, t: Task, steps: int, seed: int) -> Curve:
    reward, honest = KINDS[kind]
    engine = SonaEngine(SonaConfig(hidden_dim=t.centroids.shape[1], seed=seed))
    for number, mine in enumerate(examples(data, 5, np.random.default_rng(seed)).values()):
        for row in mine:
            record(engine, data.x[row], str(number), 1.0)
    rng = np.random.default_rng(seed)
    rows = np.full(steps, 5) if "repeated" in kind else rng.integers(0, len(t.stream), steps)
    checks = {50, 100, 200, 500, 1_000, 2_000, 5_000, honest + 50, honest + 200, honest + 500}
    checks |= set(range(steps // 20, steps + 1, steps // 20))
    curve = Curve()

    def adapted(x: np.ndarray) -> np.ndarray:
        return engine.apply_micro_lora(engine.apply_base_lora(0, x))

    for i, row in enumerate(rows, start=1):
        x = t.stream[row]
        c = int(np.argmax(t.centroids @ adapted(x)))
        hit = float(c == t.labels[row])
        record(engine, x, str(c), hit if i <= honest else reward(hit, c, rng))
        if i % CYCLE == 0 or i == honest:
            engine.force_learn()
        if i in checks:
            curve[i] = t.accuracy(adapted(t.test))
            base = engine.base_lora(0)
            for lora in (engine.micro_lora, base):
                if lora is not None:
                    assert np.isfinite(lora.lora_A).all()
                    assert np.isfinite(lora.lora_B).all()
                    largest = max(np.abs(lora.lora_A).max(), np.abs(lora.lora_B).max())
                    curve.heaviest = max(curve.heaviest, float(largest))
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this; repeatable")
    parser.add_argument("--curves", type=Path, help="JSON file that results are added to")
    args = parser.parse_args()
    kept = args.curves is not None and args.curves.exists()
    curves: dict[str, dict[str, float]] = json.loads(args.curves.read_text()) if kept else {}
    kinds = args.kind or ([] if kept and args.plot else list(KINDS))
    data = banking(folder(args)) if kinds else None
    print(f"{'':26s} {'frozen':>7s} {'end':>7s} {'end - frozen':>13s} {'worst':>7s} {'weight':>7s}")
    for kind in kinds:
        assert data is not None
        figures = []
        for seed in range(args.seeds):
            t = task(data, seed)
            frozen = t.accuracy(t.test)
            curve = run(kind, data, t, args.steps, seed)
            ways = [value - frozen for value in curve.values()]
            figures.append((frozen, frozen + ways[-1], ways[-1], min(ways), curve.heaviest))
            if seed == 0:
                curves[kind] = {str(i): value - frozen for i, value in curve.items()}
        frozen, end, change, worst, weight = np.array(figures).T
        print(
            f"{kind:26s} {frozen.mean():7.3f} {end.mean():7.3f} {change.min():+13.4f}"
            f" {worst.min():+7.4f} {weight.max():7.2f}",
            flush=True,
        )
    if args.curves is not None:
        args.curves.write_text(json.dumps(curves))
    if args.plot:
        plot(args.plot, curves)


def plot(path: str, curves: dict[str, dict[str, float]]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for kind, curve in curves.items():
        axes.plot([int(i) for i in curve], list(curve.values()), marker=".", label=kind)
    axes.axhspan(-0.01, 0.01, color="grey", alpha=0.15)
    axes.set(xscale="log", xlabel="outcomes", ylabel="accuracy - frozen accuracy")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
