"""Do the adapters improve decisions on unseen queries, from right / wrong alone?

    python bench/learning/adaptation.py tiers --data FOLDER
    python bench/learning/adaptation.py stream --data FOLDER --plot stream.png
    python bench/learning/adaptation.py ablations | rivals | travel | early | shuffled --data FOLDER

A bank has one pattern per label. Each query of a stream is decided by the nearest pattern; only
whether that was right is fed back. Figures are accuracies on the test split, mean and standard
deviation over seeds, with the library's defaults but for what a row names.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from adaptation_data import (
    Labelled,
    Task,
    add_data_options,
    banking,
    digits,
    folder,
    in_a_cone,
    mean_and_spread,
    mmlu_subjects,
    some_labels,
    synthetic,
    task,
    unit,
)
from routing import patched

from sona.learning import adaptation, consolidation, fitting, lora, signal
from sona.learning.adaptation import Adaptation
from sona.learning.consolidation import Tiers, TiersFit
from sona.learning.lora import adapted
from sona.learning.signal import Lessons

MICRO_OFF, BASE_OFF = {"micro_rate": 0.0}, {"base_rate": 0.0}
EARLY = {"n": 500, "cycle": 100}


def follow(
    adaptation: Adaptation,
    t: Task,
    n: int | None = None,
    cycle: int | tuple[int, ...] = 1_000,
    shuffle: np.random.Generator | None = None,
    checkpoints: tuple[int, ...] = (),
    hits: list[float] | None = None,
) -> list[float]:
    """Feed a stream, with a background cycle every `cycle` outcomes (0: never) or at these.

    Returns the test accuracy at the checkpoints and at the end; `hits` receives whether each
    streamed query was decided rightly.
    """
    n = len(t.stream) if n is None else n
    if isinstance(cycle, int):
        cycle = tuple(range(cycle, n + 1, cycle)) if cycle else ()
    due = frozenset(cycle)
    chosen, quality = np.zeros(n, np.int64), np.zeros(n, np.float32)
    start, seen = 0, []
    outcomes = None if shuffle is None else frozen_hits(t)[shuffle.permutation(len(t.stream))]
    for i in range(n):
        choice = int(np.argmax(t.centroids @ adaptation.apply(t.stream[i])))
        hit = float(choice == t.labels[i]) if outcomes is None else float(outcomes[i])
        chosen[i], quality[i] = choice, hit
        adaptation.learn(t.stream[i], t.centroids, t.values[choice], hit)
        if hits is not None:
            hits.append(float(choice == t.labels[i]))
        if i + 1 in due:
            known = Lessons(t.stream[:start], t.values, chosen[:start], quality[:start])
            new = slice(start, i + 1)
            fresh = Lessons(t.stream[new], t.values, chosen[new], quality[new])
            adaptation.consolidate(fresh, t.centroids, remembered=known if start else None)
            start = i + 1
        if i + 1 in checkpoints:
            seen.append(t.accuracy(adaptation.apply(t.test)))
    return [*seen, t.accuracy(adaptation.apply(t.test))]


def frozen_hits(t: Task) -> np.ndarray:
    return (np.argmax(t.stream @ t.centroids.T, axis=1) == t.labels).astype(np.float32)


def learned(
    t: Task, seed: int, n: int | None = None, cycle: int = 1_000, **settings: float
) -> float:
    a = Adaptation(t.centroids.shape[1], **{"base_rank": 16, "seed": seed, **settings})
    return follow(a, t, n, cycle)[-1]


def report(rows: list[tuple[str, list[float], list[float]]]) -> None:
    print(f"{'':44s} {'accuracy':>15s}  {'gain':>15s}  {'worst gain':>10s}")
    for name, values, frozen in rows:
        gain = np.array(values) - np.array(frozen)
        print(
            f"{name:44s} {mean_and_spread(values):>15s}  {mean_and_spread(list(gain)):>15s}"
            f"  {gain.min():>+10.3f}",
            flush=True,
        )


def tiers(args: argparse.Namespace) -> None:
    """Each tier alone and both, after 500 and 5,000 outcomes, few-shot and full bank."""
    data = banking(folder(args))
    plan: list[tuple[str, int | None, dict[str, float]]] = [
        ("5-shot, micro rank 1, no cycle", 5, {"cycle": 0, "micro_rank": 1}),
        ("5-shot, micro rank 2, no cycle", 5, {"cycle": 0}),
        ("5-shot, micro rank 2, cycles", 5, BASE_OFF),
        ("5-shot, base rank 16, cycles", 5, MICRO_OFF),
        ("5-shot, both, base rank 4", 5, {"base_rank": 4}),
        ("5-shot, both, base rank 8 (default)", 5, {"base_rank": 8}),
        ("5-shot, both, base rank 16", 5, {}),
        ("5-shot, both, base rank 16, one cycle", 5, {"cycle": 5_000}),
        ("5-shot, both, rank 16, 500 outcomes", 5, {"n": 500, "cycle": 500}),
        ("full bank, micro rank 2, no cycle", None, {"cycle": 0}),
        ("full bank, base rank 16, cycles", None, MICRO_OFF),
        ("full bank, both, base rank 16", None, {}),
    ]
    rows = []
    for name, shots, settings in plan:
        tasks = [task(data, seed, shots) for seed in range(args.seeds)]
        frozen = [t.accuracy(t.test) for t in tasks]
        if not rows or rows[-1][0].split(",")[0] != name.split(",")[0]:
            rows.append((f"{name.split(',')[0]}, frozen", frozen, frozen))
        values = [learned(t, seed, **settings) for seed, t in enumerate(tasks)]  # type: ignore[arg-type]
        rows.append((name, values, frozen))
    report(rows)


def ablations(args: argparse.Namespace) -> None:
    """Each component switched off; `gain` is the paired change against everything on."""
    data = banking(folder(args))
    tasks = [task(data, seed) for seed in range(args.seeds)]

    def flat(units: np.ndarray, centroids: np.ndarray, lessons: Lessons) -> np.ndarray:
        return np.zeros(len(centroids), np.float32)

    plan: list[tuple[str, dict[str, float], list[tuple[object, str, object]]]] = [
        ("everything on", {}, []),
        ("micro-LoRA off", MICRO_OFF, []),
        ("base-LoRA off", BASE_OFF, []),
        ("full steps after a fit", {}, [(adaptation, "_SETTLED", 1.0)]),
        ("EWC++ and rehearsal off", {"ewc_lambda": 0.0}, []),
        ("rehearsal off", {}, [(adaptation, "_REHEARSAL", 0)]),
        ("frequencies not explained away", {}, [(fitting, "pattern_prior", flat)]),
        ("500 outcomes, everything on", EARLY, []),
        ("500 outcomes, no cautious start", EARLY, [(adaptation, "_CAUTIOUS", 1)]),
        ("500 outcomes, small fits not tried", EARLY, [(consolidation, "_CHECKED", 0)]),
    ]
    rows, on = [], []
    for name, settings, changes in plan:
        with patched(*changes):
            values = [learned(t, seed, **settings) for seed, t in enumerate(tasks)]  # type: ignore[arg-type]
        on = values if "everything on" in name else on
        rows.append((name, values, on))
    report(rows)


def full_matrix(t: Task, seed: int) -> float:
    """The unconstrained map W, one SGD step per outcome, same signal."""
    W = np.eye(t.centroids.shape[1], dtype=np.float32)
    for x, label in zip(t.stream, t.labels, strict=True):
        y = W @ x
        length = float(np.linalg.norm(y))
        u = y / length
        z = t.centroids @ u / 0.05
        a = np.exp(z - z.max())
        a /= a.sum()
        c = int(np.argmax(a))
        e = float(np.clip(a[c], 1e-3, 1 - 1e-3))
        pull = -a
        pull[c] += 1.0
        g = (e - float(c == label)) / (1 - e) / 0.05 * (pull @ t.centroids)
        g = (g - (g @ u) * u) / length
        W -= np.outer(0.03 * g * min(1.0, 3.0 / max(float(np.linalg.norm(g)), 1e-9)), x)
    return t.accuracy(unit(t.test @ W.T))


def moved_centroids(t: Task, seed: int) -> float:
    """No adapter: a confirmed query pulls its pattern, a refuted one pushes it away."""
    C = t.centroids.copy()
    for x, label in zip(t.stream, t.labels, strict=True):
        c = int(np.argmax(C @ x))
        C[c] = unit(C[c] + (0.05 if c == label else -0.01) * x)
    return float((np.argmax(t.test @ C.T, axis=1) == t.test_labels).mean())


def neighbours(t: Task, seed: int) -> float:
    """The 5 nearest confirmed queries and the bank vote, weighted by similarity."""
    rows, labels = confirmed(t)
    z = t.test @ rows.T
    near = np.argpartition(-z, 5, axis=1)[:, :5]
    votes = np.zeros((len(t.test), len(t.centroids)))
    np.add.at(
        votes, (np.arange(len(t.test))[:, None], labels[near]), np.take_along_axis(z, near, 1)
    )
    return float((votes.argmax(axis=1) == t.test_labels).mean())


def confirmed(t: Task) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels that a learner with labels may use: the bank and the confirmed queries."""
    choice = np.argmax(t.stream @ t.centroids.T, axis=1)
    kept = choice == t.labels
    x = np.concatenate([t.centroids, t.stream[kept]])
    return x, np.concatenate([np.arange(len(t.centroids)), choice[kept]])


