"""What an array must be before a kernel sees it, and the words that refuse it.

The native backend answers the common case (already float32, contiguous, finite) itself and comes
here for everything else, so that conversions and messages exist once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sona.errors import DTypeError, NonFiniteError, RangeError, ShapeError

FloatArray = npt.NDArray[np.float32]

_CACHE_LINE = 64


def as_vector(x: Any, dim: int | None, name: str) -> FloatArray:
    """Return `x` as a finite, C-contiguous float32 vector.

    Parameters
    ----------
    x : array_like of shape (dim,)
        float32 is taken as it is, float64 and sequences of numbers are converted.
    dim : int or None
        Required length; None takes any length but zero.
    name : str
        What to call `x` in an error.

    Returns
    -------
    ndarray of float32, shape (dim,)
        `x` itself where it already qualifies (no copy), else a new array.

    Raises
    ------
    ShapeError, DTypeError, NonFiniteError
        The first that applies, in this order: dtype, shape, finiteness.
    """
    array = _as_float32(x, name)
    if array.ndim != 1 or array.shape[0] != (array.shape[0] if dim is None else dim):
        raise ShapeError(f"`{name}` must have shape {_vector_shape(dim)}; got {array.shape}")
    if array.shape[0] == 0:
        raise ShapeError(f"`{name}` must not be empty; got shape (0,)")
    return _finite(array, name)


def as_matrix(x: Any, dim: int | None, name: str) -> FloatArray:
    """Return `x` as a finite, C-contiguous float32 matrix of rows.

    Parameters
    ----------
    x : array_like of shape (n, dim)
        float32 is taken as it is, float64 and sequences of numbers are converted. `n` may be 0.
    dim : int or None
        Required length of a row; None takes any length but zero.
    name : str
        What to call `x` in an error.

    Returns
    -------
    ndarray of float32, shape (n, dim)
        `x` itself where it already qualifies (no copy), else a new array.

    Raises
    ------
    ShapeError, DTypeError, NonFiniteError
        The first that applies, in this order: dtype, shape, finiteness.
    """
    array = _as_float32(x, name)
    if array.ndim != 2 or array.shape[1] != (array.shape[1] if dim is None else dim):
        wanted = "(n, dim)" if dim is None else f"(n, {dim})"
        raise ShapeError(f"`{name}` must have shape {wanted}; got {array.shape}")
    if array.shape[1] == 0:
        raise ShapeError(f"`{name}` must have rows of at least one value; got {array.shape}")
    return _finite(array, name)


def dimensions(x: Any, name: str) -> int:
    """Return how many dimensions an array_like has.

    Raises
    ------
    ShapeError, DTypeError
        If it is a sequence that makes no array of numbers.
    """
    return x.ndim if isinstance(x, np.ndarray) else _from_sequence(x, name).ndim


def aligned_zeros(shape: tuple[int, ...]) -> FloatArray:
    """Return float32 zeros that start on a cache line.

    NumPy aligns to 16 bytes only; vector loads that straddle two cache lines cost up to 1.8 times.
    """
    size = int(np.prod(shape))
    raw = np.zeros(size + _CACHE_LINE // 4, dtype=np.float32)
    start = -raw.ctypes.data % _CACHE_LINE // 4
    return raw[start : start + size].reshape(shape)


def require(x: Any, shape: tuple[int, ...], dtype: Any, name: str, writable: bool = False) -> None:
    """Raise unless `x` can be handed to a kernel as it is.

    Raises
    ------
    ShapeError, DTypeError
        `x` is not an ndarray of exactly this dtype and shape, C-contiguous and aligned, and
        writable where that is asked for.
    """
    wanted = np.dtype(dtype)
    if not isinstance(x, np.ndarray) or x.dtype != wanted:
        raise DTypeError(f"`{name}` must be an array of {wanted}; got {_kind(x)}")
    if x.shape != shape:
        raise ShapeError(f"`{name}` must have shape {shape}; got {x.shape}")
    if not x.flags.c_contiguous or not x.flags.aligned:
        raise ShapeError(f"`{name}` must be C-contiguous and aligned; got strides {x.strides}")
    if writable and not x.flags.writeable:
        raise DTypeError(f"`{name}` must be writable; got a read-only array")


def require_count(value: int, low: int, high: int | None, name: str) -> None:
    """Raise RangeError unless low <= value <= high."""
    if value < low or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"between {low} and {high}"
        raise RangeError(f"`{name}` must be {wanted}; got {value}")


def _as_float32(x: Any, name: str) -> FloatArray:
    if not isinstance(x, np.ndarray):
        x = _from_sequence(x, name)
    if x.dtype != np.float32 and x.dtype != np.float64:
        raise DTypeError(f"`{name}` must be float32 or float64; got {x.dtype}")
    # A float64 beyond float32's range becomes infinite here and is refused as such below.
    with np.errstate(over="ignore"):
        array = np.require(x, dtype=np.float32, requirements=["C", "A"])
    return array if type(array) is np.ndarray else array.view(np.ndarray)


def _from_sequence(x: Any, name: str) -> npt.NDArray[Any]:
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ShapeError(f"`{name}` must be a regular array; got {_kind(x)}: {error}") from error
    if array.dtype.kind in "iu" and isinstance(x, list | tuple):
        array = array.astype(np.float64)
    if array.dtype.kind != "f":
        raise DTypeError(f"`{name}` must be float32, float64 or numbers; got {_kind(x)}")
    return array


def _finite(array: FloatArray, name: str) -> FloatArray:
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0]
        place = ", ".join(str(i) for i in where)
        raise NonFiniteError(
            f"`{name}` must be finite in float32; got {array[tuple(where)]} at [{place}]"
        )
    return array


def _vector_shape(dim: int | None) -> str:
    return "(dim,)" if dim is None else f"({dim},)"


def _kind(x: Any) -> str:
    return f"{x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
