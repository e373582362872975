"""SphericalKMeans: the laws that its users rely on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sona.errors import (
    ConfigError,
    DTypeError,
    NonFiniteError,
    NotFittedError,
    RangeError,
    ShapeError,
)
from sona.learning import SphericalKMeans


def blobs(n: int, k: int, dim: int, seed: int, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((k, dim))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    truth = np.arange(n) % k
    points = centers[truth] + noise / np.sqrt(dim) * rng.standard_normal((n, dim))
    return points.astype(np.float32), truth


def inertia(points: np.ndarray, km: SphericalKMeans, weights: np.ndarray | None = None) -> float:
    unit = points.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    squares = np.square(unit - km.centroids_[km.labels_]).sum(axis=1)
    return float(squares.sum() if weights is None else weights @ squares)


def test_finds_clusters_that_are_there() -> None:
    points, truth = blobs(400, 20, 32, seed=1, noise=0.1)
    km = SphericalKMeans(20, seed=3).fit(points)
    for cluster in range(20):
        assert len(set(km.labels_[truth == cluster])) == 1
    assert len(set(km.labels_)) == 20


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), k=st.integers(1, 70))
def test_what_comes_out_is_consistent(seed: int, n: int, k: int) -> None:
    points = np.random.default_rng(seed).standard_normal((n, 5)).astype(np.float32)
    km = SphericalKMeans(k, seed=seed).fit(points)
    assert km.centroids_.shape == (min(n, k), 5)
    np.testing.assert_allclose(np.linalg.norm(km.centroids_, axis=1), 1.0, atol=1e-5)
    assert km.inertia_ == pytest.approx(inertia(points, km), abs=1e-4)
    np.testing.assert_array_equal(km.predict(points), km.labels_)
    assert set(km.labels_) == set(range(min(n, k)))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), noise=st.floats(0.1, 3.0))
def test_inertia_never_rises(seed: int, noise: float) -> None:
    points, _ = blobs(150, 6, 9, seed, noise)
    path = [SphericalKMeans(6, max_iter=i, tol=0.0).fit(points).inertia_ for i in range(8)]
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(path))


def test_single_moves_go_on_where_lloyd_ends() -> None:
    # Without structure a tenth of each centroid is the point itself.
    points = np.random.default_rng(0).standard_normal((600, 24)).astype(np.float32)
    km = SphericalKMeans(40, tol=0.0).fit(points)
    lloyd = min(
        SphericalKMeans(40, init=points[i : i + 40], tol=0.0).fit(points).inertia_
        for i in range(0, 400, 40)
    )
    assert km.inertia_ < 0.99 * lloyd
    np.testing.assert_array_equal(km.predict(points), km.labels_)


def test_given_centroids_are_taken_as_they_are() -> None:
    points, _ = blobs(200, 8, 16, seed=0, noise=2.0)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    centroids = unit[:8]
    for _ in range(50):
        labels = (unit @ centroids.T).argmax(axis=1)
        sums = np.stack([unit[labels == c].sum(axis=0) for c in range(8)])
        centroids = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    km = SphericalKMeans(8, init=points[:8], tol=0.0).fit(points)
    np.testing.assert_allclose(km.centroids_, centroids, atol=1e-5)


def test_same_seed_same_bits_other_seed_other_start() -> None:
    points, _ = blobs(300, 30, 16, seed=0, noise=2.0)
    one, two = (SphericalKMeans(10, seed=5).fit(points) for _ in range(2))
    np.testing.assert_array_equal(one.centroids_, two.centroids_)
    assert one.inertia_ == two.inertia_
    starts = [SphericalKMeans(10, seed=s, max_iter=0).fit(points).centroids_ for s in range(2)]
    assert not np.array_equal(*starts)


def test_threads_change_nothing() -> None:
    points, _ = blobs(500, 30, 16, seed=0, noise=2.0)
    one = SphericalKMeans(12).fit(points)
    two = SphericalKMeans(12, n_threads=3).fit(points)
    np.testing.assert_array_equal(one.centroids_, two.centroids_)


def test_lengths_do_not_matter() -> None:
    points, _ = blobs(100, 5, 8, seed=0)
    scaled = points * np.random.default_rng(0).uniform(0.01, 100.0, (100, 1))
    np.testing.assert_array_equal(
        SphericalKMeans(5).fit(points).labels_, SphericalKMeans(5).fit(scaled).labels_
    )


def test_a_weight_is_a_repetition() -> None:
    points, _ = blobs(60, 4, 8, seed=2, noise=1.5)
    weights = np.random.default_rng(0).integers(1, 4, 60)
    start = points[:4]
    weighted = SphericalKMeans(4, init=start).fit(points, sample_weight=weights)
    repeated = SphericalKMeans(4, init=start).fit(np.repeat(points, weights, axis=0))
    np.testing.assert_allclose(weighted.centroids_, repeated.centroids_, atol=1e-6)
    assert weighted.inertia_ == pytest.approx(repeated.inertia_, rel=1e-5)
    np.testing.assert_array_equal(np.repeat(weighted.labels_, weights), repeated.labels_)


def test_a_point_without_weight_moves_nothing() -> None:
    points, _ = blobs(50, 3, 8, seed=2)
    extra = np.vstack([points, -points[:10]])
    weights = np.r_[np.ones(50), np.zeros(10)]
    start = points[:3]
    with_extra = SphericalKMeans(3, init=start).fit(extra, sample_weight=weights)
    without = SphericalKMeans(3, init=start).fit(points)
    np.testing.assert_allclose(with_extra.centroids_, without.centroids_, atol=1e-6)
    assert len(with_extra.labels_) == 60


def test_seeding_prefers_what_is_far_and_heavy() -> None:
    # A crowd along one axis and a single point along another: uniform draws would miss it.
    points = np.vstack([np.tile([1.0, 0.0, 0.0], (500, 1)), [[0.0, 1.0, 0.0]]])
    points[:500, 2] = np.random.default_rng(0).uniform(0.0, 0.03, 500)
    hits = sum(
        (SphericalKMeans(2, seed=s, max_iter=0).fit(points).centroids_[:, 1] > 0.9).any()
        for s in range(20)
    )
    assert hits == 20
    # The same point with next to no weight is rarely worth a seed.
    weights = np.r_[np.ones(500), 1e-9]
    hits = sum(
        (SphericalKMeans(2, seed=s, max_iter=0).fit(points, weights).centroids_[:, 1] > 0.9).any()
        for s in range(20)
    )
    assert hits <= 2


def test_empty_clusters_are_filled() -> None:
    points, _ = blobs(90, 3, 16, seed=4)
    start = np.vstack([points[0], -points.mean(axis=0), -points.mean(axis=0) - 0.01])
    km = SphericalKMeans(3, init=start).fit(points)
    assert np.bincount(km.labels_, minlength=3).min() == 30


def test_more_clusters_than_distinct_points() -> None:
    points = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    km = SphericalKMeans(10).fit(points)
    assert sorted(km.centroids_.tolist()) == sorted(np.eye(3).tolist())
    assert km.inertia_ == pytest.approx(0.0, abs=1e-5)


def test_zero_rows_belong_but_do_not_pull() -> None:
    points, _ = blobs(40, 2, 6, seed=1)
    with_zeros = np.vstack([points, np.zeros((5, 6))])
    start = points[:2]
    km = SphericalKMeans(2, init=start).fit(with_zeros)
    np.testing.assert_array_equal(
        km.centroids_, SphericalKMeans(2, init=start).fit(points).centroids_
    )
    assert km.labels_.shape == (45,)
    only = SphericalKMeans(3).fit(np.zeros((4, 6)))
    assert only.centroids_.shape == (1, 6)
    assert only.inertia_ == 0.0
    # Seeds are drawn among directions.
    km = SphericalKMeans(2).fit(with_zeros)
    np.testing.assert_allclose(np.linalg.norm(km.centroids_, axis=1), 1.0, atol=1e-5)


def test_opposite_points_that_cancel_keep_their_centroid() -> None:
    start = np.array([[1.0, 0.0]])
    km = SphericalKMeans(1, init=start).fit([[0.6, 0.8], [-0.6, -0.8]])
    np.testing.assert_array_equal(km.centroids_, start)


def test_iterations_are_counted_and_limited() -> None:
    points, _ = blobs(300, 30, 16, seed=0, noise=2.0)
    assert SphericalKMeans(10, max_iter=0).fit(points).n_iter_ == 0
    assert SphericalKMeans(10, max_iter=2, tol=0.0).fit(points).n_iter_ == 2
    long = SphericalKMeans(10, tol=0.0).fit(points)
    assert 2 < long.n_iter_ < 100
    assert SphericalKMeans(10, tol=5.0).fit(points).n_iter_ < long.n_iter_


def test_refusals() -> None:
    points, _ = blobs(10, 2, 4, seed=0)
    for wrong in [{"n_clusters": 0}, {"max_iter": -1}, {"tol": -1.0}, {"n_threads": 0}]:
        with pytest.raises(RangeError, match=f"`{next(iter(wrong))}`"):
            SphericalKMeans(**{"n_clusters": 2, **wrong})  # type: ignore[arg-type]
    for wrong in [{"n_clusters": 1.5}, {"n_clusters": True}, {"max_iter": "9"}, {"seed": None}]:
        with pytest.raises(DTypeError, match=f"`{next(iter(wrong))}`"):
            SphericalKMeans(**{"n_clusters": 2, **wrong})  # type: ignore[arg-type]
    with pytest.raises(DTypeError, match="`sample_weight`"):
        SphericalKMeans(2).fit(points, sample_weight=["heavy"] * 10)
    with pytest.raises(ConfigError, match="`init`"):
        SphericalKMeans(2, init="farthest")
    with pytest.raises(NotFittedError):
        SphericalKMeans(2).predict(points)
    with pytest.raises(ShapeError, match="`init`"):
        SphericalKMeans(2, init=np.ones((2, 3))).fit(points)
    with pytest.raises(ShapeError, match="`X`"):
        SphericalKMeans(2).fit(np.ones((0, 4)))
    km = SphericalKMeans(2).fit(points)
    before = km.centroids_
    with pytest.raises(NonFiniteError, match="`X`"):
        km.fit(np.full((3, 4), np.nan))
    with pytest.raises(ShapeError, match=r"`sample_weight` must have shape \(10,\); got \(9,\)"):
        km.fit(points, sample_weight=np.ones(9))
    with pytest.raises(RangeError, match="`sample_weight`"):
        km.fit(points, sample_weight=np.zeros(10))
    with pytest.raises(RangeError, match="`sample_weight`"):
        km.fit(points, sample_weight=-np.ones(10))
    with pytest.raises(NonFiniteError, match="`sample_weight`"):
        km.fit(points, sample_weight=np.full(10, np.inf))
    with pytest.raises(ShapeError, match="`X`"):
        km.predict(np.ones((2, 5)))
    assert km.centroids_ is before
