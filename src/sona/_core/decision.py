"""The NumPy meaning of the bank's decision, and of one learning step through it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sona._core import contracts
from sona._core.arrays import FloatArray

if TYPE_CHECKING:
    from sona._core.reference import LowRankAdapter

# Keeps the loss finite when every pattern in sight agrees and the outcome does not.
_EDGE = 1e-6
# What is smaller than this share of its terms is what rounding left of a subtraction: patterns
# that expect the same, or a pull along y only. It is no gradient, so nothing moves.
_NOISE = 1e-6
# Patterns this many temperatures behind the best have a millionth of its weight.
_OUT_OF_SIGHT = 14.0
# Below this product of standard deviations a correlation would be one of rounding noise.
_FLAT = 1e-6
# Standard errors below zero from which a correlation is a contradiction.
_CONTRADICTION = -3.5


def decision_step(
    adapter: LowRankAdapter,
    x: FloatArray,
    centroids: FloatArray,
    values: FloatArray,
    target: float,
    indices: npt.NDArray[np.int64],
    similarities: FloatArray,
    temperature: float,
    rate: float,
    decay: float,
    max_norm: float,
    damping: float,
) -> float:
    """Learn one outcome: descend the loss of the bank's own decision through the adapter.

    With h = A x, y = x + s B h, u = y / |y|, z_j = u . p_j over the k nearest patterns,
    a = softmax(z / temperature), e = sum a_j v_j, the loss is the cross-entropy
    L = -[t log e + (1 - t) log(1 - e)] and

        dL/de = (e - t) / (e (1 - e))      w_j = dL/dz_j = dL/de a_j (v_j - e) / temperature
        g = dL/dy = (sum_j w_j p_j - (sum_j w_j z_j) u) / |y|
        dL/dA = s (B^T g) x^T              dL/dB = s g h^T

    Each factor's gradient is divided by the Gram matrix of the other one,

        GA = (s^2 B^T B + damping)^-1 dL/dA    GB = dL/dB (s^2 A A^T + damping)^-1

    so that a step means the same for the map whatever share of it either factor carries. The
    joint norm of GA and GB is clipped to `max_norm`, then W <- (1 - decay) W - rate G. Where the
    gradient is zero (nothing to tell apart, a zero vector, weights all zero) nothing moves, decay
    included.

    Parameters
    ----------
    adapter : LowRankAdapter
        Its weights are updated.
    x : ndarray of float32, shape (dim,)
        The embedding as it came, before the adapter.
    centroids : ndarray of float32, shape (n, dim)
        Unit rows.
    values : ndarray of float32, shape (n,)
        What each pattern expects, in [0, 1].
    target : float
        What came out, in [0, 1].
    indices : ndarray of int64, shape (k,)
        Receives the k nearest patterns, best first; 1 <= k <= n.
    similarities : ndarray of float32, shape (k,)
        Receives their cosine similarities before the step.
    temperature : float
        Of the softmax over similarities, positive.
    rate, decay, max_norm : float
        Learning rate, share of the weights that each step forgets, bound of the norm of G.
    damping : float
        Positive; what keeps the Gram matrix of a factor near zero from being inverted.

    Returns
    -------
    float
        The expected value e before the step.

    Raises
    ------
    ShapeError, DTypeError, NonFiniteError, RangeError
        Nothing was changed.

    Notes
    -----
    Costs 2 * n * dim operations for the search and about (2 * k + 12 * rank) * dim for the rest.
    One step at a time per adapter; the native twin allocates nothing in the steady state.

    References
    ----------
    Zhang and Pilanci, "Riemannian preconditioned LoRA for fine-tuning foundation models", ICML
    2024.
    """
    contracts.check_step(adapter.dim, x, centroids, values, indices, similarities)
    contracts.check_rule(target, temperature, rate, decay, max_norm, damping)
    query = _Adapted(adapter, x)
    products = centroids @ query.unit
    indices[:] = np.argsort(-products, kind="stable")[: len(indices)]
    similarities[:] = products[indices]
    attention, expected = _attend(similarities, values[indices], temperature)
    query.descend(
        centroids,
        values,
        indices,
        similarities,
        attention,
        expected,
        target,
        temperature,
        rate,
        decay,
        max_norm,
        damping,
    )
    return expected


def outcome_step(
    lower: LowRankAdapter,
    upper: LowRankAdapter,
    x: FloatArray,
    centroids: FloatArray,
    values: FloatArray,
    target: float,
    gate: npt.NDArray[np.float64],
    similarities: FloatArray,
    k: int,
    temperature: float,
    rate: float,
    decay: float,
    max_norm: float,
    damping: float,
) -> float:
    """Learn one outcome through the upper of two adapters, as far as feedback is to be trusted.

    The bank is read once, for the query as it came and for the adapted one. What it expects of
    the first is compared with the outcome in the gate; for the second it is :func:`decision_step`
    on ``lower(x)``, with `rate` times the trust that the gate had before. Patterns more than 14
    temperatures behind the best have a millionth of its weight and take no part.

    Parameters
    ----------
    lower, upper : LowRankAdapter
        The weights of `upper` are updated.
    x : ndarray of float32, shape (dim,)
        The query as it came, of unit length or zero.
    centroids : ndarray of float32, shape (n, dim)
        Unit rows; n at least 1.
    values : ndarray of float32, shape (n,)
        What each pattern expects, in [0, 1].
    target : float
        What came out, in [0, 1].
    gate : ndarray of float64, shape (10,)
        See :func:`gate_trust`; counts this outcome in.
    similarities : ndarray of float32, shape (n,)
        Receives the products of the centroids with `x`.
    k : int
        Most patterns that take part; 1 <= k <= n.
    temperature, rate, max_norm, damping : float
        As for :func:`decision_step`.
    decay : float
        Share of the weights that the step forgets where there is no trust.

    Returns
    -------
    float
        The expected value before the step.

    Raises
    ------
    ShapeError, DTypeError, NonFiniteError, RangeError
        Nothing was changed.

    Notes
    -----
    Costs 4 * n * dim operations for the search. One step at a time per adapter.
    """
    contracts.check_outcome(lower.dim, upper.dim, x, centroids, values, gate, similarities, k)
    contracts.check_rule(target, temperature, rate, decay, max_norm, damping)
    query = _Adapted(upper, lower.apply(x))
    similarities[:] = centroids @ x
    trust = gate_trust(gate)
    seen = _in_sight(similarities, k, temperature)
    judged = _attend(similarities[seen], values[seen], temperature)[1]
    products = centroids @ query.unit
    seen = _in_sight(products, k, temperature)
    attention, expected = _attend(products[seen], values[seen], temperature)
    query.descend(
        centroids,
        values,
        seen,
        products[seen],
        attention,
        expected,
        target,
        temperature,
        rate * trust,
        0.0 if trust > 0.0 else decay,
        max_norm,
        damping,
    )
    gate_observe(gate, judged, target)
    return expected


def gate_trust(gate: npt.NDArray[np.float64]) -> float:
    """Return the share of the learning rate that feedback has earned, in [0, 1].

    Parameters
    ----------
    gate : ndarray of float64, shape (10,)
        Weight; means of what was expected and of what came; their variances and covariance;
        whether they ever contradicted each other (then there is no trust any more); then the
        rule: the correlation below which there is no trust, the one from which it is full, and
        the number of outcomes over which the gate forgets.
    """
    contracts.check_gate(gate)
    count, contradicted, least, enough, horizon = map(float, gate[[0, 6, 7, 8, 9]])
    if contradicted > 0.0:
        return 0.0
    earned = (_gate_correlation(gate) - least) / (enough - least)
    share: float = np.clip(earned, 0.0, 1.0)
    return float(share * math.sqrt(count / horizon))


def gate_observe(gate: npt.NDArray[np.float64], expected: float, target: float) -> None:
    """Count one outcome and what was expected of it into a gate; see :func:`gate_trust`.

    A correlation that is 3.5 standard errors below zero is a contradiction.
    """
    contracts.check_gate(gate)
    count, mean_e, mean_t, ee, tt, et, _, _, _, horizon = map(float, gate)
    count = float(np.minimum(count + 1.0, horizon))
    take = 1.0 / count
    keep = 1.0 - take
    de, dt = expected - mean_e, target - mean_t
    gate[:6] = (
        count,
        mean_e + take * de,
        mean_t + take * dt,
        keep * (ee + take * de * de),
        keep * (tt + take * dt * dt),
        keep * (et + take * de * dt),
    )
    if _gate_correlation(gate) * math.sqrt(count) < _CONTRADICTION:
        gate[6] = 1.0


def _gate_correlation(gate: npt.NDArray[np.float64]) -> float:
    ee, tt, et = map(float, gate[3:6])
    scale = math.sqrt(ee * tt)
    return et / scale if scale > _FLAT else 0.0


class _Adapted:
    """A query and what an adapter makes of it."""

    def __init__(self, adapter: LowRankAdapter, x: FloatArray) -> None:
        self.adapter, self.x = adapter, x
        self.hidden = adapter.lora_A @ x
        y = adapter.apply(x)
        self.norm = float(np.linalg.norm(y))
        self.unit: FloatArray = y / np.float32(self.norm) if self.norm > 0.0 else np.zeros_like(y)

    def descend(
        self,
        centroids: FloatArray,
        values: FloatArray,
        indices: npt.NDArray[np.int64],
        similarities: FloatArray,
        attention: npt.NDArray[np.float64],
        expected: float,
        target: float,
        temperature: float,
        rate: float,
        decay: float,
        max_norm: float,
        damping: float,
    ) -> None:
        """Move the adapter down the loss of its decision; see :func:`decision_step`."""
        if self.norm == 0.0:
            return
        e = min(max(expected, _EDGE), 1.0 - _EDGE)
        share = attention * (values[indices] - expected)
        if np.abs(share).sum() <= _NOISE:
            return
        pull = (e - target) / (e * (1.0 - e) * temperature) * share
        g = (pull @ centroids[indices] - (pull @ similarities) * self.unit) / self.norm
        if not np.linalg.norm(g) > _NOISE * np.abs(pull).sum() / self.norm:
            return
        adapter, x, hidden = self.adapter, self.x, self.hidden
        scaling = adapter.scaling
        back = _divided(adapter.weights[adapter.rank :], scaling, damping, adapter.lora_B.T @ g)
        hidden = _divided(adapter.lora_A, scaling, damping, hidden)
        length = abs(scaling) * np.sqrt((back @ back) * (x @ x) + (hidden @ hidden) * (g @ g))
        if length > 0.0 and np.isfinite(length):
            step = rate * scaling * min(1.0, float(max_norm / length))
            new_A = (1.0 - decay) * adapter.lora_A - step * np.outer(back, x)
            adapter.lora_B = (1.0 - decay) * adapter.lora_B - step * np.outer(g, hidden)
            adapter.lora_A = new_A


def _divided(
    rows: FloatArray, scaling: float, damping: float, values: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Return (s^2 R R^T + damping)^-1 v for the rows R of a factor."""
    wide = rows.astype(np.float64)
    gram = scaling * scaling * (wide @ wide.T)
    gram[np.diag_indices(len(gram))] += damping
    solved: npt.NDArray[Any] = np.linalg.solve(gram, values.astype(np.float64))
    return solved


def _attend(
    similarities: FloatArray, values: FloatArray, temperature: float
) -> tuple[npt.NDArray[np.float64], float]:
    """Softmax over patterns, and what they expect with it."""
    attention = np.exp((similarities.astype(np.float64) - similarities.max()) / temperature)
    attention /= attention.sum()
    return attention, float(attention @ values.astype(np.float64))


def _in_sight(products: FloatArray, k: int, temperature: float) -> npt.NDArray[np.int64]:
    """The at most `k` patterns that have a say, best first."""
    order = np.argsort(-products, kind="stable")[:k]
    seen = products[order] >= products[order[0]] - _OUT_OF_SIGHT * temperature
    return np.asarray(order[seen], np.int64)
