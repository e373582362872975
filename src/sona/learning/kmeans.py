"""Spherical k-means: clusters of directions, each summed up by a centroid of unit length.

Between unit vectors |x - c|^2 = 2 - 2 x.c, so the nearest centroid is the one of largest inner
product, and the centroid that serves a cluster best is the normalised sum of its points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sona import _core
from sona._core import FloatArray
from sona.errors import ConfigError, NonFiniteError, NotFittedError, RangeError, ShapeError

__all__ = ["SphericalKMeans"]


class SphericalKMeans:
    """Cluster directions by Lloyd's algorithm from a greedy k-means++ start.

    Parameters
    ----------
    n_clusters : int
        Most clusters to form, at least 1. Fewer come out where there are fewer distinct points.
    init : "k-means++" or array_like of shape (k, dim), default "k-means++"
        Where to start: seeds drawn with probability proportional to the weighted squared distance
        from the seeds before them, the best of several draws each time [1]_, or given centroids
        (k takes the place of `n_clusters`; they are normalised).
    max_iter : int, default 100
        Most Lloyd iterations, at least 0.
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
        Lloyd iterations that were run.

    Notes
    -----
    A zero row has no direction: it counts as a member of a cluster, at squared distance 1 from
    every centroid, and moves none. A cluster that loses all its weight takes over the point that
    is farthest from its own centroid. An instance may be used by one thread at a time.

    Costs 2 * n * k * dim operations per iteration, and log(k) + 2 times as many for the start.

    References
    ----------
    .. [1] D. Arthur and S. Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007
       (greedy variant of its section 7).
    .. [2] I. S. Dhillon and D. S. Modha, "Concept decompositions for large sparse text data using
       clustering", Machine Learning 42, 2001.

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
        if n_clusters < 1:
            raise RangeError(f"`n_clusters` must be at least 1; got {n_clusters}")
        if max_iter < 0:
            raise RangeError(f"`max_iter` must not be negative; got {max_iter}")
        if not 0.0 <= tol < np.inf:
            raise RangeError(f"`tol` must be finite and not negative; got {tol}")
        if n_threads < 1:
            raise RangeError(f"`n_threads` must be at least 1; got {n_threads}")
        if isinstance(init, str) and init != "k-means++":
            raise ConfigError(f"`init` must be 'k-means++' or an array; got {init!r}")
        self.n_clusters = n_clusters
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.seed = seed
        self.n_threads = n_threads

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
        if isinstance(self.init, str):
            centroids = fit.seed(self.n_clusters, np.random.default_rng(self.seed))
        else:
            given = _core.as_matrix(self.init, points.shape[1], "init")
            if len(given) == 0:
                raise ShapeError(f"`init` must have at least one row; got shape {given.shape}")
            centroids = _core.unit_rows(given)
        self.centroids_, self.n_iter_ = fit.lloyd(centroids, self.max_iter, self.tol)
        self.labels_ = fit.labels
        self.inertia_ = fit.inertia()
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
        labels = np.empty(len(points), dtype=np.int32)
        similarities = np.empty(len(points), dtype=np.float32)
        _core.assign(points, self.centroids_, labels, similarities, self.n_threads)
        return labels


