"""Two tiers together: better than either, safe against any feedback, saved and restored whole."""

from __future__ import annotations

import numpy as np
import pytest

from sona.errors import FormatError
from sona.learning.adaptation import Adaptation
from sona.learning.signal import Lessons


def _stream(a: Adaptation, task, n: int, tick: int, reward=None) -> None:
    """Feed right / wrong of the chosen pattern, with a consolidation every `tick` outcomes."""
    rng, start, remembered = np.random.default_rng(0), 0, None
    chosen, hits = np.zeros(n, np.int64), np.zeros(n, np.float32)
    for t in range(n):
        x, label = task.X[t], task.y[t]
        chosen[t] = np.argmax(task.C @ a.apply(x))
        hit = float(chosen[t] == label)
        hits[t] = hit if reward is None else reward(hit, rng)
        a.learn(x, task.C, task.values[chosen[t]], hits[t])
        if tick and (t + 1) % tick == 0:
            new = slice(start, t + 1)
            fresh = Lessons(task.X[new], task.values, chosen[new], hits[new])
            a.consolidate(fresh, task.C, remembered=remembered)
            remembered = fresh if remembered is None else remembered.joined(fresh)
            start = t + 1


def _frozen_lessons(task, n: int) -> Lessons:
    chosen = np.argmax(task.X[:n] @ task.C.T, axis=1)
    hits = (chosen == task.y[:n]).astype(np.float32)
    return Lessons(task.X[:n], task.values, chosen, hits)


def _gain(task, a: Adaptation) -> float:
    return task.accuracy(a.apply) - task.accuracy(lambda x: x)


def test_both_tiers_beat_either_alone_on_unseen_queries(labelled_task) -> None:
    rates = {"both": (0.1, 0.003), "micro": (0.1, 0.0), "base": (0.0, 0.003), "none": (0.0, 0.0)}
    gains: dict[str, list[float]] = {name: [] for name in rates}
    for seed in range(3):
        task = labelled_task(seed, labels=24, n=2_000, conflict=0.3)
        for name, (micro, base) in rates.items():
            a = Adaptation(task.dim, 2, 2, micro, base, seed=seed)
            _stream(a, task, 2_000, tick=500)
            gains[name].append(_gain(task, a))
    mean = {name: float(np.mean(values)) for name, values in gains.items()}
    assert mean["none"] == 0.0
    assert min(mean["micro"], mean["base"]) > 0.02
    assert mean["both"] > max(mean["micro"], mean["base"]) + 0.01


def test_each_tier_of_one_engine_helps_alone_and_both_help_more(labelled_task) -> None:
    gains = np.zeros(3)
    for seed in range(3):
        task = labelled_task(seed, labels=24, n=1_500, conflict=0.3)
        a = Adaptation(task.dim, 2, 8, seed=seed)
        _stream(a, task, 1_500, tick=500)
        frozen = task.accuracy(lambda x: x)
        each = [task.accuracy(apply) for apply in (a.micro.apply, a.base(0).apply, a.apply)]
        gains += (np.array(each) - frozen) / 3
    assert gains.min() > 0.02
    assert gains[2] > gains[:2].max()


def test_the_first_outcomes_do_no_harm(labelled_task) -> None:
    for seed in range(4):
        task = labelled_task(seed, labels=24)
        for n in (50, 150, 400):
            a = Adaptation(task.dim, seed=seed)
            _stream(a, task, n, tick=0)
            assert _gain(task, a) >= -0.01, (seed, n)


def test_one_outcome_moves_less_once_a_fit_has_set_the_weights(labelled_task) -> None:
    task = labelled_task(0)
    a = Adaptation(task.dim, micro_rate=0.1)
    _stream(a, task, 600, tick=600)
    a.gate.moments = (200.0, 0.5, 0.5, 0.2, 0.2, 0.2, 0.0)  # feedback is trusted fully
    moved = []
    for x, label in zip(task.X[:10], task.y[:10], strict=True):
        before = a.micro.lora_A.copy(), a.micro.lora_B.copy()
        a.learn(x, task.C, task.values[label], 0.0)  # a surprise: as long a step as there is
        after = a.micro.lora_A, a.micro.lora_B
        moved.append(np.hypot(*map(np.linalg.norm, map(np.subtract, after, before))))
    # 600 of the first 2,000 outcomes have come: by themselves they would allow 0.055.
    assert 0.0 < max(moved) < 0.5 * 0.055


