"""The learning signal: a true gradient, a running baseline, trust that is earned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sona.errors import NonFiniteError, RangeError, ShapeError
from sona.learning.signal import (
    Lessons,
    TrustGate,
    correlation,
    cross_entropy,
    decide,
    pattern_prior,
    query_gradient,
    temperature_of,
    unit,
)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), target=st.sampled_from([0.0, 0.4, 1.0]))
def test_gradient_is_that_of_the_loss(seed: int, target: float) -> None:
    rng = np.random.default_rng(seed)
    C = unit(rng.standard_normal((5, 7)).astype(np.float32))[0]
    values = rng.uniform(0.2, 0.8, (1, 5)).astype(np.float32)
    y = rng.standard_normal((1, 7)).astype(np.float32)
    bias = rng.standard_normal(5).astype(np.float32)

    def loss(y: np.ndarray) -> float:
        u = y / np.linalg.norm(y)
        logits = (C.astype(np.float64) @ u[0]) / temperature_of(C) + bias
        a = np.exp(logits - logits.max())
        e = float((a / a.sum()) @ values[0])
        return -(target * np.log(e) + (1 - target) * np.log(1 - e))

    units, norms = unit(y)
    got = query_gradient(units, norms, C, values, np.array([target], np.float32), bias)[0]
    wide, step = y.astype(np.float64), 1e-5
    wanted = [
        (loss(wide + step * d) - loss(wide - step * d)) / (2 * step) for d in np.eye(7)[:, None]
    ]
    np.testing.assert_allclose(got, wanted, rtol=2e-2, atol=2e-3 * np.abs(wanted).max() + 1e-5)
    assert abs(float(got @ y[0])) <= 1e-4 * (1 + np.linalg.norm(got) * np.linalg.norm(y))


def test_constant_expectation_gives_no_gradient(units) -> None:
    u, C = units(9, 16, 0), units(4, 16, 1)
    values = np.full((9, 4), 0.7, np.float32)
    g = query_gradient(u, np.ones((9, 1), np.float32), C, values, np.ones(9, np.float32))
    assert np.abs(g).max() < 1e-4


def test_zero_query_has_zero_gradient(units) -> None:
    zero = np.zeros((1, 16), np.float32)
    values = np.eye(4, dtype=np.float32)[:1]
    g = query_gradient(*unit(zero), units(4, 16, 1), values, np.ones(1, np.float32))
    assert not g.any()


def test_expectation_is_the_attention_weighted_value(units) -> None:
    C = units(6, 32, 3)
    attention, expected = decide(C, C, np.tile(np.linspace(0, 1, 6, dtype=np.float32), (6, 1)))
    np.testing.assert_allclose(attention.sum(axis=1), 1.0, rtol=1e-5)
    assert (np.argmax(attention, axis=1) == np.arange(6)).all()
    assert (np.diff(expected) > 0).all()
    assert (cross_entropy(expected, np.zeros(6, np.float32)) >= 0).all()


def test_pattern_prior_is_the_share_of_each_pattern(units) -> None:
    C = units(3, 64, 0)
    X, one_hot = np.repeat(C, [80, 15, 5], axis=0), np.eye(3, dtype=np.float32)
    rows = np.repeat([0, 1, 2], [80, 15, 5])
    prior = pattern_prior(X, C, Lessons(X, one_hot, rows, np.ones(100, np.float32)))
    np.testing.assert_allclose(np.exp(prior), np.array([81, 16, 6]) / 103, atol=0.02)


@pytest.mark.parametrize(
    ("change", "error", "name"),
    [
        ({"rows": np.array([0, 5])}, RangeError, "rows"),
        ({"rows": np.array([0])}, ShapeError, "rows"),
        ({"targets": np.array([0.0, 7.0])}, RangeError, "targets"),
        ({"targets": np.array([0.0, np.nan])}, NonFiniteError, "targets"),
        ({"values": np.full((2, 3), -0.1)}, RangeError, "values"),
        ({"inputs": np.full((2, 4), np.inf)}, NonFiniteError, "inputs"),
    ],
)
def test_lessons_refuse_what_does_not_fit(change, error, name) -> None:
    good = {
        "inputs": np.ones((2, 4)),
        "values": np.full((2, 3), 0.5),
        "rows": np.array([0, 1]),
        "targets": np.array([0.0, 1.0]),
    }
    Lessons(**good)
    with pytest.raises(error, match=f"`{name}`"):
        Lessons(**{**good, **change})


def test_correlation_is_pearsons_and_zero_for_constants() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 50)).astype(np.float32)
    assert correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)
    assert correlation(x, np.full(50, 0.7, np.float32)) == 0.0


def _watch(gate: TrustGate, outcome, n: int = 400) -> TrustGate:
    rng = np.random.default_rng(1)
    for _ in range(n):
        expected = float(rng.random())
        gate.observe(expected, outcome(expected, rng))
    return gate


def test_gate_trusts_honest_feedback_only() -> None:
    assert TrustGate().trust > 0, "the first outcome teaches"
    assert _watch(TrustGate(), lambda e, rng: float(rng.random() < e)).trust == 1.0
    for outcome in (
        lambda e, rng: float(rng.random() < 0.5),
        lambda e, rng: float(rng.random() >= e),
        lambda e, rng: 1.0,
        lambda e, rng: 0.0,
    ):
        assert _watch(TrustGate(), outcome).trust == 0.0


def test_gate_closes_when_feedback_says_nothing_and_opens_again() -> None:
    gate = _watch(TrustGate(), lambda e, rng: float(rng.random() < e))
    assert _watch(gate, lambda e, rng: float(rng.random() < 0.5), 600).trust == 0.0
    assert not gate.contradicted
    assert _watch(gate, lambda e, rng: float(rng.random() < e), 600).trust > 0.5


def test_gate_does_not_believe_again_what_said_the_opposite() -> None:
    gate = _watch(TrustGate(), lambda e, rng: float(rng.random() < e))
    _watch(gate, lambda e, rng: float(rng.random() >= e), 300)
    assert gate.contradicted
    # By now the bank may have come to expect the lies.
    assert _watch(gate, lambda e, rng: float(rng.random() < e), 2_000).trust == 0.0


def test_gate_state_can_be_set_and_is_checked() -> None:
    gate = _watch(TrustGate(), lambda e, rng: float(rng.random() < e))
    other = TrustGate()
    other.moments = gate.moments
    assert other.trust == gate.trust
    before = other.moments
    with pytest.raises(ShapeError):
        other.moments = (1.0, 2.0)
    with pytest.raises(NonFiniteError):
        other.moments = (20.0, 0.5, 0.5, float("nan"), 0.1, 0.0, 0.0)
    assert other.moments == before
