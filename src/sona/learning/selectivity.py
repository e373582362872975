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

    neighbours, prior, half_life = 16, 4.0, 1000.0
    low, high = 0.1, 0.3

    def __init__(self) -> None:
        self.gain = 20.0
        self.rows = 20.0

    @property
    def weight(self) -> float:
        gain = self.gain / self.rows
        return float(min(max((gain - self.low) / (self.high - self.low), 0.0), 1.0))

    def add(self, buffer: TrajectoryBuffer, rows: _Ints, n_routes: int) -> None:
        if n_routes < 2:
            return
        if buffer.seen > self.half_life:
            rows = rows[rows % 4 == 0]
        if not len(rows):
            return
        route, weight = buffer.columns("route"), buffer.columns("weight")
        found, _ = buffer.nearest(buffer.embeddings[rows], self.neighbours + 1)
        totals = np.bincount(route, weight, n_routes)
        for row, near in zip(rows, found, strict=True):
            others = near[near != row][: self.neighbours]
            if not len(others):
                continue
            mine = route[row]
            share = (totals[mine] - weight[row] + 1.0) / (totals.sum() - weight[row] + n_routes)
            # A row that stands for several outcomes has as many votes.
            votes = weight[others]
            agree = len(others) * float(votes[route[others] == mine].sum() / votes.sum())
            local = (agree + self.prior * share) / (len(others) + self.prior)
            fade = 0.5 ** (1.0 / self.half_life)
            self.gain = fade * self.gain + np.log(local / share)
            self.rows = fade * self.rows + 1.0
