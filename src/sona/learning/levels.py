"""How good each route is overall, and when it turns better or worse."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona.learning.outcome import PRIOR_OUTCOMES

__all__ = ["Drift", "Levels", "Turn"]

_Floats = NDArray[np.float64]


class Levels:
    """Mean quality per route, given what the model says about each query."""

    def __init__(self) -> None:
        self.prior = np.empty(0)
        self.trust = np.empty(0)
        self.total = np.empty(0)
        self.count = np.empty(0)
        self.onset = np.empty(0, np.int64)
        self.turned: set[int] = set()
        self.sum = 1.0
        self.seen = 2.0
        self.squares = 0.25

    @property
    def overall(self) -> float:
        """Mean quality over all routes; one half before the first outcome."""
        return float(self.sum / self.seen)

    @property
    def scatter(self) -> float:
        """Standard deviation of outcomes around what was expected."""
        return float(max(np.sqrt(self.squares / self.seen), 0.05))

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "prior": self.prior,
            "trust": self.trust,
            "total": self.total,
            "count": self.count,
            "onset": self.onset,
            "turned": np.array(sorted(self.turned), np.int64),
            "sums": np.array([self.sum, self.seen, self.squares]),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Levels:
        levels = cls()
        for name in ("prior", "trust", "total", "count", "onset"):
            setattr(levels, name, arrays[name].copy())
        levels.turned = set(arrays["turned"].tolist())
        levels.sum, levels.seen, levels.squares = arrays["sums"].tolist()
        return levels

    def grow(self, n: int) -> None:
        more = n - len(self.total)
        if more > 0:
            self.prior = np.append(self.prior, np.full(more, np.nan))
            self.trust = np.append(self.trust, np.full(more, PRIOR_OUTCOMES))
            self.total = np.append(self.total, np.zeros(more))
            self.count = np.append(self.count, np.zeros(more))
            self.onset = np.append(self.onset, np.zeros(more, np.int64))

    def of(self, route: int) -> float:
        prior = self.prior[route]
        if prior != prior:
            prior = self.sum / self.seen
        trust = self.trust[route]
        return float((self.total[route] + trust * prior) / (self.count[route] + trust))

    def current(self, n: int) -> tuple[_Floats, _Floats]:
        prior = np.where(np.isnan(self.prior), self.overall, self.prior)
        known = np.isfinite(self.prior)
        level = (self.total + self.trust * prior) / (self.count + self.trust)
        # The variance of a level that came with the model is part of the model's own.
        behind = np.where(known, np.inf, self.count + 1.0)
        return level, self.scatter**2 / behind

    def add(self, route: int, quality: float, weight: float) -> None:
        error = quality - self.of(route)
        self.total[route] += weight * quality
        self.count[route] += weight
        self.sum += weight * quality
        self.seen += weight
        self.squares += weight * error * error

    def restart(self, route: int, change: float, count: int, onset: int) -> None:
        """A route has turned: go by the outcomes since `onset`."""
        self.prior[route] = self.of(route) + change
        self.trust[route] = count
        self.total[route] = self.count[route] = 0.0
        self.onset[route] = onset
        self.turned.add(route)

    def settle(self) -> list[tuple[int, float]]:
        """Routes that turned since the last call, and how far they have moved since."""
        moved = [(route, self.of(route) - float(self.prior[route])) for route in self.turned]
        self.turned.clear()
        return moved

    def rebase(self, level: _Floats, count: _Floats, noise: float) -> None:
        self.prior = level.copy()
        self.trust = count + PRIOR_OUTCOMES
        self.total = np.zeros(len(level))
        self.count = np.zeros(len(level))
        self.onset = np.zeros(len(level), np.int64)
        self.squares = noise * self.seen


class Turn(NamedTuple):
    mean: float
    length: int
    onset: int


class Drift:
    """Notice when a route turns better or worse: a two-sided CUSUM of scaled errors.

    With slack 1/2 and threshold 18 a drop by one standard deviation or more is noticed after some
    36 outcomes, one by two after 12; steady ones raise an alarm once in tens of millions.

    References
    ----------
    E. S. Page, "Continuous inspection schemes", Biometrika 41, 1954.
    """

    slack, threshold, limit = 0.5, 18.0, 2.0

    def __init__(self) -> None:
        self.sums: list[list[float]] = []
        self.runs: list[list[list[float]]] = []

    def arrays(self) -> dict[str, NDArray[Any]]:
        n = len(self.sums)
        return {
            "sums": np.array(self.sums, np.float64).reshape(n, 2),
            "runs": np.array(self.runs, np.float64).reshape(n, 2, 3),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Drift:
        drift = cls()
        drift.sums, drift.runs = arrays["sums"].tolist(), arrays["runs"].tolist()
        return drift

    def grow(self, n: int) -> None:
        while len(self.sums) < n:
            self.sums.append([0.0, 0.0])
            self.runs.append([[0, 0.0, 0], [0, 0.0, 0]])

    def add(self, route: int, scaled: float, error: float, order: int) -> Turn | None:
        sums, runs = self.sums[route], self.runs[route]
        scaled = min(max(scaled, -self.limit), self.limit)
        for side, sign in enumerate((1.0, -1.0)):
            total = sums[side] + sign * scaled - self.slack
            if total <= 0.0:
                sums[side] = 0.0
                runs[side] = [0, 0.0, order + 1]
                continue
            sums[side] = total
            run = runs[side]
            run[0] += 1
            run[1] += error
            if total > self.threshold:
                turn = Turn(run[1] / run[0], int(run[0]), int(run[2]))
                self.sums[route] = [0.0, 0.0]
                self.runs[route] = [[0, 0.0, order + 1], [0, 0.0, order + 1]]
                return turn
        return None
