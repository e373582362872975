"""Low-rank adapters that learn which patterns a vector belongs to.

Both adapters compute y = x + scaling * B (A x). B starts at zero, so a new adapter is the
identity; A starts random, so that every rank has its own direction from the first outcome on.
:class:`MicroLoRA` takes one bounded step per outcome, in microseconds; both are fitted to many
outcomes at once in the background (:mod:`sona.learning.fitting`).

References
----------
Hu et al., "LoRA: Low-rank adaptation of large language models", ICLR 2022.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from sona import _core
from sona.checks import check_count
from sona.errors import RangeError, ShapeError
from sona.learning.cone import spread_of
from sona.types import ArrayLike, FloatArray

__all__ = [
    "DAMPING",
    "MICRO_TEMPERATURE",
    "MOST_IN_SIGHT",
    "BaseLoRA",
    "Factors",
    "MicroLoRA",
    "adapted",
    "composed",
    "factors",
    "random_factors",
]

#: A of shape (rank, dim) and B of shape (dim, rank), scaling folded into B.
Factors: TypeAlias = tuple[FloatArray, FloatArray]

#: Per spread of the patterns. Single outcomes are noisy: a sharper softmax lets only the close
#: calls of a decision teach.
MICRO_TEMPERATURE = 0.0435
#: Between 0.1 and 1 measured alike; undivided gradients lose half a point at rank 2.
DAMPING = 0.1
#: Nearest patterns that take part in a single outcome's step; more measure no better.
MOST_IN_SIGHT = 16


class MicroLoRA(_core.LowRankAdapter):
    """Rank 1-2 adapter that learns from each outcome as it comes.

    Parameters
    ----------
    dim : int
        Length of the vectors.
    rank : {1, 2}, default 2
    seed : int, default 0
        Of the initial A.

    Attributes
    ----------
    lora_A, lora_B : ndarray of float32, shapes (rank, dim) and (dim, rank)
        Views of the weights; assignment copies.
    scaling : float
        Factor of the low-rank part; 1.0 at the start.

    Raises
    ------
    RangeError
        `dim` is below 1 or `rank` is neither 1 nor 2.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.learning import MicroLoRA
    >>> lora = MicroLoRA(dim=4, rank=2, seed=0)
    >>> x = np.ones(4, np.float32)
    >>> bool((lora.apply(x) == x).all())
    True
    """

    def __init__(self, dim: int, rank: int = 2, seed: int = 0) -> None:
        if check_count("rank", rank, 0) not in (1, 2):
            raise RangeError(f"`rank` must be 1 or 2; got {rank}")
        super().__init__(check_count("dim", dim), rank)
        self.lora_A = random_factors(dim, rank, check_count("seed", seed, 0))[0]
        self._indices, self._similarities = np.empty(0, np.int64), np.empty(0, np.float32)

    def learn(
        self,
        x: FloatArray,
        centroids: FloatArray,
        values: FloatArray,
        target: float,
        rate: float = 0.1,
        decay: float = 0.0,
        k: int = MOST_IN_SIGHT,
    ) -> float:
        """Take one bounded step down the loss of the bank's decision for one outcome.

        Parameters
        ----------
        x : ndarray of float32, shape (dim,)
            The vector before this adapter.
        centroids : ndarray of float32, shape (m, dim)
            Patterns of unit length.
        values : ndarray of float32, shape (m,)
            Quality in [0, 1] that each pattern expects of the route that was used.
        target : float
            Observed quality in [0, 1].
        rate : float, default 0.1
            Learning rate; 0 with `decay` only forgets.
        decay : float, default 0.0
            Share of the weights that the step forgets.
        k : int, default 16
            Nearest patterns that take part; more measure no better.

        Returns
        -------
        float
            What the bank expected before the step.

        Raises
        ------
        ShapeError, DTypeError, NonFiniteError, RangeError
            Nothing was changed.

        Notes
        -----
        The joint norm of both steps is clipped to 1, so one outcome moves the weights by at
        most `rate`, whatever the reward. Not thread-safe.
        """
        k = min(k, len(centroids))
        if len(self._indices) != k:
            self._indices, self._similarities = np.empty(k, np.int64), np.empty(k, np.float32)
        return _core.decision_step(
            self,
            x,
            centroids,
            values,
            target,
            self._indices,
            self._similarities,
            MICRO_TEMPERATURE * spread_of(centroids),
            rate,
            decay,
            1.0,
            DAMPING,
        )


class BaseLoRA(_core.LowRankAdapter):
    """Adapter of one layer, rank 4-16, fitted in the background and protected by EWC++.

    Parameters
    ----------
    dim : int
        Length of the vectors.
    rank : int, default 8
        At least 1.
    seed : int, default 0
        Of the initial A.

    Attributes
    ----------
    lora_A, lora_B : ndarray of float32, shapes (rank, dim) and (dim, rank)
        Views of the weights; assignment copies.
    scaling : float
        Factor of the low-rank part; 1.0 at the start.

    Raises
    ------
    RangeError
        `dim` or `rank` is below 1.
    """

    def __init__(self, dim: int, rank: int = 8, seed: int = 0) -> None:
        super().__init__(check_count("dim", dim), check_count("rank", rank))
        self.lora_A = random_factors(dim, rank, check_count("seed", seed, 0))[0]

    def become(self, lora_A: ArrayLike, lora_B: ArrayLike, scaling: float) -> None:
        """Take the effect of a given adapter of at most this rank.

        Directions that are left over keep their A, so that they can learn, and get a B of zero.

        Raises
        ------
        RangeError, ShapeError, DTypeError, NonFiniteError
            Nothing was changed.
        """
        A = _core.as_matrix(lora_A, self.dim, "lora_A")
        rank = len(A)
        if rank > self.rank:
            raise RangeError(f"`lora_A` must have at most {self.rank} rows; got {rank}")
        B = _core.as_matrix(lora_B, rank, "lora_B")
        if B.shape != (self.dim, rank):
            raise ShapeError(f"`lora_B` must have shape {(self.dim, rank)}; got {B.shape}")
        self.lora_A = np.concatenate([A, self.lora_A[rank:]])
        self.lora_B = np.pad(B, [(0, 0), (0, self.rank - rank)])
        self.scaling = scaling


def random_factors(dim: int, rank: int, seed: int) -> Factors:
    """Return the factors of a new adapter: rows of A of length about 1, B zero."""
    rows = np.random.default_rng(seed).standard_normal((rank, dim)) / math.sqrt(dim)
    return np.asarray(rows, np.float32), np.zeros((dim, rank), np.float32)


def factors(adapter: _core.LowRankAdapter) -> Factors:
    """Return copies of an adapter's factors."""
    B = np.asarray(adapter.lora_B * np.float32(adapter.scaling), np.float32)
    return adapter.lora_A.copy(), B


def adapted(f: Factors, x: FloatArray) -> FloatArray:
    """Return x + B A x for each row of x."""
    return np.asarray(x + (x @ f[0].T) @ f[1].T, np.float32)


def composed(below: Factors, above: Factors | None) -> Factors:
    """Return the one map that two adapters make; the rows of `below` come first."""
    if above is None:
        return below
    (A, B), (above_A, above_B) = below, above
    return np.concatenate([A, above_A]), np.concatenate([B + above_B @ (above_A @ B), above_B], 1)
