"""Learning in a narrow cone: what every embedding shares must not drown what tells them apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sona.learning.adaptation import Adaptation
from sona.learning.cone import LEAST_SPREAD, spread_of
from sona.learning.signal import decide


def test_spread_is_the_mean_distance_of_pairs(units) -> None:
    C = units(9, 24, 0)
    pairs = [1.0 - float(C[i] @ C[j]) for i in range(9) for j in range(i)]
    assert spread_of(C) == pytest.approx(np.mean(pairs), abs=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_patterns_that_are_few_or_equal(n: int) -> None:
    same = np.zeros((n, 8), np.float32)
    same[:, 3] = 1.0
    assert spread_of(same) == (1.0 if n < 2 else LEAST_SPREAD)


@given(offset=st.floats(0.0, 4.0), seed=st.integers(0, 1_000))
@settings(max_examples=50, deadline=None)
def test_what_all_share_changes_no_expectation(offset: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((12, 16))
    rows[:, -1] = 0.0
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    values = rng.uniform(0.0, 1.0, 8).astype(np.float32)
    told, learned = [], []
    for shared in (0.0, offset):
        moved = rows.copy()
        moved[:, -1] = shared
        moved = (moved / np.sqrt(1.0 + shared**2)).astype(np.float32)
        C, X = moved[:8], moved[8:]
        told.append(decide(X, C, np.tile(values, (4, 1)))[1])
        learned.append(Adaptation(16, micro_rate=0.0).learn(X[0], C, values, 1.0))
    np.testing.assert_allclose(told[0], told[1], atol=2e-4)
    assert learned[0] == pytest.approx(learned[1], abs=2e-4)
