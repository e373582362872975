"""Cells: a search finds the same whether it reads codes of the centroids or not."""

import numpy as np
import pytest

from sona.learning.cells import Cells

DIM = 24


def directions(rng, n):
    x = rng.standard_normal((n, DIM)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def founded(units):
    cells = Cells(DIM)
    for unit in units:
        cells.count(cells.found(), unit, "a", 0.5, True)
    return cells


def nearest_by_hand(cells, query, k):
    products = cells.centroids.astype(np.float64) @ query
    return np.argsort(-products, kind="stable")[:k]


@pytest.mark.parametrize("n", [3, 511, 600])
def test_the_nearest_cells_are_the_nearest_whatever_changed_since_the_last_search(rng, n):
    cells = founded(directions(rng, n))
    for query in directions(rng, 40):
        k = min(5, n)
        found, similarities = cells.nearest(query, k)
        assert found.tolist() == nearest_by_hand(cells, query, k).tolist()
        assert similarities == pytest.approx(cells.centroids[found] @ query, abs=1e-6)
        # The nearest one is drawn away, another is counted in, and a third one is new.
        cells.add(int(found[0]), "b", 1.0, 30.0, 30.0 * directions(rng, 1)[0])
        cells.count(int(found[-1]), directions(rng, 1)[0], "a", 1.0, True)
        cells.count(cells.found(), directions(rng, 1)[0], "a", 1.0, True)
        np.matmul(cells.centroids, query, out=cells.similarities)
        cells.place(query, "a", 1.0, True, 0.5, False, False)


def test_merged_cells_are_found_where_they_are_then(rng):
    cells = founded(directions(rng, 700))
    query = directions(rng, 1)[0]
    cells.nearest(query, 3)
    cells.collapse(np.arange(700) // 2 * 2 % 600)
    found, _ = cells.nearest(query, 3)
    assert found.tolist() == nearest_by_hand(cells, query, 3).tolist()
