"""What an outcome teaches: the gradient of the bank's own decision loss.

A query u (unit length) is decided by its nearest patterns. With similarities z_j = u . p_j,
attention a = softmax(z / T + b) and v_j the quality that pattern j expects of the route that was
used, the bank expects e = sum_j a_j v_j. The outcome t in [0, 1] is compared with it by the
cross-entropy L = -[t log e + (1 - t) log(1 - e)], so

    dL/dz_j = (e - t) / (e (1 - e)) * a_j (v_j - e) / T.

The bank's expectation is the baseline: it runs with the bank, is per pattern and per route, and
does not depend on the other rewards of the same trajectory. One outcome therefore teaches, and
where all patterns expect the same there is nothing to tell apart and the gradient is zero.
:func:`sona._core.decision_step` is the same rule for one outcome, fused; here are batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sona import _core
from sona.checks import check_number
from sona.errors import RangeError, ShapeError
from sona.learning.cone import spread_of
from sona.types import FloatArray

__all__ = [
    "Lessons",
    "TrustGate",
    "correlation",
    "cross_entropy",
    "decide",
    "pattern_prior",
    "query_gradient",
    "temperature_of",
    "unit",
]

#: Softmax temperature of similarities, per spread of the patterns. The value at which frozen
#: expectations fit outcomes best was 0.02 to 0.06 on every set tried (sentence embeddings, pixels,
#: synthetic; 16 to 768 dimensions), so it is a constant and not a setting.
TEMPERATURE = 0.0725

# Keeps the loss finite when every pattern in sight agrees and the outcome does not.
_EDGE = 1e-3


@dataclass(frozen=True, eq=False)
class Lessons:
    """Outcomes in the form that adapters learn from; plain arrays, no trajectory is kept.

    Parameters
    ----------
    inputs : ndarray of float32, shape (n, dim)
        Query embeddings, or activations of a layer, as they came (not adapted).
    values : ndarray of float32, shape (routes, m)
        Quality in [0, 1] that each of the m patterns expects of each route.
    rows : ndarray of int64, shape (n,)
        The row of `values` that belongs to each input.
    targets : ndarray of float32, shape (n,)
        Observed quality in [0, 1].

    Raises
    ------
    ShapeError, DTypeError, NonFiniteError, RangeError
        The arrays do not fit each other or leave their ranges.
    """

    inputs: FloatArray
    values: FloatArray
    rows: NDArray[np.int64]
    targets: FloatArray

    def __post_init__(self) -> None:
        inputs = _core.as_matrix(self.inputs, None, "inputs")
        values = _core.as_matrix(self.values, None, "values")
        rows = np.asarray(self.rows, np.int64)
        n = len(inputs)
        targets = _core.as_vector(self.targets, n, "targets") if n else np.zeros(0, np.float32)
        if rows.shape != (n,):
            raise ShapeError(f"`rows` must have shape ({n},); got {rows.shape}")
        if n and not (rows.min() >= 0 and rows.max() < len(values)):
            raise RangeError(f"`rows` must be in [0, {len(values) - 1}]")
        for name, share in (("values", values), ("targets", targets)):
            if share.size and not (share.min() >= 0.0 and share.max() <= 1.0):
                raise RangeError(f"`{name}` must be in [0, 1]")
        # A frozen record may still put its own fields in order while it is made.
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "targets", targets)

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: NDArray[np.int64]) -> Lessons:
        """Return the lessons at `index`."""
        return Lessons(self.inputs[index], self.values, self.rows[index], self.targets[index])

    def joined(self, later: Lessons) -> Lessons:
        """Return these lessons, then the `later` ones, whose `values` hold for both."""
        return Lessons(
            np.concatenate([self.inputs, later.inputs]),
            later.values,
            np.concatenate([self.rows, later.rows]),
            np.concatenate([self.targets, later.targets]),
        )

    def of_inputs(self, inputs: FloatArray) -> Lessons:
        """Return the same outcomes for other inputs, for example adapted ones."""
        return Lessons(inputs, self.values, self.rows, self.targets)


def temperature_of(centroids: FloatArray) -> float:
    """Return the temperature at which these patterns are told apart."""
    return TEMPERATURE * spread_of(centroids)


def unit(y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return rows at unit length and their lengths of shape (n, 1); zero rows stay zero."""
    norms = np.sqrt(np.einsum("nd,nd->n", y, y))[:, None]
    return np.divide(y, norms, out=np.zeros_like(y), where=norms > 0.0), norms