def means(t: Task, seed: int) -> float:
    """Per-pattern means of the bank and the confirmed queries."""
    x, y = confirmed(t)
    moved = unit(np.stack([x[y == label].mean(axis=0) for label in range(len(t.centroids))]))
    return float((np.argmax(t.test @ moved.T, axis=1) == t.test_labels).mean())


def ridge(t: Task, seed: int) -> float:
    """Ridge regression on one-hot labels of the confirmed queries and the bank."""
    x, y = confirmed(t)
    gram = x.T @ x + np.eye(x.shape[1], dtype=np.float32)
    weights = np.linalg.solve(gram, x.T @ np.eye(len(t.centroids), dtype=np.float32)[y])
    return float((np.argmax(t.test @ weights, axis=1) == t.test_labels).mean())


def logistic(t: Task, seed: int) -> float:
    """Logistic regression on the confirmed queries and the bank."""
    from sklearn.linear_model import LogisticRegression

    x, y = confirmed(t)
    model = LogisticRegression(C=10.0, max_iter=200).fit(x, y)
    return float((model.predict(t.test) == t.test_labels).mean())


def rivals(args: argparse.Namespace) -> None:
    """Both tiers beside simple rivals that see the same feedback."""
    data = banking(folder(args))
    tasks = [task(data, seed) for seed in range(args.seeds)]
    frozen = [t.accuracy(t.test) for t in tasks]
    methods: list[tuple[str, Callable[[Task, int], float]]] = [
        ("sona, both tiers, rank 16", learned),
        ("full matrix, same signal, online", full_matrix),
        ("centroids moved, no adapter", moved_centroids),
        ("5 nearest confirmed queries", neighbours),
        ("per-pattern means of confirmed queries", means),
        ("ridge regression on confirmed queries", ridge),
        ("logistic regression on confirmed queries", logistic),
    ]
    rows = [("frozen", frozen, frozen)]
    for name, method in methods:
        rows.append((name, [method(t, seed) for seed, t in enumerate(tasks)], frozen))
    report(rows)


