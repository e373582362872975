"""EWC++: a true penalty, boundaries found unasked, the first task survives the second."""

from __future__ import annotations

import numpy as np
import pytest

from sona.errors import ConfigError, FormatError, RangeError
from sona.learning.adaptation import Adaptation
from sona.learning.ewc import OnlineEWC
from sona.learning.lora import random_factors
from sona.learning.signal import Lessons


def _learned(
    units, strength: float = 1.5, tasks: int = 1
) -> tuple[OnlineEWC, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    ewc, A, B = OnlineEWC(16, strength), *random_factors(16, 3, 1)
    B = B + rng.standard_normal(B.shape).astype(np.float32)
    for t in range(tasks):
        x = units(60, 16, t) + 3 * units(1, 16, 100 + t)
        u = x / np.linalg.norm(x, axis=1, keepdims=True)
        ewc.learned(A, B, u, x, units(60, 16, 50 + t))
    return ewc, A, B


def test_penalty_is_zero_at_the_anchor_and_its_gradient_is_true(units) -> None:
    ewc, A, B = _learned(units, tasks=2)
    assert ewc.penalty(A, B) == pytest.approx(0.0, abs=1e-6)
    rng = np.random.default_rng(4)
    A = A + 0.1 * rng.standard_normal(A.shape).astype(np.float32)
    B = B + 0.1 * rng.standard_normal(B.shape).astype(np.float32)
    gA, gB = ewc.gradient(A, B)
    dA = rng.standard_normal(A.shape).astype(np.float32)
    dB = rng.standard_normal(B.shape).astype(np.float32)
    step = np.float32(1e-3)
    slope = (
        ewc.penalty(A + step * dA, B + step * dB) - ewc.penalty(A - step * dA, B - step * dB)
    ) / (2e-3)
    assert slope == pytest.approx(float((gA * dA).sum() + (gB * dB).sum()), rel=2e-2)


def test_penalty_is_the_gauss_newton_change_of_the_loss(units) -> None:
    x, g = units(200, 16, 0), units(200, 16, 1)
    A, B = random_factors(16, 2, 0)
    ewc = OnlineEWC(16, 1.0)
    ewc.learned(A, B, x, x, g)

    B2 = B.copy()
    A2 = A.copy()
    A2[0], B2[:, 0] = units(1, 16, 8)[0], units(1, 16, 7)[0]

    moved = 0.5 * np.mean((g @ units(1, 16, 7)[0]) ** 2) * np.sum((x @ units(1, 16, 8)[0]) ** 2)
    assert ewc.penalty(A2, B2) == pytest.approx(moved, rel=1e-3)


def test_strength_scales_and_zero_switches_off(units) -> None:
    weak, A, B = _learned(units, 1.0)
    strong, off = _learned(units, 3.0)[0], _learned(units, 0.0)[0]
    B = B + np.float32(0.1)
    assert strong.penalty(A, B) == pytest.approx(3 * weak.penalty(A, B), rel=1e-5)
    assert off.penalty(A, B) == 0.0
    assert not off.is_active
    assert not off.gradient(A, B)[0].any()


def test_stream_is_cut_where_it_changes_and_nowhere_else(units) -> None:
    def domain(seed: int, n: int) -> np.ndarray:
        x = 0.8 * units(1, 48, 1000 + seed) + units(n, 48, seed)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    ewc = OnlineEWC(48)
    for seed in range(5):
        assert len(ewc.split(domain(seed, 700))) == 1
    stream = np.concatenate([domain(1, 300), domain(2, 400), domain(3, 300)])
    cuts = ewc.split(stream)
    assert len(cuts) == 3
    assert [cuts[0].start, cuts[-1].stop] == [0, 1000]
    assert abs(cuts[1].start - 300) <= 48
    assert abs(cuts[2].start - 700) <= 48


def test_same_inputs_continue_the_task_and_new_ones_begin_another(units) -> None:
    ewc, A, B = OnlineEWC(16), *random_factors(16, 2, 0)

    def domain(seed: int, noise: int) -> np.ndarray:
        x = units(1, 16, seed) + 0.5 * units(100, 16, noise)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    for noise in (1, 2, 3):
        ewc.learned(A, B, domain(1, noise), domain(1, noise), units(100, 16, 9))
    assert ewc.boundaries == 0
    ewc.learned(A, B, domain(2, 4), domain(2, 4), units(100, 16, 9))
    assert ewc.boundaries == 1


def test_memory_is_bounded_over_many_tasks(units) -> None:
    few, many = _learned(units, tasks=12)[0], _learned(units, tasks=40)[0]

    def size(ewc: OnlineEWC) -> int:
        return sum(array.size for array in ewc.arrays().values())

    assert size(many) <= size(few) * 1.5
    assert many.boundaries == 39


def test_state_goes_out_and_comes_back(units) -> None:
    ewc, A, B = _learned(units, tasks=3)
    other = OnlineEWC(16, 1.5)
    other.restore(ewc.arrays())
    B = B + np.float32(0.2)
    assert other.penalty(A, B) == ewc.penalty(A, B)
    assert other.boundaries == ewc.boundaries
    broken = ewc.arrays()
    del broken["task1_inputs"]
    with pytest.raises(FormatError, match="task1_inputs"):
        OnlineEWC(16).restore(broken)
    with pytest.raises(FormatError):
        OnlineEWC(17).restore(ewc.arrays())


@pytest.mark.parametrize("strength", [-1.0, float("nan")])
def test_strength_is_checked(strength: float) -> None:
    with pytest.raises((RangeError, ConfigError, ValueError), match="`strength`"):
        OnlineEWC(4, strength)


def test_protection_changes_what_a_second_task_does_to_the_first(labelled_task) -> None:
    """Two halves of the labels arrive one after the other; the second may not cost the first."""
    kept: dict[float, list[float]] = {0.0: [], 1.0: []}
    second: dict[float, list[float]] = {0.0: [], 1.0: []}
    for seed in range(4):
        task = labelled_task(seed, nuisance=3.0, conflict=0.5)
        for strength in kept:
            a = Adaptation(task.dim, 2, 8, 0.0, ewc_lambda=strength, seed=seed)
            for domain in (task.y < 6, task.y >= 6):
                X, y = task.X[domain][:700], task.y[domain][:700]
                chosen = np.argmax(a.apply(X) @ task.C.T, axis=1)
                hit = (chosen == y).astype(np.float32)
                a.consolidate(Lessons(X, task.values, chosen, hit), task.C)
            right = np.argmax(a.apply(task.X_test) @ task.C.T, axis=1) == task.y_test
            kept[strength].append(float(right[task.y_test < 6].mean()))
            second[strength].append(float(right[task.y_test >= 6].mean()))
    assert np.mean(kept[1.0]) > np.mean(kept[0.0]) + 0.01
    assert np.mean(second[1.0]) > np.mean(second[0.0]) - 0.05
