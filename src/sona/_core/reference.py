"""The NumPy meaning of every kernel: the oracle of the tests and the fallback without a compiler.

Each name here has a native twin in `_kernels` with the same signature, defaults and errors.
Arrays that a kernel writes to are the caller's; a kernel keeps no reference to what it is given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sona._core import arrays, contracts
from sona._core.arrays import FloatArray, as_matrix, as_vector, require
from sona._core.codes import RowCodes
from sona._core.counting import (
    count_outcome,
    expected_values,
    follow,
    place_outcome,
    same_vector,
    settle,
    similarities_to,
    store_row,
)
from sona._core.decision import decision_step, gate_observe, gate_trust, outcome_step
from sona._core.expectation import judge, precedents
from sona._core.outlook import CellModel, Outlook
from sona._core.search import encode_rows, put_outcome, top_k
from sona.errors import NonFiniteError

__all__ = [
    "CellModel",
    "LowRankAdapter",
    "Outlook",
    "RowCodes",
    "accumulate",
    "as_matrix",
    "as_unit",
    "as_vector",
    "assign",
    "count_outcome",
    "decision_step",
    "encode_rows",
    "expected_values",
    "follow",
    "gate_observe",
    "gate_trust",
    "judge",
    "outcome_step",
    "place_outcome",
    "precedents",
    "put_outcome",
    "same_vector",
    "screens_assignments",
    "settle",
    "similarities_to",
    "squared_distances",
    "store_row",
    "top_k",
    "unit_rows",
]

# Rows of an n x k product that are held at a time.
_BLOCK = 1024


class LowRankAdapter:
    """The low-rank map y = x + scaling * B (A x), with its weights in one aligned block.

    Parameters
    ----------
    dim : int
        Length of x, at least 1.
    rank : int
        Rows of A and columns of B, at least 1.
    scaling : float, default 1.0
        Factor of the low-rank part.

    Attributes
    ----------
    weights : ndarray of float32, shape (2 * rank, dim)
        The adapter's own memory: rows of A, then rows of B transposed; starts at zero. Writing
        to it changes the adapter.
    lora_A, lora_B : ndarray of float32, shapes (rank, dim) and (dim, rank)
        Views of `weights`; assignment copies the new values in.
    dim, rank : int
    scaling : float

    Notes
    -----
    Concurrent calls of `apply` are safe. A call concurrent with a change of the weights sees any
    mixture of old and new values.
    """

    def __init__(self, dim: int, rank: int, scaling: float = 1.0) -> None:
        arrays.require_count(dim, 1, None, "dim")
        arrays.require_count(rank, 1, None, "rank")
        self._dim = dim
        self._rank = rank
        self._weights = arrays.aligned_zeros((2 * rank, dim))
        self.scaling = scaling

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def weights(self) -> FloatArray:
        return self._weights

    @property
    def scaling(self) -> float:
        return self._scaling

    @scaling.setter
    def scaling(self, value: float) -> None:
        if not np.isfinite(value):
            raise NonFiniteError(f"`scaling` must be finite; got {value}")
        self._scaling = float(value)

    @property
    def lora_A(self) -> FloatArray:
        return self._weights[: self._rank]

    @lora_A.setter
    def lora_A(self, value: npt.ArrayLike) -> None:
        self._weights[: self._rank] = contracts.as_factor(value, (self._rank, self._dim), "lora_A")

    @property
    def lora_B(self) -> FloatArray:
        return self._weights[self._rank :].T

    @lora_B.setter
    def lora_B(self, value: npt.ArrayLike) -> None:
        factor = contracts.as_factor(value, (self._dim, self._rank), "lora_B")
        self._weights[self._rank :] = factor.T

    def apply(self, x: npt.ArrayLike, out: FloatArray | None = None) -> FloatArray:
        """Return y = x + scaling * B (A x), for one vector or each row of a batch.

        Parameters
        ----------
        x : array_like of shape (dim,) or (n, dim)
            float32; float64 and lists are converted.
        out : ndarray of float32, same shape as `x`, optional
            Where to write the result; may be `x` itself. Must be C-contiguous and writable.

        Returns
        -------
        ndarray of float32, same shape as `x`
            `out` where it was given, else a new array.

        Raises
        ------
        ShapeError, DTypeError, NonFiniteError
            Nothing was written.

        Notes
        -----
        Costs 4 * rank * dim floating-point operations per row.
        """
        batch = np.ndim(x) == 2
        rows = as_matrix(x, self._dim, "x") if batch else as_vector(x, self._dim, "x")
        if out is not None:
            arrays.require(out, rows.shape, np.float32, "out", writable=True)
        hidden = (rows @ self.lora_A.T) * np.float32(self._scaling)
        return np.add(rows, hidden @ self._weights[self._rank :], out=out)

    def apply_bits(
        self,
        x: npt.NDArray[np.uint16],
        format: str,
        out: npt.NDArray[np.uint16] | None = None,
    ) -> npt.NDArray[np.uint16]:
        """Apply to hidden states stored in 16 bits, computing in float32.

        Parameters
        ----------
        x : ndarray of uint16, shape (dim,) or (n, dim)
            Bit patterns, as ``array.view(np.uint16)`` gives them.
        format : "float16" or "bfloat16"
            What the bits mean.
        out : ndarray of uint16, same shape as `x`, optional
            Where to write the result; may be `x` itself. Must be C-contiguous and writable.

        Returns
        -------
        ndarray of uint16, same shape as `x`
            Rounded to nearest even; `out` where it was given, else a new array.

        Raises
        ------
        ShapeError, DTypeError, NonFiniteError, RangeError
            Nothing was written.
        """
        contracts.check_bits(x, self._dim, format, out)
        wide = _widen(x, format)
        if not np.isfinite(wide).all():
            row = int(np.argwhere(~np.isfinite(np.atleast_2d(wide)))[0, 0])
            raise NonFiniteError(f"`x` must be finite; row {row} is not")
        narrow = _narrow(self.apply(wide), format)
        if out is None:
            return narrow
        out[:] = narrow
        return out


def adapt_tensor(x: Any, adapters: tuple[LowRankAdapter, ...]) -> Any | None:
    """Apply adapters, one after the other, to a tensor of another library where it lies.

    Parameters
    ----------
    x : tensor of shape (..., dim)
        Of a library with the DLPack C exchange.
    adapters : tuple of LowRankAdapter

    Returns
    -------
    tensor like `x`, or None
        A new one of the same library, float32, float16 or bfloat16. None where the tensor cannot
        be taken this way: on another device, not dense, of another type, in need of a gradient,
        or of a library that does not take part; and where there is no adapter. The NumPy backend
        cannot take any.

    Raises
    ------
    NonFiniteError
        A row holds a NaN or an infinity.
    ShapeError
        The adapters differ in dim.
    """
    return None


def _widen(bits: npt.NDArray[np.uint16], format: str) -> FloatArray:
    if format == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _narrow(rows: FloatArray, format: str) -> npt.NDArray[np.uint16]:
    if format == "float16":
        with np.errstate(over="ignore"):
            return rows.astype(np.float16).view(np.uint16)
    bits = rows.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def as_unit(x: Any, dim: int, name: str, out: FloatArray | None = None) -> FloatArray:
    """Return an embedding divided by its Euclidean length; zero stays zero.

    Parameters
    ----------
    x : array_like of shape (dim,)
    dim : int
    name : str
        What to call `x` in an error.
    out : ndarray of float32, shape (dim,), optional
        Receives the result; undefined after an error.

    Returns
    -------
    ndarray of float32, shape (dim,)
        `out` or a new array.

    Raises
    ------
    ShapeError, DTypeError, NonFiniteError
        As :func:`as_vector`.
    """
    unit = unit_rows(as_vector(x, dim, name))
    if out is None:
        return unit
    require(out, (dim,), np.float32, "out", writable=True)
    out[:] = unit
    return out


def unit_rows(x: FloatArray) -> FloatArray:
    """Return each row divided by its Euclidean length; a zero row stays zero.

    Parameters
    ----------
    x : ndarray of float32, shape (dim,) or (n, dim)
        Finite.

    Returns
    -------
    ndarray of float32, same shape as `x`
        A new array. Lengths are taken in double, so no finite row overflows or vanishes.

    Raises
    ------
    ShapeError, DTypeError
        `x` cannot be used as it is.
    """
    contracts.check_unit_rows(x)
    wide = x.astype(np.float64)
    norms = np.sqrt(np.square(wide).sum(axis=-1, keepdims=True))
    return (wide / np.where(norms > 0.0, norms, 1.0)).astype(np.float32)


def assign(
    points: FloatArray,
    centroids: FloatArray,
    labels: npt.NDArray[np.int32],
    similarities: FloatArray | None,
    n_threads: int = 1,
    codes: RowCodes | None = None,
    moved: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Give each point the centroid of largest inner product, the lower index where two tie.

    Parameters
    ----------
    points : ndarray of float32, shape (n, dim)
    centroids : ndarray of float32, shape (k, dim)
        k at least 1.
    labels : ndarray of int32, shape (n,)
        Receives the centroid of each point.
    similarities : ndarray of float32, shape (n,), or None
        Receives the inner product with it.
    n_threads : int, default 1
        At least 1; the points are split evenly.
    codes : RowCodes, optional
        Codes of the points; points and centroids must be of length at most 1 then. They change
        the cost, and the label only where float32 cannot tell two centroids apart.
    moved : ndarray of bool, shape (k,), optional
        False for centroids that are bit for bit what they were when `labels`, which must hold the
        answer of then, was found: their points can only go to a centroid that moved. Changes the
        cost, not the answer.

    Raises
    ------
    ShapeError, DTypeError, RangeError
        Nothing was written.
    """
    contracts.check_assign(points, centroids, labels, similarities, n_threads, codes, moved)
    for start in range(0, len(points), _BLOCK):
        part = slice(start, start + _BLOCK)
        products = points[part] @ centroids.T
        labels[part] = products.argmax(axis=1)
        if similarities is not None:
            similarities[part] = products.max(axis=1)