def sets(args: argparse.Namespace) -> list[tuple[str, Callable[[int], Task]]]:
    data = banking(folder(args))
    mmlu = mmlu_subjects(folder(args))
    pixels = digits()

    def of(make: Callable[[int], Labelled], shots: int | None = 5) -> Callable[[int], Task]:
        return lambda seed: task(make(seed), seed, shots)

    return [
        ("Banking77, 1-shot", of(lambda seed: data, 1)),
        ("Banking77, 20 of the intents", of(lambda seed: some_labels(data, 20, seed))),
        ("Banking77, 8 of the intents", of(lambda seed: some_labels(data, 8, seed))),
        ("Banking77, mean cosine 0.61", of(lambda seed: in_a_cone(data, 1.0))),
        ("Banking77, mean cosine 0.85", of(lambda seed: in_a_cone(data, 2.0))),
        ("MMLU, subjects as labels", of(lambda seed: mmlu)),
        ("digits, 64 pixels", of(lambda seed: pixels)),
        ("digits, 1-shot", of(lambda seed: pixels, 1)),
        ("synthetic, 16-d, 10 labels", of(lambda seed: synthetic(16, 10, 0.7, seed))),
        ("synthetic, 64-d, 30 labels", of(lambda seed: synthetic(64, 30, 0.9, seed))),
        ("synthetic, 768-d, 60 labels", of(lambda seed: synthetic(768, 60, 2.0, seed))),
    ]


