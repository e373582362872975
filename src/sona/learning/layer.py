"""What one layer has seen: its patterns, and the outcomes that its adapter can still learn from."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sona import _core, wire
from sona.checks import check_count
from sona.learning.reasoning_bank import BankChange, Outcomes, ReasoningBank
from sona.learning.signal import Lessons
from sona.learning.stored import UNIT, require_stored, stored
from sona.types import FloatArray

__all__ = ["LayerMemory"]

# Past this many outcomes an adapter of rank 16 has nothing more to gain from one fit.
_MOST_OUTCOMES = 10_000


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
        Outcomes kept, at most 10,000; the oldest leave first. The patterns go on counting them.
    seed : int

    Notes
    -----
    Not thread-safe.
    """

    def __init__(self, dim: int, n_clusters: int, capacity: int, seed: int) -> None:
        self.bank = ReasoningBank(dim, n_clusters, seed)
        self._capacity = min(capacity, _MOST_OUTCOMES)
        self._inputs = np.empty((0, dim), np.float32)
        self._routes: list[str | None] = []
        self._quality: list[float] = []
        self._accepted: list[bool] = []
        self._seen = 0
        self._learned = 0

    def __len__(self) -> int:
        return len(self._quality)

    @property
    def dropped(self) -> int:
        """Outcomes that newer ones have replaced."""
        return self._seen - len(self)

    def observe(
        self,
        unit: FloatArray,
        route: str | None,
        quality: float,
        accepted: bool,
        known: bool = False,
    ) -> None:
        """Count one outcome in; `unit` is copied. See :meth:`ReasoningBank.observe`."""
        row = self._seen % self._capacity
        self.bank.observe(unit, route, quality, accepted, row, known)
        if row < len(self._quality):
            self._routes[row] = route
            self._quality[row] = quality
            self._accepted[row] = accepted
        else:
            self._reserve(row + 1)
            self._routes.append(route)
            self._quality.append(quality)
            self._accepted.append(accepted)
        _core.store_row(self._inputs, row, unit)
        self._seen += 1

    def learn(self, selectivity: float) -> BankChange:
        """Cluster what is held afresh; see :meth:`ReasoningBank.learn`."""
        rows = self._oldest_first()
        outcomes = Outcomes(
            self._inputs[rows],
            [self._routes[row] for row in rows],
            np.array(self._quality)[rows],
            np.array(self._accepted, np.bool_)[rows],
        )
        return self.bank.learn(outcomes, rows, selectivity)

    def lessons(self) -> tuple[Lessons, Lessons]:
        """Return what was there at the last call and what is new since, oldest first."""
        rows = self._oldest_first()
        number: dict[str | None, int] = {}
        routes = np.array([number.setdefault(self._routes[r], len(number)) for r in rows], np.int64)
        values = np.stack([self.bank.values(route) for route in number])
        quality = np.array(self._quality, np.float32)[rows]
        everything = Lessons(self._inputs[rows], values, routes, quality)
        known = max(len(self) - (self._seen - self._learned), 0)
        self._learned = self._seen
        index = np.arange(len(self))
        return everything.take(index[:known]), everything.take(index[known:])

    def handed_on(self, k: int | None, only: Collection[int] | None = None) -> LayerMemory:
        """Return a memory with the `k` largest patterns, of `only` these, and no outcome."""
        memory = LayerMemory(self.bank.dim, self.bank.n_clusters, self._capacity, self.bank.seed)
        memory.bank = self.bank.handed_on(k, only)
        return memory

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return numbers, for saving; :meth:`facts` is the rest."""
        bank = {f"bank.{name}": array for name, array in self.bank.arrays().items()}
        return {
            **bank,
            "inputs": self._inputs[: len(self)].copy(),
            "quality": np.array(self._quality, np.float64),
            "accepted": np.array(self._accepted, np.uint8),
            "counters": np.array([self._seen, self._learned], np.int64),
        }

    def facts(self) -> dict[str, Any]:
        """Return texts, for saving."""
        names = list(dict.fromkeys(self._routes))
        number = {name: i for i, name in enumerate(names)}
        return {
            "bank": self.bank.facts(),
            "names": names,
            "routes": [number[route] for route in self._routes],
        }

    def restore(self, arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> None:
        """Become what :meth:`arrays` and :meth:`facts` described.

        Raises
        ------
        FormatError
            If they contradict each other or could not have been saved.
        """
        inputs = stored(arrays, "inputs", np.float32, (None, self.bank.dim), *UNIT)
        n = len(inputs)
        quality = stored(arrays, "quality", np.float64, (n,), 0.0, 1.0)
        accepted = stored(arrays, "accepted", np.uint8, (n,), 0, 1).astype(np.bool_)
        seen, learned = stored(arrays, "counters", np.int64, (2,), 0).tolist()
        require_stored(n == min(seen, self._capacity), f"{n} outcomes of a layer that saw {seen}")
        routes = [facts["names"][check_count("routes", i, 0)] for i in facts["routes"]]
        require_stored(len(routes) == n, f"{len(routes)} routes of {n} outcomes")
        self.bank.restore(
            wire.under(arrays, "bank."), facts["bank"], Outcomes(inputs, routes, quality, accepted)
        )
        self._inputs, self._routes = inputs.copy(), routes
        self._quality, self._accepted = quality.tolist(), accepted.tolist()
        self._seen, self._learned = seen, learned

    def _oldest_first(self) -> NDArray[np.int64]:
        return np.arange(self._seen - len(self), self._seen) % self._capacity

    def _reserve(self, rows: int) -> None:
        if rows > len(self._inputs):
            room = min(max(64, 2 * len(self._inputs)), self._capacity)
            grown = np.empty((room, self._inputs.shape[1]), np.float32)
            grown[: len(self._inputs)] = self._inputs
            self._inputs = grown
