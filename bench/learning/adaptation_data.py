"""Labelled embeddings as a bank of patterns, a stream of queries and unseen queries."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Task(NamedTuple):
    """A bank with one pattern per label; a stream and a test split of unit rows."""

    centroids: np.ndarray
    stream: np.ndarray
    labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """Row j: what each pattern expects of the route "label j"."""
        return np.eye(len(self.centroids), dtype=np.float32)

    def accuracy(self, adapted: np.ndarray, mask: np.ndarray | None = None) -> float:
        hit = np.argmax(adapted @ self.centroids.T, axis=1) == self.test_labels
        return float(hit.mean() if mask is None else hit[mask].mean())


class Labelled(NamedTuple):
    """Unit embeddings with labels 0 .. m - 1; rows of the training split."""

    x: np.ndarray
    y: np.ndarray
    train: np.ndarray
    test: np.ndarray


def unit(x: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    return (x / np.maximum(norms, 1e-12)).astype(np.float32)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", help="folder of the data sets; default: SONA_DATA")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--plot", help="write a picture here, if matplotlib is installed")


def folder(args: argparse.Namespace) -> Path:
    path = args.data or os.environ.get("SONA_DATA")
    if not path:
        raise SystemExit("name the data folder: --data FOLDER or SONA_DATA=FOLDER")
    return Path(path)


def banking(path: Path) -> Labelled:
    file = np.load(path / "intent_banking77.npz")
    train = np.flatnonzero(file["split"] == "train")
    test = np.flatnonzero(file["split"] == "test")
    return Labelled(unit(file["emb"].astype(np.float32)), file["label"].astype(int), train, test)


def mmlu_subjects(path: Path) -> Labelled:
    file = np.load(path / "route_mmlu2.npz")
    order = np.random.default_rng(99).permutation(len(file["emb"]))
    x = unit(file["emb"].astype(np.float32))
    return Labelled(x, file["group"].astype(int), order[:10_000], order[10_000:])


def digits() -> Labelled:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(99).permutation(len(data.target))
    return Labelled(unit(data.data), data.target, order[:1_200], order[1_200:])


def synthetic(dim: int, labels: int, noise: float, seed: int) -> Labelled:
    """Clusters with a common, anisotropic spread: few directions carry most of the noise."""
    rng = np.random.default_rng(1_000 + seed)
    shape = rng.standard_normal((dim, dim)) * np.exp(rng.standard_normal(dim))
    shape /= np.sqrt(np.square(shape).sum(axis=1).mean())
    y = rng.integers(0, labels, 9_000)
    x = rng.standard_normal((labels, dim))[y] + noise * rng.standard_normal((9_000, dim)) @ shape.T
    return Labelled(unit(x), y, np.arange(6_000), np.arange(6_000, 9_000))


def in_a_cone(data: Labelled, offset: float) -> Labelled:
    """Return the same embeddings as an encoder gives them whose texts all share a direction."""
    shared = np.random.default_rng(5).standard_normal(data.x.shape[1])
    moved = data.x + offset * shared / np.linalg.norm(shared)
    return data._replace(x=unit(moved).astype(np.float32))


def some_labels(data: Labelled, count: int, seed: int) -> Labelled:
    labels = np.sort(np.random.default_rng(seed).permutation(data.y.max() + 1)[:count])
    y = np.searchsorted(labels, data.y)
    known = np.isin(data.y, labels)
    return Labelled(data.x, y, data.train[known[data.train]], data.test[known[data.test]])


def examples(data: Labelled, shots: int | None, rng: np.random.Generator) -> dict[int, np.ndarray]:
    """Draw the rows of each label that found its pattern."""
    labels = np.unique(data.y[data.train])
    bank = {label: rng.permutation(data.train[data.y[data.train] == label]) for label in labels}
    return {label: rows[:shots] for label, rows in bank.items()}


def task(data: Labelled, seed: int, shots: int | None = 5, n: int = 5_000) -> Task:
    """Bank from `shots` training rows per label (None: all); the stream is the others, again
    from the start where there are fewer than n."""
    rng = np.random.default_rng(seed)
    chosen = examples(data, shots, rng)
    labels = np.array(list(chosen))
    centroids = unit(np.stack([data.x[chosen[label]].mean(axis=0) for label in labels]))
    rest = data.train
    if shots is not None:
        rest = np.setdiff1d(data.train, np.concatenate(list(chosen.values())))
    stream = np.concatenate([rng.permutation(rest) for _ in range(-(-n // len(rest)))])[:n]
    y = np.searchsorted(labels, data.y)
    return Task(centroids, data.x[stream], y[stream], data.x[data.test], y[data.test])


def mean_and_spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}"