def travel(args: argparse.Namespace) -> None:
    """The defaults on other sets, dimensions and banks, beside one sharpness for all of them.

    Decisions are as sharp as patterns are close; "fixed" takes Banking77's for all.
    """
    parts = (signal, lora, adaptation)
    fixed = [(part, "spread_of", lambda patterns: 0.69) for part in parts]
    for name, make in sets(args):
        tasks = [make(seed) for seed in range(args.seeds)]
        frozen = [t.accuracy(t.test) for t in tasks]
        rows = [(f"{name}, frozen", frozen, frozen)]
        for how, changes in (("", []), (", fixed", fixed)):
            for what, cycle in (("micro, no cycle", 0), ("both", 1_000)):
                with patched(*changes):
                    got = [learned(t, i, None, cycle, base_rank=8) for i, t in enumerate(tasks)]
                rows.append((f"{name}, {what}{how}", got, frozen))
        report(rows)


def early(args: argparse.Namespace) -> None:
    """Harm on unlucky starts: the worst of ten checks on the way, for small and large cycles.

    No gain may fall below -0.005.
    """
    data = banking(folder(args))
    for shots in (5, 1):
        tasks = [task(data, seed, shots) for seed in range(args.seeds)]
        frozen = [t.accuracy(t.test) for t in tasks]
        rows = []
        for cycle in (0, 20, 100, 500):
            checks = tuple(range(50, 501, 50))
            values = []
            for seed, t in enumerate(tasks):
                a = Adaptation(t.centroids.shape[1], seed=seed)
                values.append(min(follow(a, t, 500, cycle, checkpoints=checks)))
            rows.append((f"{shots}-shot, worst of 500, cycle of {cycle}", values, frozen))
        report(rows)


def shuffled(args: argparse.Namespace) -> None:
    """The control: outcomes permuted across queries must teach nothing and cost nothing."""
    data = banking(folder(args))
    rows = []
    for shots, name in ((5, "5-shot"), (None, "full bank")):
        tasks = [task(data, seed, shots) for seed in range(args.seeds)]
        frozen = [t.accuracy(t.test) for t in tasks]
        values = []
        for seed, t in enumerate(tasks):
            a = Adaptation(t.centroids.shape[1], base_rank=16, seed=seed)
            values.append(follow(a, t, shuffle=np.random.default_rng(seed))[-1])
        rows.append((f"{name}, outcomes shuffled", values, frozen))
    report(rows)


