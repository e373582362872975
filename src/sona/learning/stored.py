"""Arrays that a part of the engine saved, as it reads them back.

A checksum finds damage, not a message that was put together wrongly. What could not have been
saved is refused here, before it fails somewhere in the middle of a decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from sona.errors import FormatError

__all__ = ["UNIT", "require_stored", "stored"]

#: Where the coordinates of a unit vector lie, rounding included.
UNIT = (-1.001, 1.001)

# More outcomes than anybody has counted; no sum of them is larger.
_MOST = 1e15


def stored(
    arrays: Mapping[str, NDArray[Any]],
    name: str,
    dtype: npt.DTypeLike,
    shape: tuple[int | None, ...],
    low: float = -_MOST,
    high: float = _MOST,
    nan: bool = False,
) -> NDArray[Any]:
    """Return the array `name` if it is one that can have been saved.

    Parameters
    ----------
    arrays : mapping of str to ndarray
    name : str
    dtype : dtype_like
        Exactly.
    shape : tuple of int or None
        None where any length will do.
    low, high : float
        Every number must lie in [low, high]; a NaN does not,
    nan : bool, default False
        unless NaNs may be there too.

    Raises
    ------
    FormatError
        If it is missing or something else.
    """
    array = arrays.get(name)
    require_stored(array is not None, f"no array {name!r}")
    assert array is not None
    wanted = np.dtype(dtype)
    fits = array.dtype == wanted and array.ndim == len(shape)
    if not fits or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        lengths = ", ".join("n" if n is None else str(n) for n in shape)
        raise FormatError(
            f"`data`: array {name!r} must be {wanted} of shape ({lengths}); "
            f"got {array.dtype} of shape {array.shape}"
        )
    numbers = array[~np.isnan(array)] if nan else array
    if numbers.size:
        least, most = float(numbers.min()), float(numbers.max())
        if not (low <= least and most <= high):  # so written that a NaN is outside
            raise FormatError(
                f"`data`: array {name!r} must be in [{low:g}, {high:g}]; got {least:g} to {most:g}"
            )
    return array


def require_stored(holds: bool, what: str) -> None:
    """Raise FormatError, "`data` holds" with `what`, unless it holds."""
    if not holds:
        raise FormatError(f"`data` holds {what}")
