"""Domains arriving one after another: what does base-LoRA keep of the earlier ones?

    python bench/learning/sequence.py --data FOLDER [--grouping similar|random] [--cycles 1]

The 77 intents in 10 groups, 5-shot patterns of all of them in the bank from the start, 500
queries per group, right / wrong of the chosen pattern, a background cycle after each group (or
several), base-LoRA alone at rank 16. `final`: accuracy on all test queries. `closed`: share of
the gap between unprotected and joint training. `last gain`: what the last group's own test
queries gain while it is learned, and `of unprotected`: relative to the unprotected gain.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from adaptation_data import Task, add_data_options, banking, folder, task, unit

from sona.learning import consolidation
from sona.learning.adaptation import Adaptation
from sona.learning.ewc import OnlineEWC
from sona.learning.fitting import fit
from sona.learning.lora import factors
from sona.learning.signal import Lessons

GROUPS, PER_GROUP = 10, 500


def groups(t: Task, grouping: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Ten groups of labels: neighbours in a greedy tour of the patterns, or random ones."""
    m = len(t.centroids)
    order = rng.permutation(m)
    if grouping == "similar":
        left, tour = set(range(1, m)), [0]
        while left:
            near = max(left, key=lambda j: float(t.centroids[j] @ t.centroids[tour[-1]]))
            tour.append(near)
            left.remove(near)
        order = np.array(tour)
    parts = np.array_split(order, GROUPS)
    return [parts[i] for i in rng.permutation(GROUPS)]


def judged(learner: Adaptation, t: Task, rows: np.ndarray) -> Lessons:
    choice = np.argmax(learner.apply(t.stream[rows]) @ t.centroids.T, axis=1)
    hits = (choice == t.labels[rows]).astype(np.float32)
    return Lessons(t.stream[rows], t.values, choice, hits)


