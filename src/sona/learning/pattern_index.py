"""An exact cosine index over a changing set of vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sona import _core
from sona._core import FloatArray
from sona.checks import check_count
from sona.errors import DTypeError, RangeError, ShapeError

__all__ = ["PatternIndex"]

_FIRST_CAPACITY = 64
# Largest change of a component by normalising a vector that is of unit length already.
_ROUNDING = 2e-7


class PatternIndex:
    """Find the stored vectors that are most similar to a query, exactly.

    Parameters
    ----------
    dim : int
        Length of a vector, at least 1.

    Notes
    -----
    Vectors are normalised as they come in, so inner products are cosine similarities; a zero
    vector is allowed and has similarity 0 to everything. The store is the index's own memory and
    grows by doubling: adding costs O(dim) per vector on average, removing O(dim) per vector.
    Beside each vector lies a copy of a quarter of its size, rounded to 8 bits, that rules most
    vectors out; what it cannot rule out is decided on the vectors themselves, in double.
    Searches may run concurrently with each other, not with `add`, `replace` or `remove`.

    Examples
    --------
    >>> from sona.learning import PatternIndex
    >>> index = PatternIndex(dim=2)
    >>> index.add([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    array([0, 1, 2])
    >>> ids, similarities = index.search([1.0, 0.0], k=2)
    >>> ids, similarities.round(3)
    (array([0, 2]), array([1.   , 0.707], dtype=float32))
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim = check_count("dim", dim)
        self._n = 0
        self._rows = _core.aligned_zeros((_FIRST_CAPACITY, dim))
        self._codes = _core.RowCodes(_FIRST_CAPACITY, dim)
        self._ids = np.empty(_FIRST_CAPACITY, dtype=np.int64)
        # Row of each id that was ever given out, -1 once it is removed.
        self._row_of = np.empty(_FIRST_CAPACITY, dtype=np.int64)
        self._next_id = 0
        self._in_order = True

    def __len__(self) -> int:
        return self._n

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Ids of the stored vectors, as a copy of shape (len,), in the order of `vectors`."""
        return self._ids[: self._n].copy()

    @property
    def vectors(self) -> FloatArray:
        """The stored unit vectors, a read-only view of shape (len, dim).

        Valid until the next change of the index.
        """
        view = self._rows[: self._n]
        view.flags.writeable = False
        return view

    def add(self, vectors: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Store one vector or a batch.

        Parameters
        ----------
        vectors : array_like of shape (dim,) or (n, dim)

        Returns
        -------
        ndarray of int64, shape (n,)
            The new ids; an id is never used twice and stays valid until it is removed.

        Raises
        ------
        ShapeError, DTypeError, NonFiniteError
            Nothing was stored.
        """
        new = self._to_store(vectors)
        start, end = self._n, self._n + len(new)
        ids = np.arange(self._next_id, self._next_id + len(new), dtype=np.int64)
        self._reserve(end, self._next_id + len(new))
        self._rows[start:end] = new
        _core.encode_rows(new, self._codes, start)
        self._ids[start:end] = ids
        self._row_of[ids] = np.arange(start, end)
        self._n = end
        self._next_id += len(new)
        return ids

    def replace(self, ids: npt.ArrayLike, vectors: npt.ArrayLike) -> None:
        """Give stored ids new vectors.

        Parameters
        ----------
        ids : array_like of int, shape (n,) or ()
            Stored, and each at most once.
        vectors : array_like of shape (n, dim), or (dim,) for one id

        Raises
        ------
        RangeError, ShapeError, DTypeError, NonFiniteError
            Nothing was replaced.
        """
        rows = self._find(ids)
        new = self._to_store(vectors)
        if len(new) != len(rows):
            raise ShapeError(f"`vectors` must have {len(rows)} rows; got {len(new)}")
        self._rows[rows] = new
        for row, vector in zip(rows.tolist(), new, strict=True):
            _core.encode_rows(vector[None], self._codes, row)

    def remove(self, ids: npt.ArrayLike) -> None:
        """Forget stored vectors; all other ids keep their meaning.

        Parameters
        ----------
        ids : array_like of int, shape (n,) or ()
            Stored, and each at most once.

        Raises
        ------
        RangeError, DTypeError, ShapeError
            Nothing was removed.
        """
        holes = self._find(ids)
        found = len(holes) > 0
        self._row_of[self._ids[holes]] = -1
        # Survivors from the end move into the holes before it.
        end = self._n - len(holes)
        tail = np.setdiff1d(np.arange(end, self._n), holes)
        holes = holes[holes < end]
        self._rows[holes] = self._rows[tail]
        self._codes.move(tail, holes)
        self._ids[holes] = self._ids[tail]
        self._row_of[self._ids[holes]] = holes
        self._n = end
        # From here on, rows and ids are no longer the same numbers.
        self._in_order = self._in_order and not found

    def search(
        self, query: npt.ArrayLike, k: int = 10, n_threads: int = 1
    ) -> tuple[npt.NDArray[np.int64], FloatArray]:
        """Find the `k` most similar stored vectors of each query.

        Parameters
        ----------
        query : array_like of shape (dim,) or (n, dim)
        k : int, default 10
            At least 1. Where fewer are stored, all of them come back.
        n_threads : int, default 1
            Threads that share a batch of queries.

        Returns
        -------
        ids : ndarray of int64, shape (min(k, len),) or (n, min(k, len))
            Best first. Equal similarities come in the order of storing, as long as nothing was
            removed.
        similarities : ndarray of float32, same shape
            Cosine similarities, descending.

        Raises
        ------
        ShapeError, DTypeError, NonFiniteError, RangeError
        """
        k, n_threads = check_count("k", k), check_count("n_threads", n_threads)
        queries = self._unit(query, "query")
        if self._n == 0:
            shape = (*queries.shape[:-1], 0)
            return np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32)
        rows, similarities = _core.top_k(
            self._rows, self._n, queries, min(k, self._n), n_threads, self._codes
        )
        return (rows if self._in_order else self._ids[rows]), similarities

    @property
    def store(self) -> tuple[FloatArray, _core.RowCodes]:
        """The rows and their codes, for :func:`sona._core.put_outcome` to write to.

        For who keeps the index in order (nothing is ever removed), writes vectors of unit length
        or zero, and asks again after :meth:`room_for`.
        """
        return self._rows, self._codes

    def room_for(self, row: int) -> tuple[FloatArray, _core.RowCodes]:
        """Make the next row one that is stored, and return the :attr:`store` to write it to."""
        self._reserve(row + 1, row + 1)
        self._ids[row] = self._row_of[row] = row
        self._n = self._next_id = row + 1
        return self.store

    def _reserve(self, size: int, n_ids: int) -> None:
        """Make room by doubling, so that growing costs a constant per vector on average."""
        if size > len(self._ids):
            capacity = max(size, 2 * len(self._ids))
            rows = _core.aligned_zeros((capacity, self._dim))
            rows[: self._n] = self._rows[: self._n]
            self._rows = rows
            codes = _core.RowCodes(capacity, self._dim)
            codes.copy_from(self._codes, self._n)
            self._codes = codes
            self._ids = np.resize(self._ids, capacity)
        if n_ids > len(self._row_of):
            self._row_of = np.resize(self._row_of, max(n_ids, 2 * len(self._row_of)))

    def _to_store(self, vectors: npt.ArrayLike) -> FloatArray:
        """Unit rows, taking over bit for bit what is of unit length already.

        Normalising twice would round twice: an index filled from a saved one must equal it.
        """
        unit = np.atleast_2d(self._unit(vectors, "vectors"))
        given = np.atleast_2d(np.asarray(vectors))
        settled = (np.abs(unit - given) <= _ROUNDING).all(axis=1)
        if settled.any():
            unit = np.where(settled[:, None], given, unit).astype(np.float32)
        return unit

    def _unit(self, x: npt.ArrayLike, name: str) -> FloatArray:
        if _core.dimensions(x, name) == 1:
            return _core.as_unit(x, self._dim, name)
        return _core.unit_rows(_core.as_matrix(x, self._dim, name))

    def _find(self, ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
        try:
            wanted = np.atleast_1d(np.asarray(ids))
        except ValueError as error:
            raise ShapeError(f"`ids` must have shape (n,): {error}") from None
        if wanted.size == 0:
            return np.empty(0, dtype=np.int64)
        if wanted.dtype.kind not in "iu":
            raise DTypeError(f"`ids` must be integers; got {wanted.dtype}")
        if wanted.ndim != 1:
            raise ShapeError(f"`ids` must have shape (n,); got {wanted.shape}")
        inside = (wanted >= 0) & (wanted < self._next_id)
        known = inside & (self._row_of[np.where(inside, wanted, 0)] >= 0)
        if not known.all():
            raise RangeError(f"`ids` must be stored; got {wanted[~known][0]}, which is not")
        if len(np.unique(wanted)) != len(wanted):
            raise RangeError("`ids` must name each vector once; got one twice")
        rows: npt.NDArray[np.int64] = self._row_of[wanted]
        return rows
