"""Were the logged routes chosen by looking at the query?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sona.learning.buffer import TrajectoryBuffer

__all__ = ["Selectivity"]

_Ints = NDArray[np.int64]


class Selectivity:
    """How far the logged choice of a route looked at the query.

    The gain in log-likelihood, in nats, when the route of an outcome is predicted from the routes
    of the 16 nearest others instead of from overall shares; a decaying mean, because policies
    change. It starts at one nat: until the log shows otherwise, a route is taken to have been
    tried where it was thought to work. A random log has a negative gain after a few dozen rows.
    """

    neighbours, prior = 16, 4.0
    low, high = 0.1, 0.3

    def __init__(self) -> None:
        self.gain = 20.0
        self.rows = 20.0

    @property
    def weight(self) -> float:
        """How far routes were chosen for the query, in [0, 1]."""
        gain = self.gain / self.rows
        return float(min(max((gain - self.low) / (self.high - self.low), 0.0), 1.0))

    def add(
        self, buffer: TrajectoryBuffer, rows: _Ints, near: _Ints, n_routes: int, fade: float
    ) -> None:
        """Take in some outcomes.

        Parameters
        ----------
        buffer : TrajectoryBuffer
        rows : ndarray of shape (n,), int64
            The outcomes, oldest first.
        near : ndarray of shape (n, k), int64
            The rows nearest to each, best first, themselves among them.
        n_routes : int
        fade : float
            What each outcome leaves of those before it.
        """
        if n_routes < 2:
            return
        route, weight = buffer.columns("route"), buffer.columns("weight")
        others = near != rows[:, None]
        others &= others.cumsum(axis=1) <= self.neighbours
        # A row that stands for several outcomes has as many votes.
        votes = np.where(others, weight[near], 0.0)
        mine = route[rows]
        agreed = np.where(route[near] == mine[:, None], votes, 0.0).sum(axis=1)
        count = others.sum(axis=1)
        totals = np.bincount(route, weight, n_routes)
        share = (totals[mine] - weight[rows] + 1.0) / (totals.sum() - weight[rows] + n_routes)
        agree = count * agreed / np.maximum(votes.sum(axis=1), 1e-300)
        gain = np.log((agree + self.prior * share) / (count + self.prior) / share)
        for one in gain[count > 0].tolist():
            self.gain = fade * self.gain + one
            self.rows = fade * self.rows + 1.0
