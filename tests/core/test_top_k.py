"""Exact search on every backend, against float64."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sona.errors import DTypeError, RangeError, ShapeError


def unit(x: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(x, axis=-1, keepdims=True)
    return (x / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


@pytest.fixture(params=["plain", "codes"])
def search(request: pytest.FixtureRequest, backend: ModuleType) -> Any:
    """top_k over all rows, with their codes and without."""

    def run(
        rows: np.ndarray, queries: np.ndarray, k: int, n_threads: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        codes = None
        if request.param == "codes":
            codes = backend.RowCodes(*rows.shape)
            backend.encode_rows(rows, codes, 0)
        answer = backend.top_k(rows, len(rows), queries, k, n_threads, codes)
        return answer[0], answer[1]

    return run


@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 3), (8, 8), (40, 10), (600, 10), (600, 600)])
def test_finds_the_best_in_order(
    search: Any, dim: int, n: int, k: int, rng: np.random.Generator
) -> None:
    rows = unit(rng.standard_normal((n, dim)))
    for m in (1, 2, 9):
        queries = unit(rng.standard_normal((m, dim)))
        indices, similarities = search(rows, queries, k)
        true = queries.astype(np.float64) @ rows.T.astype(np.float64)
        best = -np.sort(-true, axis=1)[:, :k]
        np.testing.assert_allclose(similarities, best, atol=1e-7)
        assert (np.diff(similarities, axis=1) <= 0).all()
        for q in range(m):
            assert len(set(indices[q])) == k
            np.testing.assert_allclose(true[q, indices[q]], best[q], atol=1e-12)
        one = search(rows, queries[0], k)
        np.testing.assert_array_equal(one[0], indices[0])
        np.testing.assert_array_equal(one[1], similarities[0])


def test_no_queries(search: Any) -> None:
    indices, similarities = search(np.eye(3, dtype=np.float32), np.ones((0, 3), np.float32), 2)
    assert indices.shape == similarities.shape == (0, 2)


def near_ties(rng: np.random.Generator, dim: int) -> np.ndarray:
    """Rows that differ in the last bits only."""
    row = unit(rng.standard_normal(dim))
    return np.nextafter(np.tile(row, (700, 1)), rng.choice([-1, 1], (700, dim)).astype(np.float32))


def outliers(rng: np.random.Generator, dim: int) -> np.ndarray:
    """One coordinate that dwarfs all others, so that 8 bits see nothing else."""
    rows = rng.standard_normal((700, dim))
    rows[:, 0] = 1000.0
    return unit(rows)


def tiny_and_zero(rng: np.random.Generator, dim: int) -> np.ndarray:
    rows = unit(rng.standard_normal((700, dim)))
    rows[::3] *= np.float32(1e-20)
    rows[1::3] = 0.0
    rows[2] = 1e-42
    return rows


@pytest.mark.parametrize("make", [near_ties, outliers, tiny_and_zero])
def test_adversarial_rows_are_decided_as_in_double(
    search: Any, make: Any, dim: int, rng: np.random.Generator
) -> None:
    rows = make(rng, dim)
    queries = np.vstack([rows[:3], unit(rng.standard_normal((3, dim)))])
    indices, _ = search(rows, queries, 10)
    for q in range(6):
        true = rows.astype(np.float64) @ queries[q].astype(np.float64)
        best = np.sort(true)[::-1][:10]
        np.testing.assert_allclose(true[indices[q]], best, rtol=0.0, atol=1e-15)


@pytest.mark.parametrize(("n", "k"), [(300, 60), (2500, 5)])
def test_ties_go_by_row(search: Any, dim: int, n: int, k: int, rng: np.random.Generator) -> None:
    kinds = unit(rng.standard_normal((6, dim)))
    which = rng.integers(0, 6, n)
    queries = unit(rng.standard_normal((5, dim)))
    indices, _ = search(kinds[which], queries, k)
    true = queries.astype(np.float64) @ kinds.T.astype(np.float64)
    for q in range(5):
        values = true[q].round(12)[which]
        expected = np.argsort(-values, kind="stable")[:k]
        np.testing.assert_array_equal(indices[q], expected)
        np.testing.assert_array_equal(search(kinds[which], queries[q], k)[0], expected)


def test_rows_beyond_n_are_not_seen(backend: ModuleType) -> None:
    rows = np.eye(8, dtype=np.float32)
    rows[4:] = np.nan
    query = np.full((1, 8), 0.25, dtype=np.float32)
    indices, _ = backend.top_k(rows, 4, query, 4)
    assert indices.tolist() == [[0, 1, 2, 3]]


def test_all_similarities_negative(search: Any) -> None:
    rows = -np.arange(1, 6, dtype=np.float32)[:, None] / 8
    indices, similarities = search(rows, np.ones((1, 1), dtype=np.float32), 3)
    assert indices.tolist() == [[0, 1, 2]]
    assert similarities.tolist() == [[-0.125, -0.25, -0.375]]


def test_threads_change_nothing(search: Any, rng: np.random.Generator) -> None:
    rows = unit(rng.standard_normal((1500, 65)))
    queries = unit(rng.standard_normal((33, 65)))
    for part in (queries, queries[:2], queries[0]):
        one = search(rows, part, 10)
        for n_threads in (2, 50):
            many = search(rows, part, 10, n_threads)
            np.testing.assert_array_equal(one[0], many[0])
            np.testing.assert_array_equal(one[1], many[1])


def test_codes_keep_their_promise(backend: ModuleType, dim: int, rng: np.random.Generator) -> None:
    rows = np.vstack([unit(rng.standard_normal((9, dim))), outliers(rng, dim)[:9]])
    rows = np.vstack([rows, np.zeros((1, dim)), tiny_and_zero(rng, dim)[:9]]).astype(np.float32)
    codes = backend.RowCodes(40, dim)
    backend.encode_rows(rows, codes, 5)
    own = slice(5, 5 + len(rows))
    rounded = codes.scales[own, None].astype(np.float64) * codes.codes[own]
    assert not rounded[:, dim:].any()
    lost = np.linalg.norm(rows - rounded[:, :dim], axis=1)
    assert (lost <= codes.errors[own]).all()
    assert (codes.errors[own] <= 0.5 * np.sqrt(dim) * codes.scales[own] + 2e-6).all()
    assert not codes.scales[:5].any()


def test_refusals(backend: ModuleType) -> None:
    rows = np.ones((5, 4), dtype=np.float32)
    query = np.ones((1, 4), dtype=np.float32)
    with pytest.raises(RangeError, match="`n` must be between 1 and 5; got 6"):
        backend.top_k(rows, 6, query, 2)
    with pytest.raises(RangeError, match="`k` must be between 1 and 1; got 2"):
        backend.top_k(rows, 1, query, 2)
    with pytest.raises(RangeError, match="`k`"):
        backend.top_k(rows, 5, query, 0)
    with pytest.raises(ShapeError, match="`queries`"):
        backend.top_k(rows, 5, query[:, :3].copy(), 2)
    with pytest.raises(DTypeError, match="`queries`"):
        backend.top_k(rows, 5, query.astype(np.float64), 2)
    with pytest.raises(ShapeError, match="C-contiguous"):
        backend.top_k(np.ones((5, 8), dtype=np.float32)[:, ::2], 5, query, 2)
    with pytest.raises(RangeError, match="`n_threads`"):
        backend.top_k(rows, 5, query, 2, 0)
    for room in [(6, 4), (5, 70)]:
        with pytest.raises(ShapeError, match="`codes`"):
            backend.top_k(rows, 5, query, 2, 1, backend.RowCodes(*room))
    with pytest.raises(RangeError, match="`start`"):
        backend.encode_rows(rows, backend.RowCodes(6, 4), 2)
    with pytest.raises(ShapeError, match="`codes`"):
        backend.encode_rows(rows, backend.RowCodes(6, 65), 0)
