"""A background fit of both tiers: what to fit, and how much of it to take.

A fit to few outcomes may be luck. It is therefore tried on outcomes that it did not see, and only
the share of it is taken that surely helps them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sona.learning.ewc import OnlineEWC
from sona.learning.fitting import fit
from sona.learning.lora import Factors, adapted
from sona.learning.signal import (
    Lessons,
    TrustGate,
    correlation,
    cross_entropy,
    decide,
    unit,
)
from sona.types import FloatArray

__all__ = ["Tiers", "TiersFit", "agrees", "losses"]

# The shares of a fit that are tried. Up to _CHECKED lessons a fit may be luck; past that the
# whole of it generalised in every run, and half the lessons would say too little about it.
_SHARES = (0.05, 0.25, 0.5, 0.75, 1.0)
_CHECKED = 1_000
# Standard errors by which a fit must help lessons that it did not see. Cycles after few lessons
# each ask again, and one of many answers is lucky.
_SURE = 3.0
# Lessons per pattern at which half of a fit may be taken: loss also falls where a fit only learns
# how sure to be, and that says nothing about its decisions.
_HALF = 3.0


class Tiers(NamedTuple):
    """Factors of a layer's base-LoRA and, for queries, of micro-LoRA on top of it."""

    base: Factors
    micro: Factors | None = None

    def apply(self, x: FloatArray) -> FloatArray:
        """Return the adapted rows of x."""
        y = adapted(self.base, x)
        return y if self.micro is None else adapted(self.micro, y)

    def toward(self, new: Tiers, share: float) -> Tiers:
        """Return what lies between these factors and the `new` ones."""
        micro = new.micro
        if self.micro is not None and micro is not None:
            micro = _between(self.micro, micro, share)
        return Tiers(_between(self.base, new.base, share), micro)


class TiersFit(NamedTuple):
    """How the tiers of a layer are fitted.

    Attributes
    ----------
    start : Tiers
        The adapters as they are.
    centroids : ndarray of float32, shape (m, dim)
        Patterns of unit length.
    micro_rate, base_rate : float
        Adam's steps; 0 leaves a tier as it is.
    ewc : OnlineEWC
        What base-LoRA keeps of earlier lessons.
    """

    start: Tiers
    centroids: FloatArray
    micro_rate: float
    base_rate: float
    ewc: OnlineEWC

    def run(
        self, lessons: Lessons, rng: np.random.Generator, everything: Lessons | None = None
    ) -> Tiers:
        """Fit micro-LoRA, then base-LoRA beneath it.

        Micro-LoRA has no Fisher information to keep what earlier lessons taught: it is fitted to
        `everything` that is remembered where that is given.
        """
        base, micro = self.start
        if micro is not None and self.micro_rate > 0.0:
            known = lessons if everything is None else everything
            micro = fit(micro, known, self.centroids, self.micro_rate, rng)
        if self.base_rate > 0.0:
            base = fit(base, lessons, self.centroids, self.base_rate, rng, self.ewc, micro)
        return Tiers(base, micro)

    def generalising_share(self, lessons: Lessons, rng: np.random.Generator) -> float:
        """Return the share of a fit that surely helps lessons which the fit did not see.

        Surely: by more than chance would, fitted on one half and tried on the other, both ways
        round. Never nothing, so that trusted feedback always teaches.
        """
        n = len(lessons)
        most = n / (n + _HALF * len(self.centroids))
        if n > _CHECKED:
            return 1.0
        if n < 4:
            return most * _SHARES[0]
        gains: list[list[FloatArray]] = [[] for _ in _SHARES]
        halves = np.array_split(rng.permutation(n), 2)
        for seen, unseen in (halves, halves[::-1]):
            new, test = self.run(lessons.take(seen), rng), lessons.take(unseen)
            before = losses(self.start.apply(test.inputs), test, self.centroids)
            for share, gain in zip(_SHARES, gains, strict=True):
                y = self.start.toward(new, most * share).apply(test.inputs)
                gain.append(before - losses(y, test, self.centroids))
        pooled = [np.concatenate(gain) for gain in gains]
        best = int(np.argmax([gain.mean() for gain in pooled]))
        sure = pooled[best].mean() > _SURE * pooled[best].std() / math.sqrt(n)
        return most * (_SHARES[best] if sure else _SHARES[0])


def agrees(lessons: Lessons, units: FloatArray, centroids: FloatArray) -> bool:
    """Whether a batch of feedback agrees with the unadapted bank, as :class:`TrustGate` has it.

    As there, few outcomes are given credit: 20 at a correlation of 0.3.
    """
    expected = decide(units, centroids, lessons.values[lessons.rows])[1]
    n, credit = len(lessons), 20.0
    agreed = n * correlation(expected, lessons.targets) + credit * 0.3
    return agreed / (n + credit) >= TrustGate.LEAST


def losses(y: FloatArray, lessons: Lessons, centroids: FloatArray) -> FloatArray:
    """Return the decision loss of each lesson, its input adapted to a row of y."""
    expected = decide(unit(y)[0], centroids, lessons.values[lessons.rows])[1]
    return cross_entropy(expected, lessons.targets)


def _between(old: Factors, new: Factors, share: float) -> Factors:
    s = np.float32(share)
    return old[0] + s * (new[0] - old[0]), old[1] + s * (new[1] - old[1])
