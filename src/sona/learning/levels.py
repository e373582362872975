"""How good each route is overall, and when it turns better or worse."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona import _core
from sona.learning.outcome import PRIOR_OUTCOMES
from sona.learning.stored import require_stored, stored

__all__ = ["SAID_FADE", "Levels", "Turn"]

_Floats = NDArray[np.float64]
#: Half-life, in outcomes that the model was asked about, of what it says of a route's queries.
SAID_FADE = 0.5 ** (1.0 / 32.0)
# No mean of qualities is as far from [0, 1], whatever a model says and however routes turn.
_FAR = 1e3
# Outcomes near a query that exploring may count on.
_NEAR = 20.0
# Variance of outcomes around what was expected: this much at least.
_LEAST_NOISE = 0.05**2


class Turn(NamedTuple):
    """A route that seems to have turned: mean error, outcomes that say so, order of the first."""

    mean: float
    length: int
    onset: int


class Levels:
    """Mean quality per route, given what the model says about each query; and its turns.

    The model is asked about a sample of the queries only. What it says of them on average is
    taken off every outcome, so that a route that got harder queries does not look worse.

    A route that turns better or worse is noticed by a two-sided CUSUM of scaled errors: with
    slack 1/2 and threshold 18 a drop by one standard deviation or more after some 36 outcomes, one
    by two after 12; steady ones raise an alarm once in tens of millions.

    References
    ----------
    E. S. Page, "Continuous inspection schemes", Biometrika 41, 1954.
    """

    slack, threshold, limit = 0.5, 18.0, 2.0

    def __init__(self) -> None:
        # Prior, trust, total, count; sum and weight of what the model said. See _core.follow.
        self.table = np.empty((0, 6))
        self.totals = np.array([1.0, 2.0, 0.25])
        self._runs = np.empty((0, 8))
        self.onset = np.empty(0, np.int64)
        self.turned: set[int] = set()

    @property
    def overall(self) -> float:
        """Mean quality over all routes; one half before the first outcome."""
        return float(self.totals[0] / self.totals[1])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return numbers, for saving."""
        return {
            "levels": self.table.copy(),
            "overall": self.totals.copy(),
            "runs": self._runs.copy(),
            "onset": self.onset.copy(),
            "turned": np.array(sorted(self.turned), np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], n: int, seen: int) -> Levels:
        """Make levels of `n` routes from what :meth:`arrays` returned after `seen` outcomes.

        Raises
        ------
        FormatError
            If they contradict each other or could not have been saved.
        """
        levels = cls()
        levels.table = stored(arrays, "levels", np.float64, (n, 6), nan=True).copy()
        levels.totals = stored(arrays, "overall", np.float64, (3,)).copy()
        levels._runs = stored(arrays, "runs", np.float64, (n, 8)).copy()
        prior, trust, total, count, said, of = levels.table.T
        # A NaN is outside everywhere but in a prior, where it stands for the overall mean.
        sound = (trust >= 1.0) & (count >= 0.0) & (of >= 0.0) & ~(np.abs(prior) > _FAR)
        sound &= (np.abs(total) <= _FAR * (count + 1.0)) & (np.abs(said) <= _FAR * (of + 1.0))
        require_stored(bool(sound.all()), "levels of impossible counts")
        scale = levels.totals[1]
        require_stored(bool(scale >= 1.0 and levels.totals[2] >= 0.0), "levels of no outcome")
        require_stored(bool((levels._runs[:, [1, 5]] >= 0.0).all()), "runs of impossible length")
        levels.onset = stored(arrays, "onset", np.int64, (n,), 0, seen).copy()
        levels.turned = set(stored(arrays, "turned", np.int64, (None,), 0, n - 1).tolist())
        return levels

    def grow(self, n: int) -> None:
        """Make room for `n` routes."""
        more = n - len(self.table)
        if more > 0:
            fresh = np.zeros((more, 6))
            fresh[:, :2] = np.nan, PRIOR_OUTCOMES
            self.table = np.concatenate([self.table, fresh])
            self._runs = np.concatenate([self._runs, np.zeros((more, 8))])
            self.onset = np.append(self.onset, np.zeros(more, np.int64))

    def of(self, route: int) -> float:
        """Mean quality of a route now, where the model has nothing to say."""
        prior, trust, total, count = self.table[route, :4].tolist()
        if prior != prior:
            prior = self.overall
        return float((total + trust * prior) / (count + trust))

    def at_stake(self, route: int, deviation: float) -> float:
        """How much of the doubt about a route, for one query, is worth drawing when exploring.

        What is not known about the route as a whole concerns all requests to come and counts in
        full. The rest concerns the few that come near the query: of it counts what so many
        outcomes as those can settle. Drawn in full, it would make every request pay for what
        only a handful will use.
        """
        doubt = deviation * deviation
        noise = float(max(self.totals[2] / self.totals[1], _LEAST_NOISE))
        whole = min(doubt, noise / float(self.table[route, 1] + self.table[route, 3]))
        local = doubt - whole
        return float(np.sqrt(whole + local * local / (local + noise / _NEAR)))

    def follow(self, route: int, quality: float, weight: float, order: int) -> Turn | None:
        """Count an outcome; returns a turn that deserves a closer look."""
        side = _core.follow(
            self.table,
            self.totals,
            self._runs,
            route,
            quality,
            weight,
            order,
            self.slack,
            self.threshold,
            self.limit,
        )
        if not side:
            return None
        _, length, error, onset = self._runs[route, 4 * side - 4 : 4 * side].tolist()
        self._runs[route] = (0.0, 0.0, 0.0, order + 1.0) * 2
        return Turn(error / length, int(length), int(onset))

    def restart(self, route: int, change: float, turn: Turn) -> None:
        """A route has turned: go by the outcomes since then."""
        self.table[route, :4] = (self.of(route) + change, turn.length, 0.0, 0.0)
        self.onset[route] = turn.onset
        self.turned.add(route)

    def settle(self) -> list[tuple[int, float]]:
        """Routes that turned since the last call, and how far they have moved since."""
        moved = [(route, self.of(route) - float(self.table[route, 0])) for route in self.turned]
        self.turned.clear()
        return moved

    def rebase(self, level: _Floats, count: _Floats, noise: float) -> None:
        """Start from the means of a model that was fitted to `count` outcomes."""
        self.table = np.zeros((len(level), 6))
        self.table[:, 0], self.table[:, 1] = level, count + PRIOR_OUTCOMES
        self.onset = np.zeros(len(level), np.int64)
        self.totals[2] = noise * self.totals[1]