class _Fit:
    """The arrays of one fit: unit points, their weights, labels and similarities."""

    def __init__(
        self, points: FloatArray, weights: npt.NDArray[np.float64] | None, n_threads: int
    ) -> None:
        self.points = points
        self.weights = weights
        self.n_threads = n_threads
        self.labels = np.empty(len(points), dtype=np.int32)
        self.similarities = np.empty(len(points), dtype=np.float32)
        self._is_zero: npt.NDArray[np.bool_] = np.asarray(~points.any(axis=1))

    def seed(self, n_clusters: int, rng: np.random.Generator) -> FloatArray:
        """Greedy k-means++: draw candidates by weighted squared distance, keep the best."""
        points = self.points
        mass = np.ones(len(points)) if self.weights is None else self.weights.copy()
        mass[self._is_zero] = 0.0
        if not mass.any():
            return points[:1].copy()
        n_candidates = 2 + int(np.log(n_clusters))
        chosen = [_draw(mass, 1, rng)[0]]
        distances = _distances(points[chosen], points)[0]
        while len(chosen) < min(n_clusters, len(points)):
            potential = mass * distances
            if not potential.any():
                break
            candidates = _draw(potential, n_candidates, rng)
            nearer = np.minimum(distances, _distances(points[candidates], points))
            best = int(np.argmin(nearer @ mass))
            chosen.append(candidates[best])
            distances = nearer[best]
        return points[chosen]

    def lloyd(self, centroids: FloatArray, max_iter: int, tol: float) -> tuple[FloatArray, int]:
        """Alternate assignment and update; labels fit the centroids that are returned."""
        enough = tol * self._variance()
        self._assign(centroids)
        for n_iter in range(1, max_iter + 1):
            moved = self._update(centroids)
            shift = float(np.square(moved.astype(np.float64) - centroids).sum())
            centroids = moved
            before = self.labels.copy()
            self._assign(centroids)
            if shift <= enough or np.array_equal(before, self.labels):
                return centroids, n_iter
        return centroids, max_iter

    def inertia(self) -> float:
        squares = np.where(self._is_zero, 1.0, 2.0 - 2.0 * self.similarities.astype(np.float64))
        return float(self._total(np.maximum(squares, 0.0)))

    def _assign(self, centroids: FloatArray) -> None:
        _core.assign(self.points, centroids, self.labels, self.similarities, self.n_threads)

    def _update(self, centroids: FloatArray) -> FloatArray:
        """The normalised weighted sums; where a sum vanishes the old centroid stays."""
        sums = np.zeros(centroids.shape, dtype=np.float64)
        counts = np.zeros(len(centroids), dtype=np.float64)
        _core.accumulate(self.points, self.labels, self.weights, sums, counts)
        self._refill(sums, counts)
        lengths = np.sqrt(np.square(sums).sum(axis=1, keepdims=True))
        # Unit points that cancel leave rounding behind, not a direction.
        vanished = lengths <= 1e-6 * counts[:, None]
        moved = sums / np.where(vanished, 1.0, lengths)
        return np.where(vanished, centroids, moved).astype(np.float32)

    def _refill(self, sums: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]) -> None:
        """Move the points that are served worst into the clusters that lost all weight."""
        empty = np.flatnonzero(counts == 0.0)
        if not empty.size:
            return
        usable = ~self._is_zero
        if self.weights is not None:
            usable &= self.weights > 0.0
        served = np.where(usable, self.similarities, 1.0)
        for cluster in empty:
            i = int(served.argmin())
            # A point that coincides with its centroid gives nothing to gain.
            if served[i] >= 1.0 - 1e-6:
                break
            np.maximum(served, self.points @ self.points[i], out=served)
            weight = 1.0 if self.weights is None else self.weights[i]
            point = weight * self.points[i].astype(np.float64)
            sums[self.labels[i]] -= point
            counts[self.labels[i]] -= weight
            sums[cluster] += point
            counts[cluster] += weight

    def _variance(self) -> float:
        """Mean over the coordinates of the weighted variance of the unit points."""
        total = self._total(np.ones(len(self.points)))
        mean = self._total(self.points) / total
        squares = self._total(~self._is_zero) / total
        return float((squares - mean @ mean) / self.points.shape[1])

    def _total(self, values: npt.NDArray[Any]) -> Any:
        if self.weights is None:
            return values.sum(axis=0, dtype=np.float64)
        return self.weights @ values


def _draw(
    mass: npt.NDArray[np.float64], size: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw rows with probability proportional to `mass`; a row without mass never comes."""
    cumulative = np.cumsum(mass)
    drawn = np.searchsorted(cumulative, rng.random(size) * cumulative[-1], side="right")
    last = np.flatnonzero(mass)[-1]
    return np.asarray(np.minimum(drawn, last), dtype=np.int64)


def _distances(seeds: FloatArray, points: FloatArray) -> npt.NDArray[np.float64]:
    """Squared distances of shape (seeds, points); what rounding leaves of equal rows is zero."""
    squares = 2.0 - 2.0 * (seeds @ points.T).astype(np.float64)
    squares[squares < 1e-6] = 0.0
    return squares


def _as_weights(sample_weight: npt.ArrayLike, n: int) -> npt.NDArray[np.float64]:
    weights = np.ascontiguousarray(sample_weight, dtype=np.float64)
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
