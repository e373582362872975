"""Were the logged routes chosen by looking at the query?"""

from __future__ import annotations

import numpy as np

__all__ = ["Selectivity"]


class Selectivity:
    """How far the logged choice of a route looked at the query.

    The gain in log-likelihood, in nats, when the route of an outcome is predicted from the routes
    of the nearest others instead of from overall shares; a decaying mean, because policies
    change. It starts at one nat: until the log shows otherwise, a route is taken to have been
    tried where it was thought to work. A random log has a negative gain after a few dozen rows.

    Attributes
    ----------
    state : ndarray of shape (2,), float64
        Sum of the gains and number of the rows; :func:`sona._core.judge` adds to it.
    """

    prior = 4.0
    low, high = 0.1, 0.3

    def __init__(self) -> None:
        self.state = np.array([20.0, 20.0])

    @property
    def weight(self) -> float:
        """How far routes were chosen for the query, in [0, 1]."""
        total, rows = self.state.tolist()
        return float(min(max((total / rows - self.low) / (self.high - self.low), 0.0), 1.0))
