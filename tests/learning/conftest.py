"""A small labelled task that frozen embeddings solve only in part, and feedback can improve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest


def units(n: int, dim: int, seed: int) -> np.ndarray:
    """Return n random unit vectors."""
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass
class Task:
    """Patterns, one per label, and queries of those labels."""

    C: np.ndarray
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray

    @property
    def dim(self) -> int:
        return self.C.shape[1]

    @property
    def values(self) -> np.ndarray:
        """Row j: what each pattern expects when pattern j was chosen."""
        return np.eye(len(self.C), dtype=np.float32)

    def accuracy(self, apply: Callable[[np.ndarray], np.ndarray]) -> float:
        y = apply(self.X_test)
        return float((np.argmax(y @ self.C.T, axis=1) == self.y_test).mean())


def labelled_task(
    seed: int,
    labels: int = 12,
    dim: int = 32,
    n: int = 3_000,
    nuisance: float = 2.0,
    conflict: float = 0.0,
) -> Task:
    """Return a task whose queries vary most in a few directions that say nothing of the label.

    With `conflict` the lower and the upper half of the labels vary in different directions, and
    what is nuisance for one half tells the labels of the other half apart.
    """
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((labels, dim)) / np.sqrt(dim)
    directions = np.linalg.qr(rng.standard_normal((dim, 4)))[0].T
    nuisances = directions[:2], directions[2:] if conflict else directions[:2]
    upper = np.arange(labels) >= labels // 2
    for half in (0, 1):
        own = rng.standard_normal((labels, 2)) @ nuisances[1 - half]
        means += conflict * own * (upper == half)[:, None]

    def draw(y: np.ndarray) -> np.ndarray:
        x = means[y] + 0.5 * rng.standard_normal((len(y), dim)) / np.sqrt(dim)
        for half in (0, 1):
            noise = nuisance * 0.35 * rng.standard_normal((len(y), 2)) @ nuisances[half]
            x += noise * (upper[y] == half)[:, None]
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    C = np.stack([draw(np.full(5, label)).mean(axis=0) for label in range(labels)])
    C /= np.linalg.norm(C, axis=1, keepdims=True)
    y, y_test = rng.integers(0, labels, n), rng.integers(0, labels, 1_000)
    return Task(C.astype(np.float32), draw(y), y, draw(y_test), y_test)


@pytest.fixture(name="units", scope="session")
def _units() -> Callable[[int, int, int], np.ndarray]:
    return units


@pytest.fixture(name="labelled_task", scope="session")
def _labelled_task() -> Callable[..., Task]:
    return labelled_task