def accumulate(
    points: FloatArray,
    labels: npt.NDArray[np.int32],
    weights: npt.NDArray[np.float64] | None,
    sums: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64],
    before: npt.NDArray[np.int32] | None = None,
) -> None:
    """Add each point, times its weight, to the sum of its cluster.

    Parameters
    ----------
    points : ndarray of float32, shape (n, dim)
    labels : ndarray of int32, shape (n,)
        Each in [0, k).
    weights : ndarray of float64, shape (n,), or None
        None counts every point once.
    sums : ndarray of float64, shape (k, dim)
        Added to.
    counts : ndarray of float64, shape (k,)
        The weights are added to it.
    before : ndarray of int32, shape (n,), optional
        The clusters in whose sums the points are now, -1 for none: they are taken off there, and
        those that stay are not touched.

    Raises
    ------
    ShapeError, DTypeError, RangeError
        Nothing was added.
    """
    contracts.check_accumulate(points, labels, weights, sums, counts, before)
    k = len(sums)
    outside = (labels < 0) | (labels >= k)
    if before is not None:
        outside |= (before < -1) | (before >= k)
    if outside.any():
        contracts.refuse_label(labels, before, int(outside.argmax()), k)
    masses = np.ones(len(points)) if weights is None else weights
    weighted = points * masses[:, None]
    if before is None:
        np.add.at(sums, labels, weighted)
        np.add.at(counts, labels, masses)
        return
    moved = labels != before
    np.add.at(sums, labels[moved], weighted[moved])
    np.add.at(counts, labels[moved], masses[moved])
    moved &= before >= 0
    np.subtract.at(sums, before[moved], weighted[moved])
    np.subtract.at(counts, before[moved], masses[moved])


def screens_assignments(n_clusters: int) -> bool:
    """Do codes make `assign` faster here? Where they do not, making them is a waste."""
    return False


def squared_distances(points: FloatArray, seeds: FloatArray) -> FloatArray:
    """Return the squared distance of each point from each seed.

    Parameters
    ----------
    points : ndarray of float32, shape (n, dim)
        Unit rows.
    seeds : ndarray of float32, shape (m, dim)
        Unit rows.

    Returns
    -------
    ndarray of float32, shape (m, n)
        Below 1e-6 + 2.5e-7 * sqrt(dim), which is more than rounding leaves of equal rows, it is 0.

    Raises
    ------
    ShapeError, DTypeError
    """
    contracts.check_squared_distances(points, seeds)
    squares: FloatArray = 2.0 - 2.0 * (seeds @ points.T)
    squares[squares < 1e-6 + 2.5e-7 * np.sqrt(points.shape[1])] = 0.0
    return squares
