"""What a route is worth for a query, fitted to outcomes: a Bayesian linear model of patterns.

A query is described by its embedding and by the cells it falls in: a dozen clusterings of
different sizes and starts, each of which says where the query is in its own way. No clustering is
right; their average is smoother than any of them, and the linear part sees what no cell does.

    quality(route, x) = mean(route) + difficulty(x) + deviation(route, x)

Difficulty is common to all routes and takes most of the variance with it; the deviation, which
decides, is small and needs a prior of its own. Both are Gaussian processes with the kernel
``v * (x.x' + share of clusterings with x and x' in one cell)``, and v, the ratio of signal to
noise, is averaged over by the marginal likelihood, once for the difficulty and once for the
deviations. Means of routes and difficulty are found together, because a policy that looks at the
query gives some routes the harder ones. No outcome is held out and no data set has settings of its
own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona import _core
from sona.learning.kmeans import SphericalKMeans
from sona.learning.stored import UNIT, require_stored, stored
from sona.types import FloatArray

__all__ = ["OutcomeModel", "Points"]

#: Outcomes that a route's mean is worth before the first one came.
PRIOR_OUTCOMES = 20.0

_STARTS = 3
_SHRINKS = (1, 2, 4, 10)
_POINTS_PER_CELL = 4
_VIEW_POINTS = 4_000
_RATIOS = (0.005, 0.015, 0.05, 0.15, 0.5, 2.0)
_EVIDENCE_ROUTES = 4
#: Ratios that are less probable than this are not averaged over: each costs a factorisation.
_HARDLY = 0.02
#: Times that difficulty is fitted, the routes' levels before each: a route that was given the
#: harder queries is not worse for it. Where the choice did not look at the query the first says
#: it all.
_ROUNDS = 4
_PART = 4_096
#: Share of the prior variance that is linear in the embedding; the rest is the cells'.
_LINEAR = 0.7


class Points(NamedTuple):
    """Outcomes to fit: one row per query and route.

    Attributes
    ----------
    embeddings : ndarray of shape (n, dim), float32
        Unit length, or shorter where the row is the mean of several queries.
    route : ndarray of shape (n,), int64
    quality : ndarray of shape (n,), float64
        Mean of the outcomes of the row.
    weight : ndarray of shape (n,), float64
        Number of outcomes.
    """

    embeddings: FloatArray
    route: NDArray[np.int64]
    quality: NDArray[np.float64]
    weight: NDArray[np.float64]


class OutcomeModel:
    """Expected quality per route, linear in the embedding and in the cells it falls in.

    Made by :meth:`fit`; immutable.

    Attributes
    ----------
    level : ndarray of shape (n_routes,), float64
        Mean quality of each route on queries of the same difficulty, shrunk to the mean over all
        routes.
    count : ndarray of shape (n_routes,), float64
        Outcomes behind it.
    noise : float
        Variance of single outcomes around what the model expects.
    cells : CellModel
        The model as the kernels take it.
    """

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.level: NDArray[np.float64] = arrays["level"]
        self.count: NDArray[np.float64] = arrays["count"]
        self.noise = float(arrays["noise"][0])
        self._arrays = arrays
        self._centroids: FloatArray = arrays["centroids"]
        self._linear: FloatArray = arrays["linear"]
        self._table: FloatArray = arrays["table"]
        self._variance: FloatArray = arrays["variance"]
        self._starts: list[int] = arrays["starts"].tolist()
        self._spans = list(
            zip(self._starts, [*self._starts[1:], len(self._centroids)], strict=True)
        )
        self._both = np.concatenate([self._centroids, self._linear.T])
        codes = _core.RowCodes(*self._centroids.shape)
        _core.encode_rows(self._centroids, codes, 0)
        self.cells = _core.CellModel(
            self._both,
            arrays["starts"],
            self._table,
            self._variance,
            self.level,
            min(_STARTS, len(self._spans)),
            codes,
        )

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, NDArray[Any]], dim: int, most_routes: int
    ) -> OutcomeModel:
        """Make a model from what :meth:`arrays` returned.

        Raises
        ------
        FormatError
            If they contradict each other or could not have been saved.
        """
        level = stored(arrays, "level", np.float64, (None,), -1e6, 1e6)
        n = len(level)
        require_stored(n <= most_routes, "a model of unknown routes")
        stored(arrays, "count", np.float64, (n,), 0.0)
        stored(arrays, "noise", np.float64, (1,), 0.0, 1e6)
        cells = len(stored(arrays, "centroids", np.float32, (None, dim), *UNIT))
        stored(arrays, "linear", np.float32, (dim, n), -1e6, 1e6)
        stored(arrays, "table", np.float32, (cells, n), -1e6, 1e6)
        starts = stored(arrays, "starts", np.int64, (None,), 0, cells - 1).tolist()
        require_stored(
            starts[:1] == [0] and starts == sorted(set(starts)), f"clusterings at {starts}"
        )
        finest = starts[_STARTS] if len(starts) > _STARTS else cells
        stored(arrays, "variance", np.float32, (finest, n), 0.0, 1e6)
        return cls(arrays)

    @property
    def n_routes(self) -> int:
        """Routes that the model knows."""
        return len(self.level)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the model as arrays, for saving; `OutcomeModel(arrays)` is the same model."""
        return dict(self._arrays)

    def expect(self, x: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and variance of the expectation per route, each of shape (n_routes,).

        Costs one product with the 8-bit codes of all centroids, and exact ones with the few that
        may be nearest.
        """
        return self.cells.means(x)

    def expect_many(self, embeddings: FloatArray) -> NDArray[np.float64]:
        """Return means of shape (n, n_routes) for a batch."""
        mean = np.empty((len(embeddings), self.n_routes))
        for part in _parts(len(embeddings)):
            products = embeddings[part] @ self._both.T
            mean[part] = self.level + products[:, len(self._centroids) :]
            for start, end in self._spans:
                mean[part] += self._table[start + products[:, start:end].argmax(axis=1)]
        return mean

    @classmethod
    def fit(cls, points: Points, n_routes: int, n_clusters: int, seed: int) -> OutcomeModel:
        """Fit the model to outcomes.

        Parameters
        ----------
        points : Points
            At least one row; order matters to the last bits only.
        n_routes : int
        n_clusters : int
            Cells of the finest clusterings.
        seed : int

        Notes
        -----
        Costs one factorisation of the smaller of (features, rows) per route, and a handful more
        for the evidence: about a second per 10,000 rows of 384 dimensions. Features are written
        out for some thousand rows at a time: all of them are four times the embeddings.

        References
        ----------
        C. E. Rasmussen and C. K. I. Williams, "Gaussian Processes for Machine Learning", 2006,
        sections 2.1 and 5.4.
        """
        route, quality, weight = points.route, points.quality, points.weight
        count = np.bincount(route, weight, n_routes)
        total = np.bincount(route, weight * quality, n_routes)
        overall = (total.sum() + 1.0) / (count.sum() + 2.0)

        def levels(difficulty: NDArray[np.float64]) -> NDArray[np.float64]:
            adjusted = total - np.bincount(route, weight * difficulty, n_routes)
            shrunk: NDArray[np.float64] = (adjusted + PRIOR_OUTCOMES * overall) / (
                count + PRIOR_OUTCOMES
            )
            return shrunk

        difficulty = np.zeros(len(route))
        level = levels(difficulty)

        centroids, starts = _views(points, n_clusters, seed)
        features = _Features(points.embeddings, centroids, starts)
        residual = quality - level[route]
        noise = max(float(weight @ residual**2 / weight.sum()), 1e-4)

        common = _Ridge(features, np.arange(len(route)), residual, weight)
        ratios = _plausible([common], noise)
        for _ in range(_ROUNDS):
            level = levels(difficulty)
            common.aim(quality - level[route])
            shared = np.zeros(features.width, np.float32)
            for ratio, chance in ratios:
                shared += np.float32(chance) * common.weights(ratio)
            difficulty = features.product(shared).astype(np.float64)
        del common
        residual = quality - level[route] - difficulty
        # Rows stand for means of `weight` outcomes; their scatter shows the noise all the same.

        def ridge(r: int) -> _Ridge:
            return _Ridge(features, np.flatnonzero(route == r), residual, weight)

        largest = np.argsort(-count, kind="stable")[:_EVIDENCE_ROUTES].tolist()
        ridges = {r: ridge(r) for r in largest}
        ratios = _plausible(list(ridges.values()), noise)
        finest = starts[_STARTS] if len(starts) > _STARTS else len(centroids)
        at_centroids = _Features(centroids[:finest], centroids, starts).rows(np.arange(finest))
        weights = np.empty((features.width, n_routes), np.float32)
        variance = np.empty((finest, n_routes), np.float32)
        for r in range(n_routes):
            mine = ridges.pop(r, None) or ridge(r)
            own, variance[:, r] = mine.averaged(ratios, at_centroids, noise)
            weights[:, r] = shared + own
        dim = points.embeddings.shape[1]
        spread = np.sqrt((1.0 - _LINEAR) / len(starts))
        level_variance = noise / (count + 1.0)
        return cls(
            {
                "level": level,
                "count": count,
                "noise": np.array([noise]),
                "centroids": centroids,
                "starts": np.array(starts),
                "linear": np.ascontiguousarray(np.sqrt(_LINEAR) * weights[:dim], np.float32),
                "table": np.ascontiguousarray(spread * weights[dim:], np.float32),
                "variance": np.asarray(noise * variance + level_variance, np.float32),
            }
        )


class _Ridge:
    """Bayesian linear regression for several ratios of signal to noise.

    Works on whichever Gram matrix is smaller, of features or of rows; both give one posterior.
    """

    def __init__(
        self,
        features: _Features,
        mine: NDArray[np.int64],
        target: NDArray[np.float64],
        weight: NDArray[np.float64],
    ) -> None:
        root = np.sqrt(weight[mine]).astype(np.float32)
        self.n = len(mine)
        self.width = features.width
        self.primal = self.n >= self.width
        self._features, self._mine, self._root = features, mine, root
        if self.primal:
            self.gram = np.zeros((self.width, self.width), np.float32)
            for part in _parts(self.n):
                rows = features.rows(mine[part]) * root[part, None]
                self.gram += rows.T @ rows
        else:
            self.rows = features.rows(mine) * root[:, None]
            self.gram = self.rows @ self.rows.T
        self.aim(target)

    def aim(self, target: NDArray[np.float64]) -> None:
        """Regress another target of all rows."""
        self.target = (target[self._mine] * self._root).astype(np.float32)
        self.product = self._features.back(self._mine, self._root * self.target)

    def _system(self, ratio: float) -> FloatArray:
        system: FloatArray = np.float32(ratio) * self.gram
        system[np.diag_indices(len(system))] += 1
        return system

    def log_evidence(self, ratio: float, noise: float) -> float:
        """Log marginal likelihood, up to what does not depend on the ratio."""
        if not self.n:
            return 0.0
        factor = np.linalg.cholesky(self._system(ratio))
        right = self.product if self.primal else self.target
        half = np.linalg.solve(factor, right).astype(np.float64)
        explained = ratio * half @ half if self.primal else -(half @ half)
        return float(-np.log(np.diag(factor)).sum(dtype=np.float64) + 0.5 * explained / noise)

    def weights(self, ratio: float) -> FloatArray:
        """Posterior mean of the weights."""
        scale = np.float32(ratio)
        if not self.n:
            return np.zeros(self.width, np.float32)
        if self.primal:
            return np.asarray(scale * np.linalg.solve(self._system(ratio), self.product))
        return np.asarray(scale * (self.rows.T @ np.linalg.solve(self._system(ratio), self.target)))

    def posterior(self, ratio: float, at: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Posterior mean of the weights, and the variance at some features in units of noise."""
        prior: FloatArray = np.float32(ratio) * np.square(at).sum(axis=1)
        if not self.n:
            return np.zeros(self.width, np.float32), prior
        inverse: FloatArray = np.asarray(np.linalg.inv(self._system(ratio)), np.float32)
        if self.primal:
            mean = ratio * (inverse @ self.product)
            variance = ratio * ((at @ inverse) * at).sum(axis=1)
        else:
            cross = at @ self.rows.T
            mean = ratio * (self.rows.T @ (inverse @ self.target))
            variance = prior - ratio**2 * ((cross @ inverse) * cross).sum(axis=1)
        return np.asarray(mean, np.float32), np.asarray(np.maximum(variance, 0.0), np.float32)

    def averaged(
        self, ratios: list[tuple[float, float]], at: FloatArray, noise: float
    ) -> tuple[FloatArray, FloatArray]:
        """As :meth:`posterior`, over ratios and their probabilities: where they disagree, the
        variance is the larger for it."""
        found = [(np.float32(chance), *self.posterior(ratio, at)) for ratio, chance in ratios]
        mean = np.zeros(self.width, np.float32)
        for chance, own, _ in found:
            mean += chance * own
        variance = np.zeros(len(at), np.float32)
        for chance, own, within in found:
            variance += chance * (within + np.square(at @ (own - mean)) / np.float32(noise))
        return mean, variance


def _plausible(ridges: list[_Ridge], noise: float) -> list[tuple[float, float]]:
    """Ratios of signal to noise and their probabilities, without those that hardly count.

    Few outcomes fit any ratio. To go by the likeliest would then be to say that nothing depends
    on the query, and to stop trying what might.
    """
    evidence = np.array(
        [sum(ridge.log_evidence(ratio, noise) for ridge in ridges) for ratio in _RATIOS]
    )
    chance = np.exp(evidence - evidence.max())
    chance[chance < _HARDLY * chance.sum()] = 0.0
    chance /= chance.sum()
    return [(r, p) for r, p in zip(_RATIOS, chance.tolist(), strict=True) if p]


def _views(points: Points, n_clusters: int, seed: int) -> tuple[FloatArray, list[int]]:
    """Cluster at several sizes from several starts; finest first."""
    rng = np.random.default_rng(seed)
    n = len(points.embeddings)
    most = max(1, n // _POINTS_PER_CELL)
    centroids: list[FloatArray] = []
    starts: list[int] = []
    for shrink in _SHRINKS:
        for _ in range(_STARTS):
            # Each view sees its own sample: cheaper, and more different from the others.
            sample = rng.permutation(n)[:_VIEW_POINTS]
            sample.sort()
            size = min(max(1, n_clusters // shrink), most)
            rows = np.ascontiguousarray(points.embeddings[sample])
            first = rows[rng.permutation(len(rows))[:size]]
            found = SphericalKMeans(size, init=first, max_iter=10)
            found.fit(rows, points.weight[sample])
            starts.append(sum(len(view) for view in centroids))
            centroids.append(found.centroids_)
    return np.concatenate(centroids), starts


class _Features:
    """Rows of [x, one hot per clustering], scaled to their shares of the prior variance."""

    def __init__(self, embeddings: FloatArray, centroids: FloatArray, starts: list[int]) -> None:
        self._embeddings = embeddings
        self.width = embeddings.shape[1] + len(centroids)
        self._one = np.float32(np.sqrt((1.0 - _LINEAR) / len(starts)))
        self._cells = np.empty((len(embeddings), len(starts)), np.int32)
        for part in _parts(len(embeddings)):
            products = embeddings[part] @ centroids.T
            for view, (start, end) in enumerate(pairwise([*starts, len(centroids)])):
                self._cells[part, view] = start + products[:, start:end].argmax(axis=1)

    def rows(self, mine: NDArray[np.int64]) -> FloatArray:
        """Write rows out."""
        dim = self._embeddings.shape[1]
        rows = np.zeros((len(mine), self.width), np.float32)
        np.multiply(self._embeddings[mine], np.sqrt(_LINEAR), out=rows[:, :dim])
        rows[np.arange(len(mine))[:, None], dim + self._cells[mine]] = self._one
        return rows

    def product(self, weights: FloatArray) -> FloatArray:
        """Return the features times `weights` of shape (width,)."""
        dim = self._embeddings.shape[1]
        linear = np.float32(np.sqrt(_LINEAR)) * (self._embeddings @ weights[:dim])
        return np.asarray(linear + self._one * weights[dim + self._cells].sum(axis=1))

    def back(self, mine: NDArray[np.int64], values: FloatArray) -> FloatArray:
        """Return `values`, one per row of `mine`, times these rows: shape (width,)."""
        dim = self._embeddings.shape[1]
        found = np.zeros(self.width, np.float32)
        for part in _parts(len(mine)):
            found[:dim] += values[part] @ self._embeddings[mine[part]]
        found[:dim] *= np.float32(np.sqrt(_LINEAR))
        cells = self._cells[mine]
        each = np.repeat(values, cells.shape[1])
        found[dim:] = self._one * np.bincount(cells.ravel(), each, self.width - dim)
        return found


def _parts(n: int) -> list[slice]:
    """Slices of some thousand rows: what is written out for one stays in tens of megabytes."""
    return [slice(start, start + _PART) for start in range(0, n, _PART)]