def by_tick(n: int) -> tuple[int, ...]:
    """After how many outcomes `tick()` runs a cycle: 64, then half as many again."""
    ends, learned_of = [], 0
    for i in range(1, n + 1):
        if i - learned_of >= max(64, learned_of // 2):
            ends.append(i)
            learned_of = i
    return tuple(ends)


def base_first(
    self: TiersFit, lessons: Lessons, rng: np.random.Generator, everything: Lessons | None = None
) -> Tiers:
    """The other order of a fit: base-LoRA to everything that it can learn, micro-LoRA on top."""
    base, micro = self.start
    base = fitting.fit(base, lessons, self.centroids, self.base_rate, rng, self.ewc)
    assert micro is not None
    known = lessons if everything is None else everything
    above = known.of_inputs(adapted(base, known.inputs))
    return Tiers(base, fitting.fit(micro, above, self.centroids, self.micro_rate, rng))


def stream(args: argparse.Namespace) -> None:
    """When each tier helps: cycles as `tick()` runs them, accuracy on the way.

    `stream`: share of the streamed queries that were decided rightly, each before its feedback.
    `micro`, `base`: unseen queries at the end, adapted by only that tier of the run. Full steps and
    base-LoRA fitted first are ways of learning that were dropped.
    """
    data = banking(folder(args))
    tasks = [task(data, seed) for seed in range(args.seeds)]
    marks = (50, 100, 250, 500, 1_000, 2_000, 3_500)
    arms: dict[str, dict[str, float]] = {
        "micro-LoRA alone": BASE_OFF,
        "micro-LoRA alone, full steps": BASE_OFF,
    }
    for rank in args.ranks:
        arms[f"base-LoRA alone, rank {rank}"] = {**MICRO_OFF, "base_rank": rank}
        arms[f"both, base rank {rank}"] = {"base_rank": rank}
        arms[f"both, full steps, rank {rank}"] = {"base_rank": rank}
        arms[f"both, base fitted first, rank {rank}"] = {"base_rank": rank}
    changes = {
        "fitted first": (TiersFit, "run", base_first),
        "full steps": (adaptation, "_SETTLED", 1.0),
    }
    frozen = [t.accuracy(t.test) for t in tasks]
    curves: dict[str, np.ndarray] = {"frozen": np.tile(frozen, (len(marks) + 1, 1)).T}
    streamed = {"frozen": np.array([frozen_hits(t).mean() for t in tasks])}
    tier = {"frozen": (np.mean(frozen), np.mean(frozen))}
    for name, settings in arms.items():
        seen, right, apart = [], [], []
        for seed, t in enumerate(tasks):
            a = Adaptation(t.centroids.shape[1], seed=seed, **settings)  # type: ignore[arg-type]
            hits: list[float] = []
            with patched(*(change for mark, change in changes.items() if mark in name)):
                cycles = by_tick(len(t.stream))
                seen.append(follow(a, t, cycle=cycles, checkpoints=marks, hits=hits))
            right.append(np.mean(hits))
            apart.append([t.accuracy(part.apply(t.test)) for part in (a.micro, a.base())])
        curves[name], streamed[name] = np.array(seen), np.array(right)
        tier[name] = np.mean(apart, axis=0)
    heads = ("stream", *marks, 5_000, "micro", "base")
    print(f"{'':36s}" + "".join(f"{head:>8}" for head in heads))
    for name, values in curves.items():
        cells = (streamed[name].mean(), *values.mean(axis=0), *tier[name])
        print(f"{name:36s}" + "".join(f"{v:8.3f}" for v in cells), flush=True)
    print("\nchange against one tier alone, seed by seed: stream, unseen queries at the end")
    for rank in args.ranks:
        for together in (f"both, base rank {rank}", f"both, base fitted first, rank {rank}"):
            for alone in ("micro-LoRA alone", f"base-LoRA alone, rank {rank}"):
                gain = streamed[together] - streamed[alone]
                last = (curves[together] - curves[alone])[:, -1]
                cells = "   ".join(f"{v.mean():+.4f} ± {v.std():.4f}" for v in (gain, last))
                print(f"{together:36s} less {alone:26s} {cells}")
    if args.plot:
        plot(args.plot, (*marks, 5_000), curves)


def plot(path: str, marks: tuple[int, ...], curves: dict[str, np.ndarray]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for name, values in curves.items():
        axes.plot(marks, values.mean(axis=0), marker=".", label=name)
    axes.set(xlabel="right / wrong outcomes", ylabel="accuracy on unseen queries", xscale="log")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    questions = {f.__name__: f for f in (tiers, ablations, rivals, stream, travel, early, shuffled)}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", choices=questions)
    add_data_options(parser)
    parser.add_argument(
        "--ranks", type=int, nargs="+", default=[8, 16], help="stream: of base-LoRA"
    )
    arguments = parser.parse_args()
    questions[arguments.question](arguments)
