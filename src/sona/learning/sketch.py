"""What many outcomes amount to, in a few kilobytes: local cells with counts, no single query.

The queries of an agent are clustered; what leaves is the centre of each cell, four bits a
component, and how often each route was tried there and how well it did. A cell never stands for
fewer than three outcomes where there are three, so no query can be read back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona.errors import RangeError, ShapeError
from sona.learning.kmeans import SphericalKMeans
from sona.types import FloatArray

__all__ = ["Sketch", "sketch"]

_AT_LEAST = 3
_LEVELS = 7


class Sketch(NamedTuple):
    """Cells of outcomes.

    Attributes
    ----------
    routes : tuple of str
        Names of the columns below.
    dim : int
        Length of an embedding.
    codes : ndarray of shape (n_cells, ceil(dim / 2)), uint8
        Directions of the centres, two components a byte.
    lengths : ndarray of shape (n_cells,), float16
        Lengths of the mean unit vectors, in [0, 1]: 1 where all queries of a cell are alike.
    counts : ndarray of shape (n_cells, n_routes), uint32
        Outcomes per cell and route.
    means : ndarray of shape (n_cells, n_routes), float16
        Their mean quality; 0 where there are none.
    """

    routes: tuple[str, ...]
    dim: int
    codes: NDArray[np.uint8]
    lengths: NDArray[np.float16]
    counts: NDArray[np.uint32]
    means: NDArray[np.float16]

    @property
    def nbytes(self) -> int:
        """Size of the arrays and names."""
        names = sum(len(name.encode()) for name in self.routes)
        arrays = (self.codes, self.lengths, self.counts, self.means)
        return sum(array.nbytes for array in arrays) + names

    def centres(self) -> FloatArray:
        """Return the centres as unit rows of shape (n_cells, dim)."""
        nibbles = np.stack([self.codes & 15, self.codes >> 4], axis=2)
        signed = nibbles.reshape(len(self.codes), -1)[:, : self.dim].astype(np.float32)
        signed -= _LEVELS
        norms = np.linalg.norm(signed, axis=1, keepdims=True)
        return np.asarray(signed / np.maximum(norms, 1e-12), np.float32)

    def outcomes(self) -> list[tuple[int, str, float, float]]:
        """Return (cell, route, mean quality, count) wherever a route was tried."""
        cells, columns = np.nonzero(self.counts)
        return [
            (int(c), self.routes[r], float(self.means[c, r]), float(self.counts[c, r]))
            for c, r in zip(cells.tolist(), columns.tolist(), strict=True)
        ]


def sketch(
    units: FloatArray,
    routes: Sequence[str],
    quality: NDArray[Any],
    max_bytes: int = 8_000,
    seed: int = 0,
) -> Sketch:
    """Summarise outcomes in at most `max_bytes`.

    Parameters
    ----------
    units : ndarray of shape (n, dim), float32
        Unit length or zero; at least one row.
    routes : sequence of str, length n
    quality : ndarray of shape (n,)
        In [0, 1].
    max_bytes : int, default 8000
        Bound on :attr:`Sketch.nbytes`.
    seed : int, default 0
        Seed of the clustering.

    Raises
    ------
    ShapeError
        If the lengths differ or there is no row.
    RangeError
        If not even one cell fits.
    """
    n, dim = units.shape
    if n == 0 or len(routes) != n or len(quality) != n:
        raise ShapeError(
            f"`units`, `routes` and `quality` must have the same number of rows, at least 1;"
            f" got {n}, {len(routes)} and {len(quality)}"
        )
    names = tuple(dict.fromkeys(routes))
    per_cell = (dim + 1) // 2 + 2 + 6 * len(names)
    room = (max_bytes - sum(len(name.encode()) for name in names)) // per_cell
    if room < 1:
        raise RangeError(f"`max_bytes` must hold one cell of {per_cell} bytes; got {max_bytes}")
    labels = _cells(units, min(room, max(1, n // _AT_LEAST)), seed)
    column = {name: number for number, name in enumerate(names)}
    numbers = np.array([column[name] for name in routes])
    m = int(labels.max()) + 1
    flat = labels * len(names) + numbers
    counts = np.bincount(flat, minlength=m * len(names)).reshape(m, -1)
    totals = np.bincount(flat, np.asarray(quality, np.float64), m * len(names)).reshape(m, -1)
    sums = np.zeros((m, dim))
    np.add.at(sums, labels, units)
    return Sketch(
        names,
        dim,
        _encode(sums),
        (np.linalg.norm(sums, axis=1) / counts.sum(axis=1)).astype(np.float16),
        counts.astype(np.uint32),
        (totals / np.maximum(counts, 1)).astype(np.float16),
    )


def _cells(units: FloatArray, n_cells: int, seed: int) -> NDArray[np.int64]:
    """Cluster, then dissolve cells that are too small into their neighbours."""
    km = SphericalKMeans(n_cells, seed=seed, max_iter=20).fit(units)
    labels = km.labels_.astype(np.int64)
    sizes = np.bincount(labels, minlength=len(km.centroids_))
    keep = np.flatnonzero(sizes >= min(_AT_LEAST, sizes.max()))
    strays = np.flatnonzero(~np.isin(labels, keep))
    if len(strays):
        labels[strays] = keep[(units[strays] @ km.centroids_[keep].T).argmax(axis=1)]
    return np.searchsorted(keep, labels)


def _encode(sums: NDArray[np.float64]) -> NDArray[np.uint8]:
    largest = np.abs(sums).max(axis=1, keepdims=True)
    levels = np.rint(sums / np.maximum(largest, 1e-300) * _LEVELS).astype(np.int64) + _LEVELS
    if levels.shape[1] % 2:
        levels = np.concatenate([levels, np.full((len(levels), 1), _LEVELS)], axis=1)
    return np.asarray(levels[:, ::2] | (levels[:, 1::2] << 4), np.uint8)
