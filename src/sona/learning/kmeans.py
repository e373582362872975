"""Spherical k-means: clusters of directions, each summed up by a centroid of unit length.

Between unit vectors |x - c|^2 = 2 - 2 x.c, so the nearest centroid is the one of largest inner
product, and the centroid that serves a cluster best is the normalised sum of its points.

Lloyd's algorithm stops where every point is nearest to its own centroid. That centroid is pulled
by the point itself, though, and the fewer points share it the more: where clusters are not sharp,
moving points one by one still gains. `_Fit._challenge` prices such moves by what they do to the
lengths of the two sums, S_a of the cluster that is left and S_b of the one that is joined: a move
of x gains |S_b + x| - |S_b| - (|S_a| - |S_a - x|).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from sona import _core
from sona._core import FloatArray
from sona.checks import check_count, check_number
from sona.errors import (
    ConfigError,
    DTypeError,
    NonFiniteError,
    NotFittedError,
    RangeError,
    ShapeError,
)
from sona.learning.seeding import choose_seeds

__all__ = ["SphericalKMeans"]

# Moves of single points go on while a round of them takes this share off the inertia.
_WORTH = 5e-3
# Points whose products with all centroids are held at a time.
_BLOCK = 1024


class SphericalKMeans:
    """Cluster directions by Lloyd's algorithm from a careful start.

    Parameters
    ----------
    n_clusters : int
        Most clusters to form, at least 1. Fewer come out where there are fewer distinct points.
    init : "k-means++" or array_like of shape (k, dim), default "k-means++"
        Where to start: seeds drawn with probability proportional to the weighted squared distance
        from the seeds before them, the best of several draws each time, and mended by swaps
        (`sona.learning.seeding`), or given centroids (k takes the place of `n_clusters`; they are
        normalised). From given ones Lloyd's algorithm is run and nothing else.
    max_iter : int, default 100
        Most iterations, at least 0.
    tol : float, default 1e-4
        Stop when the squared moves of all centroids together fall to `tol` times the mean
        variance of a coordinate; 0 runs until no label changes.
    seed : int, default 0
        The same seed and data give the same clusters, bit for bit, on the same instruction set.
    n_threads : int, default 1

    Attributes
    ----------
    centroids_ : ndarray of float32, shape (k, dim)
        Unit length (zero only where every point is zero); k is at most `n_clusters`.
    labels_ : ndarray of int32, shape (n,)
        Nearest centroid of each point.
    inertia_ : float
        Weighted sum of squared distances between unit points and their unit centroids.
    n_iter_ : int
        Iterations that were run: of Lloyd's algorithm, and of moving single points where that
        ended.

    Notes
    -----
    A zero row has no direction: it counts as a member of a cluster, at squared distance 1 from
    every centroid, and moves none. A cluster that loses all its weight takes over the point that
    is farthest from its own centroid. An instance may be used by one thread at a time.

    Costs 2 * n * k * dim operations per iteration [1]_, less where 8-bit products rule most
    centroids out, and two or three times as many for the start. Moves of single points [2]_ are
    worth 1 % of the inertia where there is no structure, and next to nothing where clusters are
    sharp; there they cost one iteration.

    References
    ----------
    .. [1] I. S. Dhillon and D. S. Modha, "Concept decompositions for large sparse text data using
       clustering", Machine Learning 42, 2001.
    .. [2] I. S. Dhillon, Y. Guan and J. Kogan, "Iterative clustering of high dimensional text data
       augmented by local search", ICDM 2002; here many moves at a time.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.learning import SphericalKMeans
    >>> points = np.array([[1, 0.1], [1, -0.1], [-0.1, 2], [0.1, 3]], dtype=np.float32)
    >>> km = SphericalKMeans(n_clusters=2, seed=0).fit(points)
    >>> bool(km.labels_[0] == km.labels_[1] != km.labels_[2] == km.labels_[3])
    True
    """

    centroids_: FloatArray
    labels_: npt.NDArray[np.int32]
    inertia_: float
    n_iter_: int

    def __init__(
        self,
        n_clusters: int,
        init: str | npt.ArrayLike = "k-means++",
        max_iter: int = 100,
        tol: float = 1e-4,
        seed: int = 0,
        n_threads: int = 1,
    ) -> None:
        if isinstance(init, str) and init != "k-means++":
            raise ConfigError(f"`init` must be 'k-means++' or an array; got {init!r}")
        self.n_clusters = check_count("n_clusters", n_clusters)
        self.init = init
        self.max_iter = check_count("max_iter", max_iter, 0)
        self.tol = check_number("tol", tol, 0.0, 1e12)
        self.seed = check_count("seed", seed, 0)
        self.n_threads = check_count("n_threads", n_threads)

    def fit(self, X: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> SphericalKMeans:
        """Find the clusters of the rows of `X`; returns `self`.

        Parameters
        ----------
        X : array_like of shape (n, dim)
            At least one row; lengths do not matter, directions do.
        sample_weight : array_like of shape (n,), optional
            Finite, not negative, not all zero. A weight of 2 acts as the point given twice.

        Raises
        ------
        ShapeError, DTypeError, NonFiniteError, RangeError
            The estimator is left as it was.
        """
        points = _core.unit_rows(_core.as_matrix(X, None, "X"))
        if len(points) == 0:
            raise ShapeError(f"`X` must have at least one row; got shape {points.shape}")
        weights = None if sample_weight is None else _as_weights(sample_weight, len(points))
        fit = _Fit(points, weights, self.n_threads)
        refine = isinstance(self.init, str)
        if refine:
            centroids = fit.seed(self.n_clusters, np.random.default_rng(self.seed))
        else:
            given = _core.as_matrix(self.init, points.shape[1], "init")
            if len(given) == 0:
                raise ShapeError(f"`init` must have at least one row; got shape {given.shape}")
            centroids = _core.unit_rows(given)
        self.centroids_, self.n_iter_ = fit.iterate(centroids, self.max_iter, self.tol, refine)
        self.labels_ = fit.labels
        self.inertia_ = fit.inertia(self.centroids_)
        return self

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Return the nearest centroid of each row of `X`, as int32 of shape (n,).

        Raises
        ------
        NotFittedError
            `fit` has not been called.
        ShapeError, DTypeError, NonFiniteError
        """
        if not hasattr(self, "centroids_"):
            raise NotFittedError("`fit` must be called before `predict`")
        points = _core.unit_rows(_core.as_matrix(X, self.centroids_.shape[1], "X"))
        fit = _Fit(points, None, self.n_threads)
        fit.assign(self.centroids_)
        return fit.labels


