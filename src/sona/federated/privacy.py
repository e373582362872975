"""Differential privacy: what leaves an agent tells little of any one request, or of the agent.

A private export says how often each route was tried in each of some *public* cells, and how well
it did, with Gaussian noise on every count and sum. Cells and route names are fixed beforehand from
what is nobody's secret: cells found in an agent's own queries, as an ordinary compact export has
them, would tell of the queries.

What is protected is one *unit*. Two sessions are neighbours if one is the other with a unit added:

========== ============================== ===================================================
unit       neighbours differ by           largest change of what is noised (L2)
========== ============================== ===================================================
trajectory one request                    sqrt(1.25): one count by 1, and one sum of
                                          quality - 1/2 by at most 1/2
agent      everything the session did     ``clip``: all counts and sums together are scaled
                                          down to at most this length
========== ============================== ===================================================

Not protected: that an agent of this name took part, and when. The noise is drawn from the operating
system's generator in double precision; what is sent is rounded (counts to integers, means to
float16), so the last bits of a draw, which could tell a float apart, do not travel.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sona import _core
from sona.checks import check_count, check_number, check_text
from sona.errors import MissingExtraError, RangeError
from sona.learning.sketch import Sketch, encode
from sona.types import ArrayLike, FloatArray

__all__ = ["Privacy"]

_OF_ONE_TRAJECTORY = 1.25**0.5
# Cells are directions; queries of a cell point around it. Between 0 (anywhere) and 1 (all alike).
_LENGTH = 0.5


class Privacy:
    """How much an agent's exports may tell.

    Parameters
    ----------
    cells : array_like of shape (n_cells, dim)
        Public directions; a request counts in the nearest. Patterns of a warm start will do.
    routes : sequence of str
        Public route names; a private agent takes no other.
    noise_multiplier : float
        Standard deviation of the noise, in units of the largest change of one unit; above 0.
    delta : float, default 1e-5
        Chance with which epsilon may not hold; in (0, 0.5).
    unit : {"trajectory", "agent"}, default "trajectory"
        What is protected: one request, or a session with all of its requests.
    clip : float, optional
        Length to which counts and sums of a session are scaled down; for the unit "agent" only.

    Raises
    ------
    RangeError
        If a value is out of range, there is no cell or route, a route is named twice, or `clip`
        is given for trajectories or missing for agents.
    ShapeError, DTypeError, NonFiniteError
        If `cells` are not finite rows.

    Notes
    -----
    Immutable; one serves any number of agents.

    Examples
    --------
    >>> from sona.federated import EphemeralAgent, Privacy
    >>> privacy = Privacy([[1, 0], [0, 1]], ["small", "large"], noise_multiplier=2.0)
    >>> agent = EphemeralAgent.default_federated("a", 2, privacy=privacy)
    >>> agent.process_trajectory([1, 0], [1, 0], 0.9, route="small")
    >>> export = agent.export_state()
    >>> epsilon, delta = agent.privacy_spent
    >>> round(epsilon, 1), delta
    (2.2, 1e-05)
    """

    __slots__ = ("_cells", "clip", "delta", "noise_multiplier", "routes", "unit")

    def __init__(
        self,
        cells: ArrayLike,
        routes: Sequence[str],
        *,
        noise_multiplier: float,
        delta: float = 1e-5,
        unit: Literal["trajectory", "agent"] = "trajectory",
        clip: float | None = None,
    ) -> None:
        self._cells: FloatArray = _core.unit_rows(_core.as_matrix(cells, None, "cells"))
        self.routes = tuple(check_text("routes", route) for route in routes)
        if not len(self._cells) or not self.routes or len({*self.routes}) < len(self.routes):
            raise RangeError(
                f"`cells` and `routes` must have at least one entry and no route twice;"
                f" got {len(self._cells)} cells and {list(self.routes)}"
            )
        self.noise_multiplier = check_number("noise_multiplier", noise_multiplier, 1e-3, 1e6)
        self.delta = check_number("delta", delta, 1e-12, 0.499)
        if unit not in ("trajectory", "agent"):
            raise RangeError(f"`unit` must be 'trajectory' or 'agent'; got {unit!r}")
        if (clip is None) != (unit == "trajectory"):
            raise RangeError(
                f"`clip` must be given for the unit 'agent' and for no other; got {clip!r} for"
                f" {unit!r}: one trajectory is bounded as it is"
            )
        self.unit = unit
        self.clip = None if clip is None else check_number("clip", clip, 1e-6, 1e9)

    @property
    def dim(self) -> int:
        """Dimension of the embeddings."""
        return int(self._cells.shape[1])

    @property
    def sensitivity(self) -> float:
        """Largest change (L2) of counts and sums by one unit."""
        return _OF_ONE_TRAJECTORY if self.clip is None else self.clip

    @property
    def noise(self) -> float:
        """Standard deviation of the noise on every count and sum."""
        return self.noise_multiplier * self.sensitivity

    def epsilon(self, releases: int = 1) -> float:
        """Return epsilon at :attr:`delta` after so many exports of one session.

        Raises
        ------
        MissingExtraError
            If dp-accounting, whose figure it is, is not installed.

        Notes
        -----
        An upper bound, by Renyi differential privacy (``dp_accounting.rdp``), for neighbours of
        which one has a unit more. Exports of other sessions add up besides.
        """
        check_count("releases", releases, 0)
        try:
            from dp_accounting import GaussianDpEvent, rdp
        except ImportError:
            raise MissingExtraError(
                "stating epsilon needs dp-accounting; install it with: pip install 'sona[privacy]'"
            ) from None
        if not releases:
            return 0.0
        accountant = rdp.RdpAccountant()
        accountant.compose(GaussianDpEvent(self.noise_multiplier), releases)
        return float(accountant.get_epsilon(self.delta))

    def release(
        self, embeddings: FloatArray, routes: Sequence[str], quality: NDArray[np.float64]
    ) -> Sketch:
        """Count outcomes by cell and route, with noise.

        Parameters
        ----------
        embeddings : ndarray of shape (n, dim), float32
        routes : sequence of str, length n
            Out of :attr:`routes`.
        quality : ndarray of shape (n,)
            In [0, 1].

        Returns
        -------
        Sketch
            Where noise alone would often have left as many outcomes, there are none: a choice by
            the noised counts, so it tells nothing more.
        """
        shape = (len(self._cells), len(self.routes))
        column = {route: number for number, route in enumerate(self.routes)}
        # A query of length zero is in the first cell, like any tie.
        cell = (embeddings @ self._cells.T).argmax(axis=1)
        place = cell * shape[1] + np.array([column[route] for route in routes], np.int64)
        size = shape[0] * shape[1]
        totals = np.zeros((2, size))
        totals[0] = np.bincount(place, minlength=size)
        totals[1] = np.bincount(place, quality - 0.5, size)
        if self.clip is not None:
            totals *= min(1.0, self.clip / max(float(np.linalg.norm(totals)), 1e-300))
        draw = random.SystemRandom().normalvariate
        totals += np.array([draw(0.0, self.noise) for _ in range(2 * size)]).reshape(2, size)
        counts, sums = totals
        heard = np.rint(counts) >= max(1.0, self.noise)
        means = np.clip(0.5 + sums / np.where(heard, counts, 1.0), 0.0, 1.0)
        return Sketch(
            self.routes,
            self.dim,
            encode(self._cells),
            np.full(shape[0], _LENGTH, np.float16),
            np.where(heard, np.rint(counts), 0.0).astype(np.uint32).reshape(shape),
            np.where(heard, means, 0.0).astype(np.float16).reshape(shape),
        )

    def __repr__(self) -> str:
        clip = "" if self.clip is None else f", clip={self.clip:g}"
        return (
            f"Privacy(cells={len(self._cells)}, routes={list(self.routes)},"
            f" noise_multiplier={self.noise_multiplier:g}, delta={self.delta:g},"
            f" unit={self.unit!r}{clip})"
        )
