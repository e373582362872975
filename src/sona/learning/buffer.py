"""The bounded memory of single outcomes, searchable by similarity."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sona import _core
from sona.errors import RangeError
from sona.learning.pattern_index import PatternIndex
from sona.learning.stored import UNIT, require_stored, stored
from sona.types import FloatArray

__all__ = ["TrajectoryBuffer"]

_FIRST_ROOM = 256
# Rows of the two tables of columns.
_WHOLE = {"route": 0, "order": 1}
_REAL = {"quality": 0, "weight": 1, "length": 2, "fitted": 3}
# What each column is when it is saved. Qualities move when a route turns.
_SAVED = {
    "route": (np.int64, 0, 1e15),
    "order": (np.int64, 0, 1e15),
    "quality": (np.float64, -1e6, 1e6),
    "weight": (np.float64, 1e-6, 1e15),
    "length": (np.float64, 0.0, 1.001),
    "fitted": (np.float64, -1e6, 1e6),
}


class TrajectoryBuffer:
    """Remember the newest outcomes: where the query was, which route, how good it was.

    Parameters
    ----------
    dim : int
        Length of an embedding.
    capacity : int
        Rows that are kept, at least 1. A new row beyond it takes the place of the oldest one,
        and :attr:`dropped` counts it.

    Notes
    -----
    Appending costs a copy of the row and its 8-bit code; the next search sees it. Memory grows by
    doubling up to `capacity` rows of 5 bytes per dimension. Not thread-safe.

    Examples
    --------
    >>> buffer = TrajectoryBuffer(dim=2, capacity=2)
    >>> for angle in (0.0, 1.5, 3.0):
    ...     buffer.append(np.array([np.cos(angle), np.sin(angle)], np.float32), 0, 1.0)
    >>> len(buffer), buffer.dropped
    (2, 1)
    >>> rows, similarities = buffer.nearest(np.array([1, 0], np.float32), 1)
    >>> buffer.columns("order")[rows]
    array([1])
    """

    def __init__(self, dim: int, capacity: int) -> None:
        if capacity < 1:
            raise RangeError(f"`capacity` must be at least 1; got {capacity}")
        self.dim = dim
        self.capacity = capacity
        self.seen = 0
        self._index = PatternIndex(dim)
        #: The rows and their codes, as the kernels take them.
        self.store = self._index.store
        # The columns themselves, with room to grow, as the kernels take them.
        self.whole = np.zeros((len(_WHOLE), 0), np.int64)
        self.real = np.zeros((len(_REAL), 0))

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    @property
    def dropped(self) -> int:
        """Rows that newer ones have replaced."""
        return self.seen - len(self)

    @property
    def embeddings(self) -> FloatArray:
        """Unit rows, a read-only view of shape (len, dim); valid until the next append."""
        return self._index.vectors

    def columns(self, name: str) -> NDArray[Any]:
        """Return one column, shape (len,): a view that may be written to.

        ``route`` and ``order``, which counts from the first row ever appended, are int64, the
        others float64; ``fitted`` is what the router's model said of the row, NaN until it has.
        """
        table, row = (self.whole, _WHOLE) if name in _WHOLE else (self.real, _REAL)
        return table[row[name], : len(self)]

    def append(
        self,
        embedding: FloatArray,
        route: int,
        quality: float,
        weight: float = 1.0,
        length: float = 1.0,
    ) -> None:
        """Add one row.

        Parameters
        ----------
        embedding : ndarray of shape (dim,), float32
            Unit length or zero; copied.
        route : int
        quality : float
            Mean quality of what the row stands for.
        weight : float, default 1.0
            Number of outcomes that the row stands for.
        length : float, default 1.0
            Length of the mean of their unit embeddings.
        """
        row = self.seen % self.capacity
        if row == self.seen:  # not the place of an older row
            self._grow(row + 1)
            self.store = self._index.room_for(row)
        rows, codes = self.store
        _core.put_outcome(
            rows,
            codes,
            self.whole,
            self.real,
            row,
            embedding,
            route,
            self.seen,
            quality,
            weight,
            length,
        )
        self.seen += 1

    def nearest(self, queries: FloatArray, k: int) -> tuple[NDArray[np.int64], FloatArray]:
        """Return rows and cosine similarities of the `k` nearest, best first.

        Queries have unit length or are zero, shape (dim,) or (m, dim), float32.
        """
        n = len(self)
        if not n:
            return self._index.search(queries, k)
        rows, codes = self.store
        return _core.top_k(rows, n, queries, min(k, n), codes=codes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the content as arrays, for saving."""
        held = {name: self.columns(name).copy() for name in (*_WHOLE, *_REAL)}
        return {**held, "embeddings": self.embeddings.copy(), "seen": np.array([self.seen])}

    @classmethod
    def from_arrays(
        cls, dim: int, capacity: int, arrays: dict[str, NDArray[Any]]
    ) -> TrajectoryBuffer:
        """Make a buffer that holds what :meth:`arrays` returned.

        A full one keeps its capacity; otherwise `capacity` comes on top of more rows than that.

        Raises
        ------
        FormatError
            If they contradict each other or could not have been saved.
        """
        embeddings = stored(arrays, "embeddings", np.float32, (None, dim), *UNIT)
        rows = len(embeddings)
        seen = int(stored(arrays, "seen", np.int64, (1,), rows)[0])
        if seen > rows:  # older rows have given their places to newer ones
            require_stored(rows >= min(seen, capacity), f"{rows} rows of {seen}")
            capacity = rows
        elif rows > capacity:
            capacity += rows
        buffer = cls(dim, capacity)
        if rows:
            buffer._index.add(embeddings)
            buffer._grow(rows)
            buffer.store = buffer._index.store
        buffer.seen = seen
        for name, (dtype, low, high) in _SAVED.items():
            buffer.columns(name)[:] = stored(
                arrays, name, dtype, (rows,), low, high, nan=name == "fitted"
            )
        require_stored(not rows or int(buffer.columns("order").max()) < seen, "rows yet to come")
        return buffer

    def _grow(self, rows: int) -> None:
        if rows <= self.whole.shape[1]:
            return
        room = min(max(rows, 2 * self.whole.shape[1], _FIRST_ROOM), self.capacity)
        more = ((0, 0), (0, room - self.whole.shape[1]))
        self.whole, self.real = np.pad(self.whole, more), np.pad(self.real, more)