def test_base_lora_output_changes_and_the_record_says_so(labelled_task) -> None:
    task = labelled_task(0)
    fresh = _frozen_lessons(task, 400)
    a = Adaptation(task.dim)
    done = a.consolidate(fresh, task.C)
    assert done.updated
    assert done.ewc_updated
    assert done.loss_after < done.loss_before
    assert np.abs(a.base(0).apply(task.X) - task.X).max() > 1e-3


def test_a_layer_learns_from_its_own_lessons_only(labelled_task) -> None:
    task = labelled_task(1)
    fresh = _frozen_lessons(task, 400)
    a = Adaptation(task.dim)
    assert a.consolidate(fresh, task.C, layer="mlp.3").updated
    assert task.accuracy(a.base("mlp.3").apply) > task.accuracy(lambda x: x)
    np.testing.assert_array_equal(a.apply(task.X), task.X)
    assert a.layers == [0, "mlp.3"]


@pytest.mark.parametrize("n", [1, 3, 10])
def test_learning_from_few_learns(labelled_task, n: int) -> None:
    task = labelled_task(2)
    a = Adaptation(task.dim)
    done = a.consolidate(_frozen_lessons(task, n), task.C)
    assert done.updated == bool(a.base(0).lora_B.any())
    assert done.updated or not done.trusted


@pytest.mark.parametrize(
    ("name", "reward"),
    [
        ("noise", lambda hit, rng: float(rng.random() < 0.5)),
        ("uniform", lambda hit, rng: float(rng.random())),
        ("always right", lambda hit, rng: 1.0),
        ("always wrong", lambda hit, rng: 0.0),
        ("inverted", lambda hit, rng: 1.0 - hit),
    ],
)
def test_worthless_feedback_leaves_frozen_decisions(labelled_task, name, reward) -> None:
    task = labelled_task(3)
    a = Adaptation(task.dim, 2, 8, seed=3)
    _stream(a, task, 3_000, tick=1_000, reward=reward)
    assert abs(_gain(task, a)) <= 0.01, name
    assert np.isfinite(a.micro.weights).all()
    assert np.abs(a.micro.weights).max() < 10


def test_honest_feedback_that_turns_hostile_costs_no_more_than_what_was_gained(
    labelled_task,
) -> None:
    task = labelled_task(0)
    a = Adaptation(task.dim, 2, 8, seed=0)
    _stream(a, task, 1_500, tick=500)
    gained = _gain(task, a)
    _stream(a, task, 3_000, tick=1_000, reward=lambda hit, rng: 1.0 - hit)
    assert gained > 0.05
    assert _gain(task, a) >= -0.005


def test_small_fits_do_no_harm(labelled_task) -> None:
    for seed in range(6):
        for n in (10, 40, 120):
            task = labelled_task(seed, labels=24)
            a = Adaptation(task.dim, seed=seed)
            a.consolidate(_frozen_lessons(task, n), task.C)
            assert _gain(task, a) >= -0.015, (seed, n)


def test_same_seed_and_order_give_the_same_bits(labelled_task) -> None:
    task = labelled_task(5)
    first, second = Adaptation(task.dim, seed=9), Adaptation(task.dim, seed=9)
    for a in (first, second):
        _stream(a, task, 400, tick=200)
    for name, array in first.arrays().items():
        np.testing.assert_array_equal(array, second.arrays()[name])


def test_state_goes_out_and_comes_back_whole(labelled_task) -> None:
    task = labelled_task(6)
    a = Adaptation(task.dim, seed=1)
    _stream(a, task, 400, tick=200)
    a.base("layer/with:signs")
    b = Adaptation(task.dim, seed=1)
    b.restore(a.arrays())
    for each in (a, b):
        _stream(each, task, 200, tick=100)
    np.testing.assert_array_equal(a.apply(task.X), b.apply(task.X))
    assert set(a.layers) == set(b.layers)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(labelled_task) -> None:
    task = labelled_task(6)
    a = Adaptation(task.dim)
    _stream(a, task, 200, tick=100)
    before = a.apply(task.X)
    missing = a.arrays()
    del missing["int:0/B"]
    wrong = {**a.arrays(), "micro/A": np.zeros((2, task.dim + 1), np.float32)}
    poisoned = {**a.arrays(), "micro/B": np.full((task.dim, 2), np.nan, np.float32)}
    for state in (missing, wrong, poisoned, {}):
        with pytest.raises(FormatError):
            a.restore(state)
        np.testing.assert_array_equal(a.apply(task.X), before)
