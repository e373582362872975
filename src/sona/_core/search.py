"""The NumPy meaning of a search: rows that are stored with their codes, and the nearest of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sona._core import contracts
from sona._core.arrays import FloatArray
from sona._core.codes import RowCodes


def encode_rows(rows: FloatArray, codes: RowCodes, start: int) -> None:
    """Round rows to 8 bits each and note how far off that is.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, dim)
        Of length at most 1.
    codes : RowCodes
        Receives the codes of the rows from `start` on.
    start : int
        0 <= start and start + n <= capacity.

    Raises
    ------
    ShapeError, DTypeError, RangeError
        Nothing was written.
    """
    contracts.check_encode_rows(rows, codes, start)
    own = slice(start, start + len(rows))
    scales = np.abs(rows).max(axis=1, initial=0.0) / np.float32(127)
    scales[scales <= 1e-30] = 0.0
    inverse = np.divide(1.0, scales, where=scales > 0.0, out=np.zeros_like(scales))
    rounded = np.rint(rows * inverse[:, None]).clip(-127, 127)
    lost = rows.astype(np.float64) - scales[:, None].astype(np.float64) * rounded
    codes.codes[own] = 0
    codes.codes[own, : rows.shape[1]] = rounded.astype(np.int8)
    codes.scales[own] = scales
    codes.errors[own] = np.sqrt(np.square(lost).sum(axis=1)) * 1.0001 + 1e-6


def put_outcome(
    rows: FloatArray,
    codes: RowCodes,
    whole: npt.NDArray[np.int64],
    real: npt.NDArray[np.float64],
    row: int,
    unit: FloatArray,
    route: int,
    order: int,
    quality: float,
    weight: float,
    length: float,
) -> None:
    """Write one remembered outcome: its vector, the code of it, and its columns.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, dim)
    codes : RowCodes
        With room for n rows.
    whole : ndarray of int64, shape (2, m)
        Receives `route` and `order`.
    real : ndarray of float64, shape (4, m)
        Receives `quality`, `weight`, `length` and NaN.
    row : int
        Below n and m.
    unit : ndarray of float32, shape (dim,)
        Of length at most 1.
    """
    contracts.check_put_outcome(rows, codes, whole, real, row, unit)
    rows[row] = unit
    encode_rows(unit[None], codes, row)
    whole[:, row] = (route, order)
    real[:, row] = (quality, weight, length, np.nan)


def top_k(
    rows: FloatArray,
    n: int,
    queries: FloatArray,
    k: int,
    n_threads: int = 1,
    codes: RowCodes | None = None,
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Find for each query the k rows of largest inner product, best first, exactly.

    The order is that of double arithmetic on the float32 values; rows that are equal in it come
    by row number.

    Parameters
    ----------
    rows : ndarray of float32, shape (capacity, dim)
        Of length at most 1. Rows from `n` on are not looked at.
    n : int
        Rows in use, 1 <= n <= capacity.
    queries : ndarray of float32, shape (dim,) or (m, dim)
        Of length at most 1.
    k : int
        1 <= k <= n.
    n_threads : int, default 1
        At least 1; they share the queries, or the rows where queries are few.
    codes : RowCodes, optional
        Codes of the rows. They change the cost, never the answer.

    Returns
    -------
    indices : ndarray of int64, shape (k,) or (m, k)
    similarities : ndarray of float32, same shape
        Descending.

    Raises
    ------
    ShapeError, DTypeError, RangeError
    """
    contracts.check_top_k(rows, n, queries, k, n_threads, codes)
    indices = np.empty((*queries.shape[:-1], k), dtype=np.int64)
    similarities = np.empty(indices.shape, dtype=np.float32)
    # Twice the bound of the rounding of a float32 product of vectors of length 1.
    slack = 2.0 * (rows.shape[1] + 8) * 6e-8
    for query, index, similarity in zip(
        np.atleast_2d(queries), np.atleast_2d(indices), np.atleast_2d(similarities), strict=True
    ):
        products = rows[:n] @ query
        floor = np.partition(products, n - k)[n - k] - slack
        candidates = np.flatnonzero(products >= floor)
        # Not a BLAS product: its order of summation depends on where a row lies.
        exact = (rows[candidates].astype(np.float64) * query).sum(axis=1)
        order = np.argsort(-exact, kind="stable")[:k]
        index[:] = candidates[order]
        similarity[:] = exact[order]
    return indices, similarities
