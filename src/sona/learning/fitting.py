"""Fit an adapter to many outcomes at once: the background's part.

Micro-LoRA is fitted to the queries as they come, so that it helps alone; base-LoRA is fitted
beneath it, to what is left.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sona.learning.ewc import OnlineEWC
from sona.learning.lora import Factors, adapted, composed
from sona.learning.signal import Lessons, pattern_prior, query_gradient, unit
from sona.types import FloatArray

__all__ = ["fit", "pulled_back"]

# Precision of the prior on each weight, and how it grows where there are few lessons per pattern.
_PRECISION = 2.5
_FEW = 3.0
_BATCH = 64
_PASSES = 20
_MAX_STEPS = 2_000
_STEEPEST = np.float32(1e18)


def fit(
    start: Factors,
    lessons: Lessons,
    centroids: FloatArray,
    rate: float,
    rng: np.random.Generator,
    ewc: OnlineEWC | None = None,
    above: Factors | None = None,
) -> Factors:
    """Fit an adapter to many outcomes: mini-batch Adam on the decision loss and its priors.

    The minimised loss is that of all lessons plus a Gaussian prior, around zero or, where `ewc`
    protects what was learned, around the start; the sum is the posterior of the weights, so one
    setting serves five lessons and ten thousand.

    Parameters
    ----------
    start : tuple of ndarray of float32, shapes (rank, dim) and (dim, rank)
        A and B (scaling folded into B) to start from; not written to.
    lessons : Lessons
        At least one.
    centroids : ndarray of float32, shape (m, dim)
        Patterns of unit length.
    rate : float
        Adam's step; falls to zero over the fit on a half cosine.
    rng : numpy.random.Generator
        Order of the mini-batches.
    ewc : OnlineEWC, optional
        What to protect: decisions of the whole map, `above` included.
    above : tuple of ndarray, optional
        The adapter that acts on what this one returns, and stays as it is.

    Returns
    -------
    tuple of ndarray of float32, shapes (rank, dim) and (dim, rank)
        The fitted A and B.

    Notes
    -----
    At most 2,000 steps of 64 lessons, about 12 * m * dim operations per lesson and pass.

    References
    ----------
    Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    """
    n = len(lessons)
    A, B = start[0].copy(), start[1].copy()
    protect = ewc if ewc is not None and ewc.is_active else None
    prior: tuple[FloatArray | float, FloatArray | float] = (0.0, 0.0) if protect is None else start
    pull = np.float32(_PRECISION * (1.0 + _FEW * len(centroids) / n) / n)
    decided = adapted(start, lessons.inputs)
    if above is not None:
        decided = adapted(above, decided)
    bias = pattern_prior(unit(decided)[0], centroids, lessons)
    weights = (A, B)
    first = tuple(np.zeros_like(w) for w in weights)
    second = tuple(np.zeros_like(w) for w in weights)
    steps = min(_PASSES * -(-n // _BATCH), _MAX_STEPS)
    for step, index in enumerate(_batches(n, steps, rng), start=1):
        x = lessons.inputs[index]
        hidden = x @ A.T
        y = np.asarray(x + hidden @ B.T, np.float32)
        units, norms = unit(y if above is None else adapted(above, y))
        values, targets = lessons.values[lessons.rows[index]], lessons.targets[index]
        g = pulled_back(above, query_gradient(units, norms, centroids, values, targets, bias))
        share = np.float32(1.0 / len(index))
        gA = share * ((g @ B).T @ x) + pull * (A - prior[0])
        gB = share * (g.T @ hidden) + pull * (B - prior[1])
        if protect is not None:
            keep_A, keep_B = protect.gradient(*composed((A, B), above))
            rank = len(A)
            gA += keep_A[:rank] / np.float32(n)
            gB += pulled_back(above, keep_B[:, :rank].T).T / np.float32(n)
        # Adam asks for the direction; squares of what steeper weights give would leave float32.
        gA, gB = (np.clip(each, -_STEEPEST, _STEEPEST) for each in (gA, gB))
        fading = 0.5 * rate * (1.0 + math.cos(math.pi * step / steps))
        _adam(weights, (gA, gB), first, second, step, fading)
    return weights


def pulled_back(above: Factors | None, gradients: FloatArray) -> FloatArray:
    """Return dL/dx for each row dL/dy with y = x + B A x; the same rows where there is no map."""
    if above is None:
        return gradients
    return np.asarray(gradients + (gradients @ above[1]) @ above[0], np.float32)


def _adam(
    weights: tuple[FloatArray, ...],
    gradients: tuple[FloatArray, ...],
    first: tuple[FloatArray, ...],
    second: tuple[FloatArray, ...],
    step: int,
    rate: float,
) -> None:
    c1, c2 = 1.0 - 0.9**step, 1.0 - 0.99**step
    for w, g, m, v in zip(weights, gradients, first, second, strict=True):
        m += np.float32(0.1) * (g - m)
        v += np.float32(0.01) * (g * g - v)
        w -= np.float32(rate / c1) * m / (np.sqrt(v / np.float32(c2)) + np.float32(1e-8))


def _batches(n: int, steps: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Return `steps` mini-batches that together pass over all lessons evenly."""
    per_pass = -(-n // _BATCH)
    batches: list[NDArray[np.int64]] = []
    while len(batches) < steps:
        batches.extend(np.array_split(rng.permutation(n), per_pass))
    return batches[:steps]
