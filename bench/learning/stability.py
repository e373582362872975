"""What can worthless or hostile feedback do? A million outcomes of each kind.

    python bench/learning/stability.py --data FOLDER [--steps 1000000]

`end` is the accuracy of the adapted decisions after the last outcome, `worst` the lowest of ten
checks on the way and of those in the first 5,000 outcomes; frozen decisions are the measure.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from adaptation_data import Task, add_data_options, banking, folder, task

from sona.learning.adaptation import Adaptation
from sona.learning.signal import Lessons

CYCLE = 50_000
Reward = Callable[[float, int, np.random.Generator], float]

KINDS: dict[str, tuple[Reward, int]] = {
    # Kind: (quality from (was it right, which pattern, random numbers), honest outcomes before)
    "noise": (lambda hit, c, rng: float(rng.random() < 0.5), 0),
    "uniform noise": (lambda hit, c, rng: float(rng.random()), 0),
    "right as often as honest": (lambda hit, c, rng: float(rng.random() < 0.76), 0),
    "constant 1": (lambda hit, c, rng: 1.0, 0),
    "constant 0": (lambda hit, c, rng: 0.0, 0),
    "inverted": (lambda hit, c, rng: 1.0 - hit, 0),
    "one pattern is praised": (lambda hit, c, rng: float(c == 3), 0),
    "one repeated query": (lambda hit, c, rng: hit, 0),
    "honest, then noise": (lambda hit, c, rng: float(rng.random() < 0.5), 5_000),
    "honest, then constant 0": (lambda hit, c, rng: 0.0, 5_000),
    "honest, then inverted": (lambda hit, c, rng: 1.0 - hit, 5_000),
}


def run(kind: str, t: Task, steps: int, seed: int) -> tuple[float, float, float]:
    """Return the accuracy at the end, the worst seen, the largest weight."""
    reward, honest = KINDS[kind]
    a = Adaptation(t.centroids.shape[1], seed=seed)
    values = t.values
    rng = np.random.default_rng(seed)
    rows = np.full(steps, 5) if "repeated" in kind else rng.integers(0, len(t.stream), steps)
    chosen, quality = np.zeros(steps, np.int64), np.zeros(steps, np.float32)
    checks = {50, 100, 200, 500, 1_000, 2_000, 5_000, honest + 50, honest + 200, honest + 500}
    checks |= set(range(steps // 10, steps + 1, steps // 10))
    worst, heaviest, start, cycle = 1.0, 0.0, 0, min(CYCLE, max(honest, steps // 10))
    for i, row in enumerate(rows):
        x = t.stream[row]
        chosen[i] = np.argmax(t.centroids @ a.apply(x))
        hit = float(chosen[i] == t.labels[row])
        quality[i] = hit if i < honest else reward(hit, int(chosen[i]), rng)
        a.learn(x, t.centroids, values[chosen[i]], float(quality[i]))
        if i + 1 in checks:
            worst = min(worst, t.accuracy(a.apply(t.test)))
            weights = (np.abs(a.micro.weights).max(), np.abs(a.base(0).weights).max())
            heaviest = max(heaviest, *map(float, weights))
        if (i + 1) % cycle == 0 or i + 1 == honest:
            new = slice(max(start, i + 1 - 5_000), i + 1)
            lessons = Lessons(t.stream[rows[new]], t.values, chosen[new], quality[new])
            a.consolidate(lessons, t.centroids)
            start = i + 1
    return t.accuracy(a.apply(t.test)), worst, heaviest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=KINDS)
    args = parser.parse_args()
    data = banking(folder(args))
    print(f"{'':26s} {'frozen':>7s} {'end':>7s} {'worst':>7s} {'largest weight':>15s}")
    for kind in [args.kind] if args.kind else KINDS:
        figures = []
        for seed in range(args.seeds):
            t = task(data, seed)
            figures.append((t.accuracy(t.test), *run(kind, t, args.steps, seed)))
        frozen, end, worst, heaviest = np.array(figures).T
        print(
            f"{kind:26s} {frozen.mean():7.3f} {end.mean():7.3f} {(worst - frozen).min():+7.3f}"
            f" {heaviest.max():15.2f}   end - frozen, worst seed {(end - frozen).min():+.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