class AnchorL2(OnlineEWC):
    """Rival: every weight alike is pulled to where it was after the last cycle."""

    def gradient(self, A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self.is_active or self.anchor is None:
            return np.zeros_like(A), np.zeros_like(B)
        s = np.float32(self.strength)
        return s * (A - self.anchor[0]), s * (B - self.anchor[1])


@dataclass
class DiagonalEWC(OnlineEWC):
    """Rival: the usual diagonal Fisher information of A and B, summed over cycles."""

    dim: int
    strength: float
    fisher: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        OnlineEWC.__init__(self, self.dim, self.strength)
        self.fisher = []

    def gradient(self, A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self.is_active or self.anchor is None or not self.fisher:
            return np.zeros_like(A), np.zeros_like(B)
        s = np.float32(self.strength)
        return (
            s * self.fisher[0] * (A - self.anchor[0]),
            s * self.fisher[1] * (B - self.anchor[1]),
        )

    def learned(self, A, B, units, inputs, grads) -> None:  # type: ignore[no-untyped-def]
        new = [((grads @ B) ** 2).T @ inputs**2, (grads**2).T @ (inputs @ A.T) ** 2]
        self.fisher = [f + g for f, g in zip(self.fisher or [0.0, 0.0], new, strict=True)]
        super().learned(A, B, units, inputs, grads)


@dataclass
class Method:
    """How a sequence is learned: the strength of protection and what replaces ours."""

    name: str
    ewc_lambda: float = 1.0
    rehearse: bool = False
    make_ewc: Callable[[int], OnlineEWC] | None = None
    decay: float = 0.0
    replay_only: bool = False
    joint: bool = False


METHODS = [
    Method("joint training", 0.0, joint=True),
    Method("unprotected", 0.0),
    Method("rate / (1 + groups)", 0.0, decay=1.0),
    Method("rate / (1 + 0.3 groups)", 0.0, decay=0.3),
    Method("L2 anchor, 5", make_ewc=lambda dim: AnchorL2(dim, 5.0)),
    Method("L2 anchor, 20", make_ewc=lambda dim: AnchorL2(dim, 20.0)),
    Method("diagonal EWC, 10", make_ewc=lambda dim: DiagonalEWC(dim, 10.0)),
    Method("diagonal EWC, 30", make_ewc=lambda dim: DiagonalEWC(dim, 30.0)),
    Method("replay of 1,000, no EWC", 0.0, replay_only=True),
    Method("EWC++ (Kronecker), no rehearsal"),
    Method("EWC++, lambda 0.3, rehearsal", 0.3, rehearse=True),
    Method("EWC++ and rehearsal (default)", rehearse=True),
]


def run(
    method: Method, t: Task, parts: list[np.ndarray], seed: int, cycles: int
) -> tuple[float, float, int]:
    """Return final accuracy, gain of the last group, boundaries found."""
    dim = t.centroids.shape[1]
    a = Adaptation(dim, base_rank=16, micro_rate=0.0, ewc_lambda=method.ewc_lambda, seed=seed)
    if method.make_ewc is not None:
        a._query.ewc = method.make_ewc(dim)
    rng = np.random.default_rng(seed)
    order = [rng.permutation(np.flatnonzero(np.isin(t.labels, g)))[:PER_GROUP] for g in parts]
    last = np.isin(t.test_labels, parts[-1])
    if method.joint:
        everything = rng.permutation(np.concatenate(order))
        a.consolidate(judged(a, t, everything), t.centroids)
        return t.accuracy(a.apply(t.test)), 0.0, 0
    past: Lessons | None = None
    before = 0.0
    for k, rows in enumerate(order):
        if k == GROUPS - 1:
            before = t.accuracy(a.apply(t.test), last)
        for part in np.array_split(rows, cycles):
            fresh = judged(a, t, part)
            a.base_rate = 0.003 / (1.0 + method.decay * k)
            if method.replay_only and past is not None:
                drawn = past.take(rng.permutation(len(past))[:1_000]).joined(fresh)
                base = a.base(0)
                base.lora_A, base.lora_B = fit(factors(base), drawn, t.centroids, 0.003, rng)
            else:
                a.consolidate(fresh, t.centroids, remembered=past if method.rehearse else None)
            past = fresh if past is None else past.joined(fresh)
    gain = t.accuracy(a.apply(t.test), last) - before
    return t.accuracy(a.apply(t.test)), gain, a.ewc(0).boundaries


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    parser.add_argument("--grouping", choices=["similar", "random"], default="similar")
    parser.add_argument("--cycles", type=int, default=1, help="background cycles per group")
    parser.add_argument("--method", action="append", choices=[m.name for m in METHODS])
    parser.add_argument("--always-adopt", action="store_true", help="skip the check of small fits")
    args = parser.parse_args()
    if args.always_adopt:
        consolidation._CHECKED = 0
    data = banking(folder(args))
    rows = len(data.train)
    tasks = [task(data, seed, n=rows) for seed in range(args.seeds)]
    parts = [groups(t, args.grouping, np.random.default_rng(s)) for s, t in enumerate(tasks)]
    frozen = np.mean([t.accuracy(unit(t.test)) for t in tasks])
    print(f"{args.grouping} groups, {args.cycles} cycle(s) each, frozen {frozen:.3f}")
    print(f"{'':34s} {'final':>14s} {'closed':>7s} {'last gain':>10s} {'of unprot.':>10s} bounds")
    results: dict[str, np.ndarray] = {}
    for method in [m for m in METHODS if args.method is None or m.name in args.method]:
        runs = [run(method, t, parts[s], s, args.cycles) for s, t in enumerate(tasks)]
        results[method.name] = np.array(runs)
        final, gain, bounds = results[method.name].mean(axis=0)
        joint = results["joint training"][:, 0].mean() if "joint training" in results else final
        none = results.get("unprotected")
        floor = joint if none is None else none[:, 0].mean()
        closed = (final - floor) / (joint - floor) if none is not None else float("nan")
        share = gain / none[:, 1].mean() if none is not None else float("nan")
        spread = results[method.name][:, 0].std()
        print(
            f"{method.name:34s} {final:.3f} ± {spread:.3f} {closed:>8.2f} {gain:>+10.3f}"
            f" {share:>10.2f} {bounds:>6.1f}",
            flush=True,
        )
    if args.plot:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(6, 4))
        names = list(results)
        axes.barh(
            names,
            [results[n][:, 0].mean() for n in names],
            xerr=[results[n][:, 0].std() for n in names],
        )
        axes.axvline(frozen, color="grey", linestyle=":")
        axes.set(xlim=(0.5, 0.9), xlabel="accuracy on all groups after the last")
        figure.tight_layout()
        figure.savefig(args.plot)


if __name__ == "__main__":
    main()