class _Fit:
    """The arrays of one fit: unit points, their weights, labels, and the sums of the clusters."""

    def __init__(
        self, points: FloatArray, weights: npt.NDArray[np.float64] | None, n_threads: int
    ) -> None:
        n = len(points)
        self.points = points
        self.weights = weights
        self.n_threads = n_threads
        self.labels = np.full(n, -1, dtype=np.int32)
        self._codes: _core.RowCodes | None = None
        # The clusters in whose sums the points are.
        self._summed = np.full(n, -1, dtype=np.int32)
        self._sums = np.zeros((0, points.shape[1]))
        self._counts = np.zeros(0)

    def seed(self, n_clusters: int, rng: np.random.Generator) -> FloatArray:
        mass = np.ones(len(self.points)) if self.weights is None else self.weights.copy()
        mass[self._is_zero()] = 0.0
        if not mass.any():
            return self.points[:1].copy()
        return self.points[choose_seeds(self.points, mass, n_clusters, rng)]

    def iterate(
        self, centroids: FloatArray, max_iter: int, tol: float, refine: bool
    ) -> tuple[FloatArray, int]:
        """Alternate assignment and update; labels fit the centroids that are returned.

        With `refine`, single points are moved once that has come to an end; then it is taken up
        again.
        """
        self._sums = np.zeros(centroids.shape)
        self._counts = np.zeros(len(centroids))
        enough = tol * self._variance()
        self.assign(centroids)
        n_iter = 0
        while n_iter < max_iter:
            n_iter += 1
            moved = self._update(centroids)
            shift = float(np.square(moved.astype(np.float64) - centroids).sum())
            changed = (moved != centroids).any(axis=1)
            centroids = moved
            before = self.labels.copy()
            self.assign(centroids, changed)
            if shift <= enough or np.array_equal(before, self.labels):
                if not refine:
                    break
                refine = False
                centroids, rounds = self._refine(centroids, max_iter - n_iter)
                n_iter += rounds
                if rounds < 2:
                    break
        return centroids, n_iter

    def _refine(self, centroids: FloatArray, max_rounds: int) -> tuple[FloatArray, int]:
        """Move single points as long as it pays; the labels fit the centroids again at the end."""
        rounds = 0
        while rounds < max_rounds:
            rounds += 1
            before = self.labels.copy()
            served = self._served()
            self._challenge(centroids)
            gained = self._served() - served
            if gained <= 0.0:
                self.labels[:] = before
                break
            centroids = self._update(centroids)
            if 2.0 * gained <= _WORTH * self.inertia(centroids):
                break
        if rounds:
            self.assign(centroids)
        return centroids, rounds

    def _served(self) -> float:
        """The sum of the lengths of the sums, which is what clustering makes large."""
        self._accumulate()
        return float(np.sqrt(np.square(self._sums).sum(axis=1)).sum())

    def _challenge(self, centroids: FloatArray) -> None:
        """Move every point to where it gains most, if it gains, all by the sums as they are."""
        lengths = np.sqrt(np.square(self._sums).sum(axis=1))
        mass = np.ones(len(self.points)) if self.weights is None else self.weights.copy()
        mass[self._is_zero()] = 0.0
        # To first order joining gains weight * product + weight^2 / (2 * length).
        short = (0.5 / np.maximum(lengths, 1e-6)).astype(np.float32)
        for start in range(0, len(self.points), _BLOCK):
            part = slice(start, start + _BLOCK)
            own, weight = self.labels[part], mass[part]
            rows = np.arange(len(own))
            products = self.points[part] @ centroids.T
            leave = _growth(lengths[own], products[rows, own], -weight)
            bonus = short if self.weights is None else np.outer(weight, short).astype(np.float32)
            products += bonus
            products[rows, own] = -1e30
            to = products.argmax(axis=1)
            closeness = products[rows, to] - (weight * short[to]).astype(np.float32)
            gain = leave + _growth(lengths[to], closeness, weight)
            goes = gain > 1e-6 * weight
            own[goes] = to[goes]

    def inertia(self, centroids: FloatArray) -> float:
        """The sum of |x|^2 - 2 x.c + |c|^2 over the points, from the sums of the clusters."""
        self._accumulate()
        wide = centroids.astype(np.float64)
        products = float(np.vdot(wide, self._sums))
        lengths = float(np.square(wide).sum(axis=1) @ self._counts)
        return max(self._squares - 2.0 * products + lengths, 0.0)

    def assign(self, centroids: FloatArray, moved: npt.NDArray[np.bool_] | None = None) -> None:
        if self._codes is None and _core.screens_assignments(len(centroids)):
            self._codes = _core.RowCodes(*self.points.shape)
            _core.encode_rows(self.points, self._codes, 0)
        _core.assign(self.points, centroids, self.labels, None, self.n_threads, self._codes, moved)

    def _update(self, centroids: FloatArray) -> FloatArray:
        """The normalised weighted sums; where a sum vanishes the old centroid stays."""
        self._accumulate()
        self._refill(centroids)
        lengths = np.sqrt(np.square(self._sums).sum(axis=1, keepdims=True))
        # Unit points that cancel leave rounding behind, not a direction.
        vanished = lengths <= 1e-6 * self._counts[:, None]
        moved = self._sums / np.where(vanished, 1.0, lengths)
        return np.where(vanished, centroids, moved).astype(np.float32)

    def _accumulate(self) -> None:
        """Bring the sums up to date with the labels, touching only the points that moved."""
        if self.weights is None:
            before = self._summed
        else:
            # Differences of weights leave rounding behind, which hides that a cluster is empty.
            before = None
            self._sums[:] = 0.0
            self._counts[:] = 0.0
        _core.accumulate(self.points, self.labels, self.weights, self._sums, self._counts, before)
        self._summed[:] = self.labels

    def _refill(self, centroids: FloatArray) -> None:
        """Move the points that are served worst into the clusters that lost all weight."""
        empty = np.flatnonzero(self._counts == 0.0)
        if not empty.size:
            return
        served = np.einsum("ij,ij->i", self.points, centroids[self.labels])
        served[self._is_zero()] = 1.0
        if self.weights is not None:
            served[self.weights == 0.0] = 1.0
        for cluster in empty.tolist():
            i = int(served.argmin())
            # A point that coincides with its centroid gives nothing to gain.
            if served[i] >= 1.0 - 1e-6:
                break
            np.maximum(served, self.points @ self.points[i], out=served)
            weight = 1.0 if self.weights is None else float(self.weights[i])
            point = weight * self.points[i].astype(np.float64)
            old = int(self.labels[i])
            self._sums[old] -= point
            self._counts[old] -= weight
            self._sums[cluster] += point
            self._counts[cluster] += weight
            self.labels[i] = self._summed[i] = cluster

    def _is_zero(self) -> npt.NDArray[np.bool_]:
        return np.asarray(~self.points.any(axis=1))

    @cached_property
    def _squares(self) -> float:
        """Weighted sum of the squared lengths of the points."""
        squares = np.einsum("ij,ij->i", self.points, self.points).astype(np.float64)
        return float(squares.sum() if self.weights is None else np.dot(self.weights, squares))

    def _variance(self) -> float:
        """Mean over the coordinates of the weighted variance of the unit points."""
        if self.weights is None:
            total, mean = float(len(self.points)), self.points.mean(axis=0, dtype=np.float64)
        else:
            total = float(self.weights.sum())
            mean = (self.weights @ self.points) / total
        spread = self._squares / total - float(np.dot(mean, mean))
        return float(spread / self.points.shape[1])


def _growth(
    lengths: npt.NDArray[np.float64], products: FloatArray, weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """|S + w x| - |S| for unit x, from |S| and x . S / |S|."""
    squares = lengths**2 + 2.0 * lengths * weights * products + weights**2
    grown: npt.NDArray[np.float64] = np.sqrt(np.maximum(squares, 0.0)) - lengths
    return grown


def _as_weights(sample_weight: npt.ArrayLike, n: int) -> npt.NDArray[np.float64]:
    try:
        weights = np.ascontiguousarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DTypeError(f"`sample_weight` must be an array of numbers: {error}") from None
    if weights.shape != (n,):
        raise ShapeError(f"`sample_weight` must have shape ({n},); got {weights.shape}")
    if not np.isfinite(weights).all():
        raise NonFiniteError("`sample_weight` must be finite; got a NaN or an infinity")
    if (weights < 0.0).any() or not weights.any():
        raise RangeError(
            f"`sample_weight` must not be negative, nor zero everywhere; got {weights.min()} "
            f"to {weights.max()}"
        )
    return weights
