"""Assignment and accumulation on every backend, against float64."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from sona.errors import DTypeError, RangeError, ShapeError


@pytest.mark.parametrize("k", [1, 2, 3, 5, 16, 17, 100, 300])
def test_assign_finds_the_best(
    backend: ModuleType, dim: int, k: int, rng: np.random.Generator
) -> None:
    for n in (0, 1, 5, 6, 7, 50):
        points = rng.standard_normal((n, dim)).astype(np.float32)
        centroids = rng.standard_normal((k, dim)).astype(np.float32)
        labels = np.full(n, -1, dtype=np.int32)
        similarities = np.empty(n, dtype=np.float32)
        backend.assign(points, centroids, labels, similarities)
        products = points.astype(np.float64) @ centroids.T.astype(np.float64)
        if n:
            tolerance = 2e-6 * dim
            np.testing.assert_allclose(similarities, products.max(axis=1), atol=tolerance)
            chosen = products[np.arange(n), labels]
            np.testing.assert_allclose(chosen, products.max(axis=1), atol=tolerance)


def test_equal_centroids_go_to_the_first(
    backend: ModuleType, dim: int, rng: np.random.Generator
) -> None:
    centroids = np.repeat(rng.integers(-3, 4, (5, dim)), 9, axis=0).astype(np.float32)
    points = rng.integers(-3, 4, (40, dim)).astype(np.float32)
    labels = np.empty(40, dtype=np.int32)
    backend.assign(points, centroids, labels, np.empty(40, dtype=np.float32))
    np.testing.assert_array_equal(labels, (points @ centroids.T).argmax(axis=1))


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("kind", ["random", "clustered", "outliers", "zeros", "near ties"])
@pytest.mark.parametrize("k", [1, 5, 17, 200])
def test_codes_find_the_same(
    backend: ModuleType, dim: int, k: int, kind: str, rng: np.random.Generator
) -> None:
    centroids = unit(rng.standard_normal((k, dim)))
    points = unit(rng.standard_normal((300, dim)))
    if kind == "clustered":
        points = unit(centroids[rng.integers(0, k, 300)] + 0.01 * points)
    elif kind == "outliers":
        points[:, 0] = 50.0
        points = unit(points)
    elif kind == "zeros":
        points[::2] = 0.0
        points[1] = 1e-42
    elif kind == "near ties":
        centroids = np.nextafter(np.tile(centroids[0], (k, 1)), np.float32(2.0) * centroids)
    codes = backend.RowCodes(300, dim)
    backend.encode_rows(points, codes, 0)
    labels = np.empty(300, dtype=np.int32)
    similarities = np.empty(300, dtype=np.float32)
    backend.assign(points, centroids, labels, similarities, 1, codes)
    products = points.astype(np.float64) @ centroids.T.astype(np.float64)
    best = products.max(axis=1)
    np.testing.assert_allclose(similarities, best, atol=1e-6)
    np.testing.assert_allclose(products[np.arange(300), labels], best, atol=1e-6)
    assert (labels[~points.any(axis=1)] == 0).all()
    only_labels = np.empty(300, dtype=np.int32)
    backend.assign(points, centroids, only_labels, None, 2, codes)
    np.testing.assert_array_equal(only_labels, labels)


def test_zero_and_tiny_points(backend: ModuleType, dim: int) -> None:
    points = np.zeros((3, dim), dtype=np.float32)
    points[1] = 1e-42
    labels = np.empty(3, dtype=np.int32)
    similarities = np.empty(3, dtype=np.float32)
    centroids = np.stack([np.ones(dim), -np.ones(dim)]).astype(np.float32)
    backend.assign(points, centroids, labels, similarities)
    assert labels.tolist() == [0, 0, 0]
    assert similarities[0] == 0.0


def test_threads_change_nothing(backend: ModuleType, rng: np.random.Generator) -> None:
    points = rng.standard_normal((1001, 33)).astype(np.float32)
    centroids = rng.standard_normal((20, 33)).astype(np.float32)
    answers = []
    for n_threads in (1, 2, 5, 64):
        labels = np.empty(1001, dtype=np.int32)
        similarities = np.empty(1001, dtype=np.float32)
        backend.assign(points, centroids, labels, similarities, n_threads=n_threads)
        answers.append((labels, similarities))
    for labels, similarities in answers[1:]:
        np.testing.assert_array_equal(labels, answers[0][0])
        np.testing.assert_array_equal(similarities, answers[0][1])


def test_accumulate_adds_in_double(backend: ModuleType, dim: int, rng: np.random.Generator) -> None:
    points = rng.standard_normal((200, dim)).astype(np.float32)
    labels = rng.integers(0, 7, 200).astype(np.int32)
    for weights in (None, rng.uniform(0.0, 3.0, 200)):
        sums, counts = np.ones((7, dim)), np.ones(7)
        backend.accumulate(points, labels, weights, sums, counts)
        for cluster in range(7):
            own = labels == cluster
            w = np.ones(200) if weights is None else weights
            np.testing.assert_allclose(
                sums[cluster] - 1.0, w[own] @ points[own].astype(np.float64), rtol=1e-12, atol=1e-12
            )
            assert counts[cluster] - 1.0 == pytest.approx(w[own].sum())


def test_accumulate_moves_what_changed(
    backend: ModuleType, dim: int, rng: np.random.Generator
) -> None:
    points = rng.standard_normal((200, dim)).astype(np.float32)
    weights = rng.uniform(0.0, 3.0, 200)
    before = rng.integers(-1, 7, 200).astype(np.int32)
    labels = np.where(rng.random(200) < 0.5, before, rng.integers(0, 7, 200)).astype(np.int32)
    labels = np.maximum(labels, 0).astype(np.int32)
    sums, counts = np.zeros((7, dim)), np.zeros(7)
    held = before >= 0
    backend.accumulate(points[held], before[held], weights[held], sums, counts)
    backend.accumulate(points, labels, weights, sums, counts, before)
    fresh_sums, fresh_counts = np.zeros((7, dim)), np.zeros(7)
    backend.accumulate(points, labels, weights, fresh_sums, fresh_counts)
    np.testing.assert_allclose(sums, fresh_sums, atol=1e-12)
    np.testing.assert_allclose(counts, fresh_counts, atol=1e-12)
    wrong = before.copy()
    wrong[1] = 9
    with pytest.raises(RangeError, match=r"`before` must be in \[-1, 7\); got 9 at \[1\]"):
        backend.accumulate(points, labels, weights, sums, counts, wrong)


def test_squared_distances_of_unit_rows(
    backend: ModuleType, dim: int, rng: np.random.Generator
) -> None:
    points = unit(rng.standard_normal((100, dim)))
    for m in (1, 16, 19):
        seeds = points[:m].copy()
        squares = np.square(seeds[:, None, :].astype(np.float64) - points).sum(axis=2)
        answer = backend.squared_distances(points, seeds)
        assert answer.shape == (m, 100)
        np.testing.assert_allclose(answer, squares, atol=6e-6)
        assert (answer[np.arange(m), np.arange(m)] == 0.0).all()
    assert backend.squared_distances(points[:0], points[:3]).shape == (3, 0)


def test_a_bad_label_adds_nothing(backend: ModuleType) -> None:
    points = np.ones((3, 4), dtype=np.float32)
    for bad in (-1, 2):
        sums, counts = np.zeros((2, 4)), np.zeros(2)
        labels = np.array([0, 1, bad], dtype=np.int32)
        with pytest.raises(RangeError, match=rf"`labels` must be in \[0, 2\); got {bad} at \[2\]"):
            backend.accumulate(points, labels, None, sums, counts)
        assert not sums.any()
        assert not counts.any()


def test_refusals(backend: ModuleType) -> None:
    points = np.ones((3, 4), dtype=np.float32)
    centroids = np.ones((2, 4), dtype=np.float32)
    labels = np.empty(3, dtype=np.int32)
    similarities = np.empty(3, dtype=np.float32)
    with pytest.raises(DTypeError, match="`points` must be an array of float32; got float64"):
        backend.assign(points.astype(np.float64), centroids, labels, similarities)
    with pytest.raises(ShapeError, match="`centroids`"):
        backend.assign(points, centroids[:, :3].copy(), labels, similarities)
    with pytest.raises(ShapeError, match="`labels`"):
        backend.assign(points, centroids, labels[:2], similarities)
    with pytest.raises(RangeError, match="`n_clusters`"):
        backend.assign(points, centroids[:0], labels, similarities)
    with pytest.raises(ShapeError, match="`codes`"):
        backend.assign(points, centroids, labels, similarities, 1, backend.RowCodes(2, 4))
    with pytest.raises(RangeError, match="`n_threads`"):
        backend.assign(points, centroids, labels, similarities, 0)
    with pytest.raises(ShapeError, match="`weights`"):
        backend.accumulate(
            points, np.zeros(3, dtype=np.int32), np.ones(2), np.zeros((2, 4)), np.zeros(2)
        )


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_only_what_moved_need_be_looked_at(
    backend: ModuleType, dim: int, share: float, rng: np.random.Generator
) -> None:
    points = unit(rng.standard_normal((1700, dim)))
    centroids = unit(rng.standard_normal((100, dim)))
    codes = backend.RowCodes(1700, dim)
    backend.encode_rows(points, codes, 0)
    labels = np.empty(1700, dtype=np.int32)
    backend.assign(points, centroids, labels, None, 1, codes)
    moved = rng.random(100) < share
    centroids[moved] = unit(rng.standard_normal((100, dim)))[moved]
    similarities = np.empty(1700, dtype=np.float32)
    backend.assign(points, centroids, labels, similarities, 1, codes, moved)
    products = points.astype(np.float64) @ centroids.T.astype(np.float64)
    np.testing.assert_allclose(similarities, products.max(axis=1), atol=1e-6)
    chosen = products[np.arange(1700), labels]
    np.testing.assert_allclose(chosen, products.max(axis=1), atol=1e-6)
    labels[3] = 100
    with pytest.raises(RangeError, match="`labels`"):
        backend.assign(points, centroids, labels, similarities, 1, codes, moved)