def decide(
    units: FloatArray,
    centroids: FloatArray,
    values: FloatArray,
    bias: FloatArray | None = None,
    temperature: float | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Return what the bank expects of each query.

    Parameters
    ----------
    units : ndarray of float32, shape (n, dim)
        Adapted queries of unit length.
    centroids : ndarray of float32, shape (m, dim)
        Patterns of unit length.
    values : ndarray of float32, shape (n, m)
        Expected quality of the query's route at each pattern.
    bias : ndarray of float32, shape (m,), optional
        Added to the logits.
    temperature : float, optional
        :func:`temperature_of` the patterns, for who knows it already.

    Returns
    -------
    attention : ndarray of float32, shape (n, m)
        Rows sum to 1.
    expected : ndarray of float32, shape (n,)

    Notes
    -----
    Costs 2 * n * m * dim operations.
    """
    if temperature is None:
        temperature = temperature_of(centroids)
    logits = units @ centroids.T
    logits *= np.float32(1.0 / temperature)
    if bias is not None:
        logits += bias
    logits -= logits.max(axis=1, keepdims=True)
    attention = np.exp(logits, out=logits)
    attention /= attention.sum(axis=1, keepdims=True)
    return attention, np.einsum("nm,nm->n", attention, values)


def cross_entropy(expected: FloatArray, targets: FloatArray) -> FloatArray:
    """Return -[t log e + (1 - t) log(1 - e)] per query, e kept off 0 and 1."""
    e = np.clip(expected, _EDGE, 1.0 - _EDGE)
    loss: FloatArray = -(targets * np.log(e) + (1.0 - targets) * np.log1p(-e))
    return loss


def query_gradient(
    units: FloatArray,
    norms: FloatArray,
    centroids: FloatArray,
    values: FloatArray,
    targets: FloatArray | None,
    bias: FloatArray | None = None,
) -> FloatArray:
    """Return dL/dy for each adapted query y = norm * unit.

    Parameters
    ----------
    units, norms : ndarray of float32, shapes (n, dim) and (n, 1)
        Direction and length of y; a length of 0 gives a zero gradient.
    centroids : ndarray of float32, shape (m, dim)
    values : ndarray of float32, shape (n, m)
    targets : ndarray of float32, shape (n,), or None
        Observed quality. None stands for outcomes drawn from the bank's own expectation: rows
        are scaled so that g g^T is its mean over those outcomes, which is the Fisher information.
    bias : ndarray of float32, shape (m,), optional

    Returns
    -------
    ndarray of float32, shape (n, dim)
        Orthogonal to each y.
    """
    temperature = temperature_of(centroids)
    attention, expected = decide(units, centroids, values, bias, temperature)
    e = np.clip(expected, _EDGE, 1.0 - _EDGE)
    spread = e * (1.0 - e)
    slope = 1.0 / np.sqrt(spread) if targets is None else (e - targets) / spread
    pull = attention * (values - expected[:, None])
    pull *= (slope / np.float32(temperature))[:, None]
    gradient: FloatArray = pull @ centroids
    gradient -= units * np.einsum("nd,nd->n", gradient, units)[:, None]
    return np.divide(gradient, norms, out=np.zeros_like(gradient), where=norms > 0.0)


def pattern_prior(units: FloatArray, centroids: FloatArray, lessons: Lessons) -> FloatArray:
    """Return the log share of each pattern among the lessons, as a bias for their logits.

    While an adapter learns from traffic in which some patterns are frequent and others absent,
    this bias explains the frequencies, so that the adapter need not: it learns how patterns
    differ, not which are common today, and patterns that are absent are not pushed away.

    Parameters
    ----------
    units : ndarray of float32, shape (n, dim)
        Adapted queries of unit length.
    centroids : ndarray of float32, shape (m, dim)
    lessons : Lessons
        Gives each query's route and outcome: both say which patterns it can have come from.

    Returns
    -------
    ndarray of float32, shape (m,)

    References
    ----------
    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021.
    """
    values = lessons.values[lessons.rows]
    attention, _ = decide(units, centroids, values)
    targets = lessons.targets[:, None]
    likely = attention * np.clip(targets * values + (1.0 - targets) * (1.0 - values), _EDGE, 1.0)
    likely /= likely.sum(axis=1, keepdims=True)
    share = likely.sum(axis=0) + 1.0
    return np.asarray(np.log(share / share.sum()), np.float32)


def correlation(expected: FloatArray, targets: FloatArray) -> float:
    """Return the Pearson correlation, 0.0 where either side is constant up to rounding."""
    x, y = expected.astype(np.float64), targets.astype(np.float64)
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale > _FLAT * len(x) else 0.0


# Below this product of standard deviations a correlation would be one of rounding noise.
_FLAT = 1e-6


class TrustGate:
    """Does the feedback still agree with the bank? A running correlation decides.

    Feedback that means what the bank thinks it means is better where the bank, unadapted, expects
    better: the correlation was 0.45 to 0.65 on every labelled set tried. Noise, shuffled outcomes
    and constant reward have none, inverted reward has a negative one. Adapters learn as fast as
    the correlation allows and fade to the identity when there is none, which bounds what any
    reward can do to decisions. The unadapted bank is the judge because an adapter that was taught
    nonsense would expect nonsense.

    A lie that is told long enough becomes what the bank thinks: it counts all outcomes. So a
    contradiction, a correlation 3.5 standard errors below zero, is remembered: feedback that once
    said the opposite of what the bank knew teaches the adapters of this engine nothing any more.
    Routes are chosen by what was counted all the same.

    Notes
    -----
    Starts between honest feedback and none, so that the first outcome teaches and few decide.
    Not thread-safe; O(1) per outcome.
    """

    #: Correlation below which feedback is not trusted: three standard errors at the horizon.
    LEAST = 0.15
    #: Correlation from which it is trusted fully.
    ENOUGH = 0.4
    # Outcomes over which the estimate forgets, and those that its start is worth.
    _HORIZON, _CREDIT = 200.0, 20.0
    _START = (_CREDIT, 0.5, 0.5, 0.1, 0.1, 0.03, 0.0)

    __slots__ = ("state",)

    def __init__(self) -> None:
        #: The moments and the rule, as :func:`sona._core.outcome_step` takes them.
        self.state = np.array([*self._START, self.LEAST, self.ENOUGH, self._HORIZON])

    def observe(self, expected: float, target: float) -> None:
        """Count in one outcome and what the unadapted bank expected."""
        _core.gate_observe(self.state, expected, target)

    @property
    def correlation(self) -> float:
        """The running correlation, in [-1, 1]; 0.0 where either side is constant."""
        ee, tt, et = self.moments[3:6]
        scale = math.sqrt(ee * tt)
        return et / scale if scale > _FLAT else 0.0

    @property
    def trust(self) -> float:
        """Share of the learning rate that feedback has earned, in [0, 1].

        Grows with the correlation and, at first, with the number of outcomes behind it.
        """
        return _core.gate_trust(self.state)

    @property
    def contradicted(self) -> bool:
        """Whether the feedback ever said the opposite of what the bank expected."""
        return bool(self.state[6] > 0.0)

    @property
    def moments(self) -> tuple[float, ...]:
        """The state: weight, means of expectation and outcome, their variances, covariance.

        And 1.0 where they ever contradicted each other. Settable; raises ShapeError or RangeError
        where seven such numbers are not given.
        """
        return tuple(self.state[:7].tolist())

    @moments.setter
    def moments(self, values: Sequence[float]) -> None:
        if len(values) != 7:
            raise ShapeError(f"`moments` must hold 7 numbers; got {len(values)}")
        names = ("weight", "mean_e", "mean_t", "var_e", "var_t", "covariance", "contradicted")
        lows = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0)
        highs = (self._HORIZON, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
        self.state[:7] = [
            check_number(*each) for each in zip(names, map(float, values), lows, highs, strict=True)
        ]
