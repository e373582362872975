"""Where k-means starts: greedy k-means++, then a local search that mends what it missed.

A draw of k-means++ leaves a cluster without a seed now and then, and Lloyd's algorithm seldom
moves a centroid across to it. Trying to swap a seed for a point drawn from what is served worst
finds such clusters; with the two nearest seeds of each point at hand a swap is priced for all
seeds at once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sona import _core
from sona._core import FloatArray

__all__ = ["choose_seeds"]

# Rounds of candidates that gain less than this share of the total, before the search ends.
_WORTH = 1e-3
_PATIENCE = 8
# Above any squared distance between unit vectors.
_FAR = np.float32(8.0)


def choose_seeds(
    points: FloatArray, mass: npt.NDArray[np.float64], n_seeds: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Choose points to start k-means from.

    Parameters
    ----------
    points : ndarray of float32, shape (n, dim)
        Unit rows.
    mass : ndarray of float64, shape (n,)
        Not negative, not all zero; a point without mass is never chosen.
    n_seeds : int
        At least 1.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int64, shape (m,)
        Rows of `points`; m is below `n_seeds` where there are fewer distinct points.

    Notes
    -----
    Seeds are drawn with probability proportional to mass times squared distance from the seeds
    before them; of log(n_seeds) + 2 candidates the one that lowers the total most is kept [1]_.
    Swaps follow [2]_, with several candidates at a time. Costs 2 * n * dim operations per
    candidate.

    References
    ----------
    .. [1] D. Arthur and S. Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007
       (greedy variant of its section 7).
    .. [2] S. Lattanzi and C. Sohler, "A better k-means++ algorithm via local search", ICML 2019.
    """
    search = _Seeds(points, mass, 2 + int(np.log(n_seeds)), rng)
    while len(search.chosen) < n_seeds and search.grow():
        pass
    idle = 0
    while len(search.chosen) > 1 and idle <= _PATIENCE:
        idle = 0 if search.swap() > _WORTH else idle + 1
    return np.array(search.chosen, dtype=np.int64)


class _Seeds:
    """The seeds so far and, for each point, its nearest and second nearest of them."""

    def __init__(
        self,
        points: FloatArray,
        mass: npt.NDArray[np.float64],
        n_candidates: int,
        rng: np.random.Generator,
    ) -> None:
        n = len(points)
        self.points = points
        self.mass = mass
        self.n_candidates = n_candidates
        self.rng = rng
        self.chosen: list[int] = []
        self.first = np.full(n, _FAR, dtype=np.float32)
        self.second = np.full(n, _FAR, dtype=np.float32)
        self.first_seed = np.zeros(n, dtype=np.int64)
        self.second_seed = np.zeros(n, dtype=np.int64)
        self._mass32 = mass.astype(np.float32)

    def grow(self) -> bool:
        """Add the best of a few candidates; False where every point coincides with a seed."""
        candidates = self._draw(1 if not self.chosen else self.n_candidates)
        if candidates is None:
            return False
        # Distances are needed only where they are below the second seed's.
        reach = _core.nearer(self.points, self.points[candidates], self.second)
        best = int(np.argmin(np.minimum(self.first, reach) @ self._mass32))
        self._insert(len(self.chosen), reach[best])
        self.chosen.append(int(candidates[best]))
        return True

    def swap(self) -> float:
        """Replace a seed by a candidate where that lowers the total; the share that it gains."""
        candidates = self._draw(self.n_candidates)
        if candidates is None:
            return 0.0
        now = float(self.mass @ self.first)
        best, total, out = -1, now, -1
        reach = _core.nearer(self.points, self.points[candidates], self.second)
        for i, own in enumerate(reach):
            near = np.minimum(self.first, own)
            # What the points of each seed pay if that seed goes.
            loss = np.bincount(
                self.first_seed, self.mass * (own - near), minlength=len(self.chosen)
            )
            price = float(self.mass @ near) + float(loss.min())
            if price < total:
                best, total, out = i, price, int(loss.argmin())
        if best < 0:
            return 0.0
        self.chosen[out] = int(candidates[best])
        self._insert(out, reach[best])
        self._look_again(np.flatnonzero((self.first_seed == out) | (self.second_seed == out)))
        return 1.0 - total / now

    def _look_again(self, rows: npt.NDArray[np.int64]) -> None:
        """Find the two nearest seeds of some points anew."""
        squares = np.maximum(2.0 - 2.0 * (self.points[rows] @ self.points[self.chosen].T), 0.0)
        order = np.argpartition(squares, 1, axis=1)[:, :2]
        two = np.take_along_axis(squares, order, axis=1)
        swapped = two[:, 0] > two[:, 1]
        order[swapped] = order[swapped, ::-1]
        two[swapped] = two[swapped, ::-1]
        self.first[rows], self.second[rows] = two.T
        self.first_seed[rows], self.second_seed[rows] = order.T

    def _insert(self, seed: int, distances: FloatArray) -> None:
        closer = distances < self.first
        runner_up = ~closer & (distances < self.second)
        self.second[closer] = self.first[closer]
        self.second_seed[closer] = self.first_seed[closer]
        self.first[closer] = distances[closer]
        self.first_seed[closer] = seed
        self.second[runner_up] = distances[runner_up]
        self.second_seed[runner_up] = seed

    def _draw(self, size: int) -> npt.NDArray[np.int64] | None:
        """Rows drawn by mass times squared distance; None where nothing is left to gain."""
        cumulative = np.cumsum(self.mass * self.first)
        if not cumulative[-1] > 0.0:
            return None
        drawn = np.searchsorted(cumulative, self.rng.random(size) * cumulative[-1], side="right")
        last = np.searchsorted(cumulative, cumulative[-1])
        return np.asarray(np.minimum(drawn, last), dtype=np.int64)
