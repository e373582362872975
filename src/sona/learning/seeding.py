"""Where k-means starts: greedy k-means++, then a local search that mends what it missed.

A draw of k-means++ leaves a cluster without a seed now and then, and Lloyd's algorithm seldom
moves a centroid across to it. Trying to swap a seed for a point drawn from what is served worst
finds such clusters; with the two nearest seeds of each point at hand a swap is priced for all
seeds at once.

The distances of all points from a candidate are what costs. So candidates are drawn a panel of
the kernel at a time, and serve until they are chosen or are no longer a fair draw.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sona import _core
from sona._core import FloatArray

__all__ = ["choose_seeds"]

# Candidates drawn at a time: what the kernel takes for the price of one.
_DRAWN = 16
# A swap that gains less than this share of the total is not worth making. The search ends after
# so many draws without one that is: one more for every so many seeds, up to a limit.
_WORTH = 1e-3
_SEEDS_PER_DRAW = 32
_MOST_DRAWS = 3
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
    Candidates are drawn with probability proportional to mass times squared distance from the
    seeds before them; of log(n_seeds) + 2 or more the one that lowers the total most is kept [1]_.
    One that was not kept stays a candidate with probability (its squared distance now) / (that
    when it was drawn), which makes it a draw from the present distribution. Swaps follow [2]_,
    with several candidates at a time. Costs 2 * n * dim operations per candidate, of which a
    seed needs one or two.

    References
    ----------
    .. [1] D. Arthur and S. Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007
       (greedy variant of its section 7).
    .. [2] S. Lattanzi and C. Sohler, "A better k-means++ algorithm via local search", ICML 2019.
    """
    search = _Seeds(points, mass, 2 + int(np.log(n_seeds)), rng)
    while len(search.chosen) < n_seeds and search.grow():
        pass
    idle, patience = 0, min(_MOST_DRAWS, 1 + n_seeds // _SEEDS_PER_DRAW)
    while len(search.chosen) > 1 and idle < patience and search.draw():
        idle = 0 if search.swap() else idle + 1
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
        # Rows that were drawn, the distance at which each is no longer one, and their distances
        # from all points.
        self._drawn = np.empty(0, dtype=np.int64)
        self._until = np.empty(0, dtype=np.float32)
        self._reach = np.empty((0, n), dtype=np.float32)

    def draw(self) -> bool:
        """Draw candidates; False where every point coincides with a seed."""
        cumulative = np.cumsum(self.mass * self.first)
        if not cumulative[-1] > 0.0:
            return False
        size = _DRAWN if self.chosen else 1
        drawn = np.searchsorted(cumulative, self.rng.random(size) * cumulative[-1], side="right")
        last = np.searchsorted(cumulative, cumulative[-1])
        self._drawn = np.minimum(drawn, last).astype(np.int64)
        self._until = self.rng.random(size, dtype=np.float32) * self.first[self._drawn]
        self._reach = _core.squared_distances(self.points, self.points[self._drawn])
        return True

    def grow(self) -> bool:
        """Add the best of a few candidates; False where every point coincides with a seed."""
        candidates = self._candidates()
        if len(candidates) < self.n_candidates:
            if not self.draw():
                return False
            candidates = list(range(len(self._drawn)))
        totals = [self._mass32 @ np.minimum(self.first, self._reach[i]) for i in candidates]
        best = candidates[int(np.argmin(totals))]
        self._insert(len(self.chosen), self._reach[best])
        self.chosen.append(int(self._drawn[best]))
        return True

    def swap(self) -> bool:
        """Replace seeds by candidates while that lowers the total by enough; was there one?"""
        swapped = False
        while self._swap_one():
            swapped = True
        return swapped

    def _swap_one(self) -> bool:
        now = float(self.mass @ self.first)
        # What the points of each seed pay if that seed goes and none comes.
        dear = self._by_seed(slice(None), self.second - self.first)
        best, total, out = -1, now * (1.0 - _WORTH), -1
        for i in self._candidates():
            rows = np.flatnonzero(self._reach[i] < self.second)
            own, first, second = self._reach[i][rows], self.first[rows], self.second[rows]
            near = np.minimum(first, own)
            price = now - float(self._mass32[rows] @ (first - near))
            # No seed is free to go.
            if price >= total:
                continue
            loss = dear - self._by_seed(rows, second - first - (own - near))
            price += float(loss.min())
            if price < total:
                best, total, out = i, price, int(loss.argmin())
        if best < 0:
            return False
        self.chosen[out] = int(self._drawn[best])
        self._insert(out, self._reach[best])
        self._look_again(np.flatnonzero((self.first_seed == out) | (self.second_seed == out)))
        return True

    def _by_seed(
        self, rows: npt.NDArray[np.int64] | slice, values: FloatArray
    ) -> npt.NDArray[np.float64]:
        """Sum of mass times value over the points of each seed."""
        sums = np.bincount(
            self.first_seed[rows], self.mass[rows] * values, minlength=len(self.chosen)
        )
        return sums.astype(np.float64, copy=False)

    def _candidates(self) -> list[int]:
        """Those drawn that are still a fair draw."""
        return np.flatnonzero(self.first[self._drawn] > self._until).tolist()

    def _look_again(self, rows: npt.NDArray[np.int64]) -> None:
        """Find the two nearest seeds of some points anew."""
        products = self.points[rows] @ self.points[self.chosen].T
        for distances, seeds in (
            (self.first, self.first_seed),
            (self.second, self.second_seed),
        ):
            seeds[rows] = nearest = products.argmax(axis=1)
            place = np.arange(len(rows)), nearest
            distances[rows] = np.maximum(2.0 - 2.0 * products[place], 0.0)
            products[place] = -np.inf

    def _insert(self, seed: int, reach: FloatArray) -> None:
        """Count a seed in, given the distances of all points from it."""
        rows = np.flatnonzero(reach < self.second)
        closer = reach[rows] < self.first[rows]
        runner_up, rows = rows[~closer], rows[closer]
        self.second[rows] = self.first[rows]
        self.second_seed[rows] = self.first_seed[rows]
        self.first[rows] = reach[rows]
        self.first_seed[rows] = seed
        self.second[runner_up] = reach[runner_up]
        self.second_seed[runner_up] = seed
