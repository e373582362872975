"""Exact search on every backend, against float64."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from sona.errors import DTypeError, RangeError, ShapeError


def search(
    backend: ModuleType, rows: np.ndarray, queries: np.ndarray, k: int, n_threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    indices = np.full((len(queries), k), -1, dtype=np.int64)
    similarities = np.full((len(queries), k), np.nan, dtype=np.float32)
    backend.top_k(rows, len(rows), queries, indices, similarities, n_threads)
    return indices, similarities


@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 3), (8, 8), (40, 10), (600, 10), (600, 600)])
def test_finds_the_best_in_order(
    backend: ModuleType, dim: int, n: int, k: int, rng: np.random.Generator
) -> None:
    rows = rng.standard_normal((n, dim)).astype(np.float32)
    for m in (1, 2, 9):
        queries = rng.standard_normal((m, dim)).astype(np.float32)
        indices, similarities = search(backend, rows, queries, k)
        true = queries.astype(np.float64) @ rows.T.astype(np.float64)
        best = -np.sort(-true, axis=1)[:, :k]
        np.testing.assert_allclose(similarities, best, atol=2e-6 * dim)
        assert (np.diff(similarities, axis=1) <= 0).all()
        for q in range(m):
            assert len(set(indices[q])) == k
            np.testing.assert_allclose(true[q, indices[q]], best[q], atol=2e-6 * dim)


def test_ties_go_by_row(backend: ModuleType, dim: int, rng: np.random.Generator) -> None:
    rows = np.repeat(rng.integers(-2, 3, (6, dim)), 50, axis=0).astype(np.float32)
    rng.shuffle(rows)
    queries = rng.integers(-2, 3, (4, dim)).astype(np.float32)
    indices, _ = search(backend, rows, queries, 60)
    expected = np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :60]
    np.testing.assert_array_equal(indices, expected)


def test_equal_rows_tie_wherever_they_lie(backend: ModuleType, rng: np.random.Generator) -> None:
    if backend.__name__.endswith("reference"):
        pytest.skip("BLAS promises no order of summation")
    row = rng.standard_normal(97).astype(np.float32)
    rows = np.tile(row, (77, 1))
    indices, similarities = search(backend, rows, row[None], 77)
    np.testing.assert_array_equal(indices[0], np.arange(77))
    assert len(set(similarities[0])) == 1


def test_rows_beyond_n_are_not_seen(backend: ModuleType) -> None:
    rows = np.eye(8, dtype=np.float32)
    rows[4:] = np.nan
    indices = np.empty((1, 4), dtype=np.int64)
    similarities = np.empty((1, 4), dtype=np.float32)
    backend.top_k(rows, 4, np.full((1, 8), 0.5, dtype=np.float32), indices, similarities)
    assert indices.tolist() == [[0, 1, 2, 3]]


def test_all_similarities_negative(backend: ModuleType) -> None:
    rows = -np.arange(1, 6, dtype=np.float32)[:, None]
    indices, similarities = search(backend, rows, np.ones((1, 1), dtype=np.float32), 3)
    assert indices.tolist() == [[0, 1, 2]]
    assert similarities.tolist() == [[-1.0, -2.0, -3.0]]


def test_threads_change_nothing(backend: ModuleType, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((500, 65)).astype(np.float32)
    queries = rng.standard_normal((33, 65)).astype(np.float32)
    one = search(backend, rows, queries, 10)
    for n_threads in (2, 50):
        many = search(backend, rows, queries, 10, n_threads)
        np.testing.assert_array_equal(one[0], many[0])
        np.testing.assert_array_equal(one[1], many[1])


def test_refusals(backend: ModuleType) -> None:
    rows = np.ones((5, 4), dtype=np.float32)
    query = np.ones((1, 4), dtype=np.float32)
    indices = np.empty((1, 2), dtype=np.int64)
    similarities = np.empty((1, 2), dtype=np.float32)
    with pytest.raises(RangeError, match="`n` must be between 1 and 5; got 6"):
        backend.top_k(rows, 6, query, indices, similarities)
    with pytest.raises(RangeError, match="`k` must be between 1 and 1; got 2"):
        backend.top_k(rows, 1, query, indices, similarities)
    with pytest.raises(ShapeError, match="`queries`"):
        backend.top_k(rows, 5, query[:, :3].copy(), indices, similarities)
    with pytest.raises(ShapeError, match="`similarities`"):
        backend.top_k(rows, 5, query, indices, similarities[:, :1].copy())
    with pytest.raises(DTypeError, match="`indices`"):
        backend.top_k(rows, 5, query, indices.astype(np.int32), similarities)
    with pytest.raises(ShapeError, match="C-contiguous"):
        backend.top_k(np.ones((5, 8), dtype=np.float32)[:, ::2], 5, query, indices, similarities)
    with pytest.raises(RangeError, match="`n_threads`"):
        backend.top_k(rows, 5, query, indices, similarities, 0)
