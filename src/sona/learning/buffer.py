"""The bounded memory of single outcomes, searchable by similarity."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sona.errors import RangeError
from sona.learning.pattern_index import PatternIndex
from sona.types import FloatArray

__all__ = ["TrajectoryBuffer"]

_STAGE = 256


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
    Appending costs a copy of the row: rows wait in a small stage and enter the index together,
    at the next search at the latest. Memory grows by doubling up to `capacity` rows of 5 bytes
    per dimension. Not thread-safe.

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
        self._columns: dict[str, NDArray[Any]] = {
            "route": np.empty(0, np.int64),
            "quality": np.empty(0, np.float64),
            "weight": np.empty(0, np.float64),
            "length": np.empty(0, np.float64),
            "fitted": np.empty(0, np.float64),
            "order": np.empty(0, np.int64),
        }
        self._stage = np.empty((min(_STAGE, capacity), dim), np.float32)
        self._staged: list[tuple[int, float, float, float]] = []

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    @property
    def dropped(self) -> int:
        """Rows that newer ones have replaced."""
        return self.seen - len(self)

    @property
    def staged(self) -> int:
        """Rows that wait to enter the index."""
        return len(self._staged)

    @property
    def embeddings(self) -> FloatArray:
        """Unit rows, a read-only view of shape (len, dim); valid until the next append."""
        self.flush()
        return self._index.vectors

    def columns(self, name: str) -> NDArray[Any]:
        """Return one column, shape (len,): a view that may be written to.

        ``route`` is an int64 number, the others are float64; ``fitted`` is what
        the router's model said of the row (NaN until it has), ``order`` counts from the first
        row ever appended.
        """
        self.flush()
        return self._columns[name][: len(self)]

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
        self._stage[len(self._staged)] = embedding
        self._staged.append((route, quality, weight, length))
        self.seen += 1
        if len(self._staged) == len(self._stage):
            self.flush()

    def flush(self) -> NDArray[np.int64]:
        """Move what is staged into the index; returns the rows it took, oldest first."""
        n = len(self._staged)
        if n == 0:
            return np.empty(0, np.int64)
        order = np.arange(self.seen - n, self.seen)
        rows = order % self.capacity
        held = len(self._index)
        fresh = rows >= held
        if fresh.any():
            self._index.add(self._stage[:n][fresh])
            self._grow(len(self._index))
        if not fresh.all():
            self._index.replace(rows[~fresh], self._stage[:n][~fresh])
        route, quality, weight, length = zip(*self._staged, strict=True)
        columns = self._columns
        columns["route"][rows] = route
        columns["quality"][rows] = quality
        columns["weight"][rows] = weight
        columns["length"][rows] = length
        columns["fitted"][rows] = np.nan
        columns["order"][rows] = order
        self._staged.clear()
        return rows

    def nearest(self, queries: FloatArray, k: int) -> tuple[NDArray[np.int64], FloatArray]:
        """Return rows and cosine similarities of the `k` nearest, best first."""
        self.flush()
        return self._index.search(queries, k)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the content as arrays, for saving."""
        self.flush()
        held = {name: self.columns(name).copy() for name in self._columns}
        return {**held, "embeddings": self.embeddings.copy(), "seen": np.array([self.seen])}

    @classmethod
    def from_arrays(
        cls, dim: int, capacity: int, arrays: dict[str, NDArray[Any]]
    ) -> TrajectoryBuffer:
        """Make a buffer that holds what :meth:`arrays` returned."""
        buffer = cls(dim, capacity)
        rows = len(arrays["embeddings"])
        if rows:
            buffer._index.add(arrays["embeddings"])
            buffer._grow(rows)
            for name, column in buffer._columns.items():
                column[:rows] = arrays[name]
        buffer.seen = int(arrays["seen"][0])
        return buffer

    def _grow(self, rows: int) -> None:
        for name, column in self._columns.items():
            if rows > len(column):
                room = min(max(rows, 2 * len(column), _STAGE), self.capacity)
                self._columns[name] = np.concatenate(
                    [column, np.zeros(room - len(column), column.dtype)]
                )
