"""States with a right checksum that nobody saved: refused on reading, or harmless in use."""

import numpy as np
import pytest

from sona import SonaConfig, SonaEngine, Trajectory
from sona.errors import FormatError
from sona.state import EngineState
from sona.types import Step

DIM = 4
CONFIG = SonaConfig(
    hidden_dim=DIM, base_lora_rank=2, pattern_clusters=4, trajectory_capacity=20, seed=3
)


def feed(engine, n, seed):
    rng = np.random.default_rng(seed)
    for i in range(n):
        x = (np.eye(DIM)[i % 3] + 0.3 * rng.standard_normal(DIM)).astype(np.float32)
        steps = (Step(x[::-1].copy(), float(i % 2), "mid"),) if i % 4 == 0 else ()
        engine.submit_trajectory(
            Trajectory(x, float((i + i // 3) % 2), f"r{i // 3 % 3}", steps=steps)
        )


@pytest.fixture(scope="module")
def saved():
    engine = SonaEngine(CONFIG)
    for seed in range(2):
        feed(engine, 18, seed)  # more than it remembers
        engine.force_learn()
    feed(engine, 7, 2)
    return EngineState.from_bytes(engine.to_bytes())


def use(engine):
    """Everything that a user may do; no answer may be a NaN."""
    for x in np.eye(DIM, dtype=np.float32)[:2]:
        choice = engine.route(
            x, ["r0", "r1", "new"], {"r0": 1, "r1": 1, "new": 1}, 0.1, explore=True
        )
        assert np.isfinite([*choice.expected.values(), *choice.uncertainty.values()]).all()
        assert np.isfinite([pattern.similarity for pattern in engine.find_patterns(x)]).all()
        assert np.isfinite(engine.apply_micro_lora(x)).all()
        assert np.isfinite(engine.apply_base_lora("mid", x)).all()
    feed(engine, 12, 4)
    engine.force_learn()
    again = SonaEngine.from_bytes(engine.to_bytes())
    assert np.isfinite(list(again.route(np.ones(DIM)).expected.values())).all()


def mutations(array):
    """Versions of an array: other numbers, other types, other shapes."""
    whole = array.dtype.kind in "iu"
    numbers = [0, 1, 3, 100] if whole else [0.0, 1.0, -1.0, 1e9, 1e30, 1e-30, np.nan, np.inf]
    if array.dtype.kind == "i":
        numbers += [-1, -7, 2**40, 2**62, -(2**63)]
    for number in numbers:
        with np.errstate(over="ignore"):
            yield np.full_like(array, number)
            if array.size > 1:
                one = array.copy()
                one.flat[len(one.flat) // 2] = number
                yield one
    yield array[:0]
    yield array[:-1]
    yield np.concatenate([array, array])
    yield array[None]
    yield array.reshape(-1)
    yield array.astype(np.int32 if array.dtype == np.int64 else np.int64)
    yield array[::-1].copy()
    if not whole:
        yield -array
        yield 2 * array
        yield array.astype(np.float16)


def test_what_is_saved_is_used_as_it_was(saved):
    use(SonaEngine.from_bytes(saved.to_bytes()))


def test_every_forged_tensor_is_refused_or_harmless(saved):
    refused = 0
    for number, (name, array) in enumerate(saved.tensors.items()):
        # A fifth of them, another one of every tensor: all take half a minute, and did pass.
        for forged in list(mutations(array))[number % 5 :: 5]:
            state = EngineState(saved.config, saved.parts, {**saved.tensors, name: forged})
            try:
                engine = SonaEngine.from_bytes(state.to_bytes())
            except FormatError:
                refused += 1
                continue
            try:
                use(engine)
            except BaseException as error:
                raise AssertionError(f"{name} as {forged!r}: {error!r}") from error
    assert refused > 2 * len(saved.tensors)


def test_a_missing_tensor_is_refused(saved):
    for name in saved.tensors:
        if "/model." in name or "ewc/" in name:
            continue
        tensors = {key: array for key, array in saved.tensors.items() if key != name}
        state = EngineState(saved.config, saved.parts, tensors)
        with pytest.raises(FormatError):
            raise AssertionError(name, SonaEngine.from_bytes(state.to_bytes()))
