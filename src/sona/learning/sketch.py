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

from sona.checks import check_text
from sona.errors import FormatError, RangeError, ShapeError
from sona.learning.kmeans import SphericalKMeans
from sona.types import FloatArray

__all__ = ["Sketch", "encode", "sketch"]

_AT_LEAST = 3
_LEVELS = 7


class Sketch(NamedTuple):
    """Cells of outcomes.

    Attributes
    ----------
    routes : tuple of str or None
        Names of the columns below; None for requests without a route.
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

    routes: tuple[str | None, ...]
    dim: int
    codes: NDArray[np.uint8]
    lengths: NDArray[np.float16]
    counts: NDArray[np.uint32]
    means: NDArray[np.float16]

    @property
    def rows(self) -> int:
        """Outcomes that it stands for."""
        return int(self.counts.sum())

    @property
    def nbytes(self) -> int:
        """Size of the arrays and names."""
        names = sum(len(name.encode()) for name in self.routes if name is not None)
        arrays = (self.codes, self.lengths, self.counts, self.means)
        return sum(array.nbytes for array in arrays) + names

    def centres(self) -> FloatArray:
        """Return the centres as unit rows of shape (n_cells, dim)."""
        nibbles = np.stack([self.codes & 15, self.codes >> 4], axis=2)
        signed = nibbles.reshape(len(self.codes), -1)[:, : self.dim].astype(np.float32)
        signed -= _LEVELS
        norms = np.linalg.norm(signed, axis=1, keepdims=True)
        return np.asarray(signed / np.maximum(norms, 1e-12), np.float32)

    def outcomes(self) -> list[tuple[int, str | None, float, float]]:
        """Return (cell, route, mean quality, count) wherever a route was tried."""
        cells, columns = np.nonzero(self.counts)
        return [
            (int(c), self.routes[r], float(self.means[c, r]), float(self.counts[c, r]))
            for c, r in zip(cells.tolist(), columns.tolist(), strict=True)
        ]

    def columns(self) -> tuple[list[str], dict[str, NDArray[Any]]]:
        """Return texts and tensors for a message; :meth:`from_arrays` reads them."""
        texts = [name for name in self.routes if name is not None]
        unnamed = self.routes.index(None) if None in self.routes else -1
        return texts, {
            "shape": np.array([self.dim, unnamed], np.int32),
            "codes": self.codes,
            "lengths": self.lengths,
            "counts": self.counts,
            "means": self.means,
        }

    @classmethod
    def from_arrays(cls, texts: Sequence[str], tensors: dict[str, NDArray[Any]]) -> Sketch:
        """Read what :meth:`columns` returned.

        Raises
        ------
        FormatError
            If a tensor is missing or does not fit the others. Values are not judged here.
        """
        wanted = {"shape": (1, "i4"), "codes": (2, "u1"), "lengths": (1, "f2")}
        wanted |= {"counts": (2, "u4"), "means": (2, "f2")}
        for name, (ndim, kind) in wanted.items():
            array = tensors.get(name)
            if array is None or array.ndim != ndim or array.dtype != np.dtype(kind):
                got = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
                raise FormatError(f"`data`: tensor {name!r} must be {kind}, {ndim}-d; got {got}")
        names: list[str | None] = [check_text("texts", text, FormatError) for text in texts]
        if len(set(names)) != len(names) or tensors["shape"].shape != (2,):
            raise FormatError("`data`: route names must differ and 'shape' hold two numbers")
        dim, unnamed = tensors["shape"].tolist()
        if not -1 <= unnamed <= len(names):
            raise FormatError(f"`data`: 'shape' names column {unnamed} of {len(names)}")
        if unnamed >= 0:
            names.insert(unnamed, None)
        cells = len(tensors["lengths"])
        for name, shape in (
            ("codes", (cells, (dim + 1) // 2)),
            ("counts", (cells, len(names))),
            ("means", (cells, len(names))),
        ):
            if dim < 1 or tensors[name].shape != shape:
                raise FormatError(
                    f"`data`: {name!r} must have shape {shape}; got {tensors[name].shape}"
                )
        return cls(
            tuple(names),
            dim,
            *(tensors[name] for name in ("codes", "lengths", "counts", "means")),
        )


def sketch(
    units: FloatArray,
    routes: Sequence[str | None],
    quality: NDArray[Any],
    max_bytes: int = 8_000,
    seed: int = 0,
) -> Sketch:
    """Summarise outcomes in at most `max_bytes`.

    Parameters
    ----------
    units : ndarray of shape (n, dim), float32
        Unit length or zero; at least one row.
    routes : sequence of str or None, length n
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
    spelled = sum(len(name.encode()) for name in names if name is not None)
    room = (max_bytes - spelled) // per_cell
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
        encode(sums),
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


def encode(sums: NDArray[Any]) -> NDArray[np.uint8]:
    """Write the directions of rows in four bits a component, as :attr:`Sketch.codes` has them."""
    largest = np.abs(sums).max(axis=1, keepdims=True)
    levels = np.rint(sums / np.maximum(largest, 1e-300) * _LEVELS).astype(np.int64) + _LEVELS
    if levels.shape[1] % 2:
        levels = np.concatenate([levels, np.full((len(levels), 1), _LEVELS)], axis=1)
    return np.asarray(levels[:, ::2] | (levels[:, 1::2] << 4), np.uint8)
