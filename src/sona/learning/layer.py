"""What one layer has seen: its patterns, and the outcomes that its adapter can still learn from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sona.learning.reasoning_bank import ReasoningBank
from sona.learning.signal import Lessons
from sona.types import FloatArray

__all__ = ["LayerMemory"]

# Past this many outcomes an adapter of rank 16 has nothing more to gain from one fit.
_MOST_LESSONS = 10_000


class LayerMemory:
    """Patterns of a layer's inputs and a ring of its newest outcomes.

    The query layer has one; every other layer gets its own with the first step that names it.

    Parameters
    ----------
    dim : int
        Length of the layer's inputs.
    n_clusters : int
        Most patterns.
    capacity : int
        Outcomes kept, at most 10,000; the oldest leave first. The patterns' statistics count all.
    seed : int

    Notes
    -----
    Not thread-safe.
    """

    def __init__(self, dim: int, n_clusters: int, capacity: int, seed: int) -> None:
        self.bank = ReasoningBank(dim, n_clusters, seed)
        self._capacity = min(capacity, _MOST_LESSONS)
        self._inputs = np.empty((0, dim), np.float32)
        self._routes: list[str | None] = []
        self._quality: list[float] = []
        self._seen = 0
        self._learned = 0

    def __len__(self) -> int:
        return len(self._quality)

    @property
    def dropped(self) -> int:
        """Outcomes that newer ones have replaced."""
        return self._seen - len(self)

    def observe(
        self, unit: FloatArray, route: str | None, quality: float, accepted: bool
    ) -> None:
        """Count one outcome in; `unit` is copied."""
        self.bank.observe(unit, route, quality, accepted)
        row = self._seen % self._capacity
        if row < len(self._quality):
            self._routes[row], self._quality[row] = route, quality
        else:
            self._reserve(row + 1)
            self._routes.append(route)
            self._quality.append(quality)
        self._inputs[row] = unit
        self._seen += 1

    def lessons(self) -> tuple[Lessons, Lessons]:
        """Return what was there at the last :meth:`learned`, and what is new; oldest first."""
        held = len(self)
        order = np.arange(self._seen - held, self._seen)
        rows = order % self._capacity
        number: dict[str | None, int] = {}
        routes = np.array([number.setdefault(self._routes[r], len(number)) for r in rows], np.int64)
        table = np.stack([self.bank.values(route) for route in number])
        everything = Lessons(
            self._inputs[rows], table, routes, np.array(self._quality, np.float32)[rows]
        )
        old = order < self._learned
        return everything.take(np.flatnonzero(old)), everything.take(np.flatnonzero(~old))

    def learned(self) -> None:
        """Say that everything held has been learned from."""
        self._learned = self._seen

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return numbers, for saving; :meth:`facts` is the rest."""
        bank = {f"bank.{name}": array for name, array in self.bank.arrays().items()}
        return {
            **bank,
            "inputs": self._inputs[: len(self)].copy(),
            "quality": np.array(self._quality, np.float64),
            "counters": np.array([self._seen, self._learned], np.int64),
        }

    def _reserve(self, rows: int) -> None:
        if rows > len(self._inputs):
            room = min(max(64, 2 * len(self._inputs)), self._capacity)
            grown = np.empty((room, self._inputs.shape[1]), np.float32)
            grown[: len(self._inputs)] = self._inputs
            self._inputs = grown
