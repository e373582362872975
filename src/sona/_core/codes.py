"""Rounded copies of rows, which let a search read a quarter of the memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sona._core.arrays import FloatArray, aligned_zeros

_STEP = 64


class RowCodes:
    """Room for the 8-bit codes of up to `capacity` rows of length `dim`.

    Attributes
    ----------
    codes : ndarray of int8, shape (capacity, width)
        In [-127, 127]; `width` is `dim` rounded up to a multiple of 64.
    scales : ndarray of float32, shape (capacity,)
        Row i is about scales[i] * codes[i] ...
    errors : ndarray of float32, shape (capacity,)
        ... and off by a vector that is at most errors[i] long.
    """

    __slots__ = ("codes", "errors", "scales")

    def __init__(self, capacity: int, dim: int) -> None:
        width = -(-dim // _STEP) * _STEP
        self.codes: npt.NDArray[np.int8] = aligned_zeros((capacity, width // 4)).view(np.int8)
        self.scales: FloatArray = aligned_zeros((capacity,))
        self.errors: FloatArray = aligned_zeros((capacity,))

    def move(self, source: npt.NDArray[np.int64], target: npt.NDArray[np.int64]) -> None:
        """Copy the codes of some rows over those of others."""
        self.codes[target] = self.codes[source]
        self.scales[target] = self.scales[source]
        self.errors[target] = self.errors[source]

    def copy_from(self, other: RowCodes, n: int) -> None:
        """Take over the first `n` rows of `other`."""
        self.codes[:n] = other.codes[:n]
        self.scales[:n] = other.scales[:n]
        self.errors[:n] = other.errors[:n]
