"""The adapters: identity at first, every rank its own direction, one bounded step per outcome."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sona.errors import DTypeError, NonFiniteError, RangeError, ShapeError
from sona.learning.fitting import fit
from sona.learning.lora import BaseLoRA, MicroLoRA, adapted, composed, random_factors
from sona.learning.signal import Lessons, cross_entropy, decide, unit


@pytest.mark.parametrize(
    "make", [lambda: MicroLoRA(24, 2, seed=1), lambda: BaseLoRA(24, 8, seed=1)]
)
def test_new_adapter_is_the_identity_with_random_directions(make, units) -> None:
    lora, x = make(), units(5, 24, seed=0)
    np.testing.assert_array_equal(lora.apply(x), x)
    assert not lora.lora_B.any()
    assert np.linalg.matrix_rank(lora.lora_A) == lora.rank
    np.testing.assert_array_equal(make().lora_A, lora.lora_A)


def test_weights_can_be_set_and_the_residual_is_included() -> None:
    lora, rng = MicroLoRA(6, 2), np.random.default_rng(0)
    A, B = rng.standard_normal((2, 6)), rng.standard_normal((6, 2))
    lora.lora_A, lora.lora_B, lora.scaling = A, B, 0.5
    x = rng.standard_normal(6)
    np.testing.assert_allclose(lora.apply(x), x + 0.5 * B @ (A @ x), rtol=1e-5)


@pytest.mark.parametrize("rank", [0, 3])
def test_micro_rank_is_one_or_two(rank: int) -> None:
    with pytest.raises(RangeError, match="`rank` must be 1 or 2"):
        MicroLoRA(8, rank)


@pytest.mark.parametrize("kind", [MicroLoRA, BaseLoRA])
@pytest.mark.parametrize("name", ["dim", "rank", "seed"])
@pytest.mark.parametrize("wrong", [True, 1.5, "1", None])
def test_arguments_of_another_type_are_refused_by_name(kind, name: str, wrong: object) -> None:
    with pytest.raises(DTypeError, match=f"`{name}`"):
        kind(**{"dim": 8, "rank": 2, "seed": 0, name: wrong})


def test_one_outcome_teaches(units) -> None:
    C, one_hot = units(4, 16, seed=1), np.eye(4, dtype=np.float32)
    x = unit(C[:1] + C[1:2])[0][0]
    lora = MicroLoRA(16, 2)
    lora.learn(x, C, one_hot[0], 1.0)
    nearer = float(C[0] @ unit(lora.apply(x)[None])[0][0]) - float(C[0] @ x)
    assert nearer > 0
    other = MicroLoRA(16, 2)
    other.learn(x, C, one_hot[0], 0.0)
    assert float(C[0] @ unit(other.apply(x)[None])[0][0]) < float(C[0] @ x)


def test_rank_two_is_not_rank_one_twice(labelled_task) -> None:
    task = labelled_task(seed=3)
    lora = MicroLoRA(task.dim, 2)
    A = lora.lora_A.copy()
    for x, label in zip(task.X, task.y, strict=True):
        chosen = int(np.argmax(task.C @ lora.apply(x)))
        lora.learn(x, task.C, task.values[chosen], float(chosen == label))
    delta = lora.apply(task.X) - task.X
    spectrum = np.linalg.svd(delta, compute_uv=False)
    assert spectrum[1] > 0.05 * spectrum[0]
    assert (np.abs(lora.lora_A - A).max(axis=1) > 1e-3).all()
    assert not np.allclose(lora.lora_B[:, 0], lora.lora_B[:, 1])


def test_micro_lora_improves_decisions_on_unseen_queries(labelled_task) -> None:
    gains = []
    for seed in range(5):
        task = labelled_task(seed)
        lora = MicroLoRA(task.dim, 2, seed)
        for x, label in zip(task.X, task.y, strict=True):
            chosen = int(np.argmax(task.C @ lora.apply(x)))
            lora.learn(x, task.C, task.values[chosen], float(chosen == label))
        gains.append(task.accuracy(lora.apply) - task.accuracy(lambda x: x))
    assert np.mean(gains) > 0.03


def test_patterns_that_expect_the_same_teach_nothing(units) -> None:
    C = units(5, 12, seed=2)
    lora = MicroLoRA(12, 2)
    for target in (0.0, 0.3, 1.0):
        for x in units(20, 12, seed=4):
            lora.learn(x, C, np.full(5, 0.6, np.float32), target)
    assert not lora.lora_B.any()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    target=st.floats(0, 1),
    length=st.sampled_from([1e-6, 1.0, 1e4]),
)
def test_a_step_moves_the_weights_by_at_most_the_rate(
    seed: int, target: float, length: float, units
) -> None:
    C, one_hot = units(6, 10, seed), np.eye(6, dtype=np.float32)
    lora = MicroLoRA(10, 2, seed)
    lora.lora_B = np.random.default_rng(seed).standard_normal((10, 2))
    before = lora.weights.copy()
    lora.learn(
        np.float32(length) * units(1, 10, seed + 1)[0], C, one_hot[seed % 6], target, rate=0.1
    )
    assert np.linalg.norm(lora.weights - before) <= 0.1 * (1 + 1e-3)
    assert np.isfinite(lora.weights).all()


@pytest.mark.parametrize(
    ("x", "target", "error"),
    [
        (np.zeros(7, np.float32), 1.0, ShapeError),
        (np.full(8, np.nan, np.float32), 1.0, NonFiniteError),
        (np.zeros(8, np.int32), 1.0, DTypeError),
        (np.ones(8, np.float32), 7.0, RangeError),
        (np.ones(8, np.float32), float("nan"), (RangeError, NonFiniteError)),
    ],
)
def test_refused_input_changes_nothing(x, target, error, units) -> None:
    lora = MicroLoRA(8, 2)
    lora.lora_B = np.ones((8, 2))
    before = lora.weights.copy()
    with pytest.raises(error):
        lora.learn(x, units(3, 8, 0), np.eye(3, dtype=np.float32)[0], target)
    np.testing.assert_array_equal(lora.weights, before)


def test_zero_vector_is_valid_and_teaches_nothing(units) -> None:
    lora = MicroLoRA(8, 2)
    lora.learn(np.zeros(8, np.float32), units(3, 8, 0), np.eye(3, dtype=np.float32)[0], 1.0)
    assert not lora.lora_B.any()


def _lessons(task, n: int) -> Lessons:
    chosen = np.argmax(task.X[:n] @ task.C.T, axis=1)
    return Lessons(task.X[:n], task.values, chosen, (chosen == task.y[:n]).astype(np.float32))


def test_fit_lowers_the_loss_and_improves_unseen_decisions(labelled_task) -> None:
    task = labelled_task(seed=0)
    lessons = _lessons(task, 1_500)
    start = random_factors(task.dim, 8, 0)
    A, B = fit(start, lessons, task.C, 0.003, np.random.default_rng(0))
    assert not start[1].any()

    def loss(X: np.ndarray) -> float:
        expected = decide(unit(X)[0], task.C, task.values[lessons.rows])[1]
        return float(cross_entropy(expected, lessons.targets).mean())

    def apply(X: np.ndarray) -> np.ndarray:
        return X + (X @ A.T) @ B.T

    assert loss(apply(task.X[:1_500])) < loss(task.X[:1_500])
    assert task.accuracy(apply) > task.accuracy(lambda x: x) + 0.05


def test_fit_is_reproducible_and_survives_few_lessons(labelled_task) -> None:
    task = labelled_task(seed=1)
    for n in (1, 2, 65):
        first, second = (
            fit(
                random_factors(task.dim, 4, 0),
                _lessons(task, n),
                task.C,
                0.003,
                np.random.default_rng(5),
            )
            for _ in range(2)
        )
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.isfinite(a).all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), rank=st.integers(1, 5), above=st.integers(1, 3))
def test_two_adapters_compose_to_one(seed: int, rank: int, above: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (
        tuple(rng.standard_normal((2, n, 12)).astype(np.float32) / 4) for n in (rank, above)
    )
    (A, B), (C, D) = first, second
    x = rng.standard_normal((6, 12)).astype(np.float32)
    whole = adapted(composed((A, B.T), (C, D.T)), x)
    np.testing.assert_allclose(whole, adapted((C, D.T), adapted((A, B.T), x)), atol=1e-4)
    np.testing.assert_array_equal(adapted(composed((A, B.T), None), x), adapted((A, B.T), x))


def test_an_adapter_beneath_another_learns_what_is_left(labelled_task) -> None:
    task = labelled_task(0)
    chosen = np.argmax(task.X @ task.C.T, axis=1)
    lessons = Lessons(task.X, task.values, chosen, (chosen == task.y).astype(np.float32))
    rng = np.random.default_rng(0)
    above = fit(random_factors(task.dim, 1, 0), lessons, task.C, 0.003, rng)
    below = fit(random_factors(task.dim, 2, 1), lessons, task.C, 0.003, rng, above=above)
    alone = task.accuracy(lambda x: adapted(above, x))
    both = task.accuracy(lambda x: adapted(above, adapted(below, x)))
    assert alone > task.accuracy(lambda x: x)
    assert both > alone
