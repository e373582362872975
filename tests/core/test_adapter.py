"""LowRankAdapter on every backend, against float64."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sona.errors import DTypeError, NonFiniteError, RangeError, ShapeError

RANKS = [1, 2, 3, 4, 5, 8, 11, 16, 70]


def make(backend: ModuleType, dim: int, rank: int, rng: np.random.Generator) -> Any:
    adapter = backend.LowRankAdapter(dim, rank, 0.7)
    adapter.lora_A = rng.standard_normal((rank, dim)) / np.sqrt(dim)
    adapter.lora_B = rng.standard_normal((dim, rank)) / np.sqrt(rank)
    return adapter


def oracle(adapter: Any, x: Any) -> Any:
    x = np.asarray(x, dtype=np.float64)
    hidden = x @ adapter.lora_A.T.astype(np.float64)
    return x + adapter.scaling * hidden @ adapter.lora_B.T.astype(np.float64)


@pytest.mark.parametrize("rank", RANKS)
def test_apply_is_the_formula(
    backend: ModuleType, dim: int, rank: int, rng: np.random.Generator
) -> None:
    adapter = make(backend, dim, rank, rng)
    for shape in [(dim,), (1, dim), (5, dim), (0, dim)]:
        x = rng.standard_normal(shape).astype(np.float32)
        y = adapter.apply(x)
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, oracle(adapter, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 64, 200])
def test_a_batch_is_its_rows(backend: ModuleType, n: int, rng: np.random.Generator) -> None:
    for dim in (9, 64, 384):
        for rank in (1, 2, 3, 8):
            adapter = make(backend, dim, rank, rng)
            x = rng.standard_normal((n, dim)).astype(np.float32)
            rows = np.stack([adapter.apply(row) for row in x])
            np.testing.assert_allclose(adapter.apply(x), rows, rtol=1e-5, atol=1e-5)


def test_in_place_and_out_of_place_agree_bit_for_bit(
    backend: ModuleType, dim: int, rng: np.random.Generator
) -> None:
    adapter = make(backend, dim, 2, rng)
    for shape in [(dim,), (7, dim)]:
        x = rng.standard_normal(shape).astype(np.float32)
        expected = adapter.apply(x)
        out = np.empty_like(x)
        assert adapter.apply(x, out) is out
        np.testing.assert_array_equal(out, expected)
        assert adapter.apply(x, out=x) is x
        np.testing.assert_array_equal(x, expected)


def test_out_may_overlap_x(backend: ModuleType, rng: np.random.Generator) -> None:
    adapter = make(backend, 40, 2, rng)
    memory = rng.standard_normal(60).astype(np.float32)
    expected = adapter.apply(memory[:40].copy())
    np.testing.assert_array_equal(adapter.apply(memory[:40], memory[3:43]), expected)


def test_inputs_of_every_kind(backend: ModuleType, dim: int, rng: np.random.Generator) -> None:
    adapter = make(backend, dim, 3, rng)
    wide = rng.standard_normal((4, 2 * dim))
    narrow = wide.astype(np.float32)
    raw = np.zeros(4 * dim * 4 + 1, dtype=np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(4, dim)
    unaligned[:] = narrow[:, :dim]
    frozen = narrow[:, :dim].copy()
    frozen.flags.writeable = False
    expected = oracle(adapter, narrow[:, :dim])
    for x in (narrow[:, :dim], unaligned, frozen, wide[:, :dim], wide[:, :dim].tolist()):
        np.testing.assert_allclose(adapter.apply(x), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(adapter.apply(x[1]), expected[1], rtol=1e-5, atol=1e-5)
    strided = narrow[:, ::2][:, :dim]
    np.testing.assert_allclose(adapter.apply(strided), oracle(adapter, strided), atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-30, 1e18])
def test_extreme_magnitudes(
    backend: ModuleType, dim: int, scale: float, rng: np.random.Generator
) -> None:
    adapter = make(backend, dim, 2, rng)
    x = (rng.standard_normal(dim) * scale).astype(np.float32)
    np.testing.assert_allclose(
        adapter.apply(x), oracle(adapter, x), rtol=1e-4, atol=1e-5 * scale + 1e-44
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused(backend: ModuleType, dim: int, bad: float) -> None:
    adapter = backend.LowRankAdapter(dim, 2)  # weights all zero: inf * 0 must not slip through
    for place in {0, dim // 2, dim - 1}:
        x = np.ones(dim, dtype=np.float32)
        x[place] = bad
        out = np.full(dim, 7.0, dtype=np.float32)
        with pytest.raises(NonFiniteError, match="`x`"):
            adapter.apply(x, out)
        assert (out == 7.0).all()
        with pytest.raises(NonFiniteError, match=r"`x`.*\[1, "):
            adapter.apply(np.stack([np.ones(dim, dtype=np.float32), x]))


@pytest.mark.parametrize("rank", [1, 2, 3, 8])
@pytest.mark.parametrize("row", [0, 3, 4, 8])
def test_a_refused_batch_is_left_as_it_was(
    backend: ModuleType, rank: int, row: int, rng: np.random.Generator
) -> None:
    adapter = make(backend, 40, rank, rng)
    x = rng.standard_normal((9, 40)).astype(np.float32)
    x[row, 17] = np.inf
    for out in (np.zeros_like(x), x):
        before = out.copy()
        with pytest.raises(NonFiniteError, match=rf"\[{row}, 17\]"):
            adapter.apply(x, out)
        np.testing.assert_array_equal(out, before)
    x[row, 17] = 1.0
    adapter.weights[:rank] = 3e38
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(adapter.apply(x), adapter.apply(x, np.empty_like(x)))


def test_finite_numbers_may_overflow_inside(backend: ModuleType) -> None:
    adapter = backend.LowRankAdapter(4, 1)
    adapter.weights[:] = 1e20
    with np.errstate(over="ignore"):
        assert np.isinf(adapter.apply(np.full(4, 1e20, dtype=np.float32))).all()


def test_refusals_name_both_sides(backend: ModuleType) -> None:
    adapter = backend.LowRankAdapter(4, 2)
    x = np.ones(4, dtype=np.float32)
    with pytest.raises(ShapeError, match=r"`x` must have shape \(4,\); got \(3,\)"):
        adapter.apply(x[:3])
    with pytest.raises(ShapeError, match=r"`x` must have shape \(n, 4\); got \(2, 3\)"):
        adapter.apply(np.ones((2, 3), dtype=np.float32))
    with pytest.raises(ShapeError):
        adapter.apply(np.ones((1, 1, 4), dtype=np.float32))
    for wrong in (np.ones(4, dtype=np.int64), np.ones(4, dtype=np.float16), ["a"] * 4, None):
        with pytest.raises(DTypeError, match="`x`"):
            adapter.apply(wrong)
    frozen = x.copy()
    frozen.flags.writeable = False
    for out in (x.astype(np.float64), frozen, [0.0] * 4):
        with pytest.raises(DTypeError, match="`out`"):
            adapter.apply(x, out)
    for out in (np.ones(5, dtype=np.float32), np.ones((1, 4), dtype=np.float32)):
        with pytest.raises(ShapeError, match="`out`"):
            adapter.apply(x, out)
    with pytest.raises(ShapeError, match="`out`"):
        adapter.apply(x, np.ones(8, dtype=np.float32)[::2])


def test_factors_are_live_views(backend: ModuleType, rng: np.random.Generator) -> None:
    adapter = make(backend, 6, 2, rng)
    assert adapter.lora_A.shape == (2, 6)
    assert adapter.lora_B.shape == (6, 2)
    assert adapter.weights.ctypes.data % 64 == 0
    adapter.lora_B[:] = 0.0
    x = rng.standard_normal(6).astype(np.float32)
    np.testing.assert_array_equal(adapter.apply(x), x)
    adapter.lora_B[:, 1] = 1.0
    np.testing.assert_array_equal(adapter.weights[3], np.ones(6))
    assert not np.array_equal(adapter.apply(x), x)


def test_bad_weights_change_nothing(backend: ModuleType, rng: np.random.Generator) -> None:
    adapter = make(backend, 6, 2, rng)
    before = adapter.weights.copy()
    with pytest.raises(ShapeError, match=r"`lora_A` must have shape \(2, 6\); got \(6, 2\)"):
        adapter.lora_A = np.zeros((6, 2))
    with pytest.raises(NonFiniteError, match="`lora_B`"):
        adapter.lora_B = np.full((6, 2), np.nan)
    with pytest.raises(NonFiniteError, match="`scaling`"):
        adapter.scaling = np.inf
    np.testing.assert_array_equal(adapter.weights, before)
    assert adapter.scaling == 0.7
    with pytest.raises(RangeError, match="`rank` must be at least 1; got 0"):
        backend.LowRankAdapter(4, 0)
    with pytest.raises(RangeError, match="`dim`"):
        backend.LowRankAdapter(0, 1)


def test_python_classes_may_derive(backend: ModuleType) -> None:
    class Named(backend.LowRankAdapter):  # type: ignore[misc, name-defined]
        def __init__(self, name: str, dim: int) -> None:
            super().__init__(dim, 1)
            self.name = name

    adapter = Named("a", 3)
    assert adapter.name == "a"
    assert adapter.apply([1, 2, 3]).tolist() == [1.0, 2.0, 3.0]


def widened(bits: Any, kind: str) -> Any:
    if kind == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_16_bit_rows(backend: ModuleType, dim: int, kind: str, rng: np.random.Generator) -> None:
    adapter = make(backend, dim, 2, rng)
    for shape in [(dim,), (7, dim), (0, dim)]:
        values = rng.standard_normal(shape).astype(np.float32)
        if kind == "float16":
            bits = values.astype(np.float16).view(np.uint16)
        else:
            bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        before = bits.copy()
        y = widened(adapter.apply_bits(bits, kind), kind)
        np.testing.assert_array_equal(bits, before)
        one_step = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[kind]
        np.testing.assert_allclose(
            y, oracle(adapter, widened(bits, kind)), rtol=one_step, atol=1e-5
        )
        assert adapter.apply_bits(bits, kind, out=bits) is bits
        np.testing.assert_array_equal(widened(bits, kind), y)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_every_finite_bit_pattern_survives(backend: ModuleType, kind: str) -> None:
    # With weights of zero the result is the input, bit for bit.
    bits = np.arange(65536, dtype=np.uint16)
    bits = bits[np.isfinite(widened(bits, kind))]
    adapter = backend.LowRankAdapter(16, 1)
    rows = bits.reshape(-1, 16)
    same = adapter.apply_bits(rows, kind)
    np.testing.assert_array_equal(widened(same, kind), widened(rows, kind))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_16_bit_results_are_rounded_to_nearest_even(
    backend: ModuleType, kind: str, rng: np.random.Generator
) -> None:
    adapter = backend.LowRankAdapter(64, 1)
    adapter.lora_A[:, 0] = 1.0
    # y = x + b with x = (1, 0, ...) reads any float32 b through the rounding.
    b = (rng.standard_normal(64) * 10.0 ** rng.integers(-9, 6, 64)).astype(np.float32)
    b[0] = 0.0
    adapter.lora_B = b[:, None]
    one = np.zeros(64, dtype=np.uint16)
    one[0] = {"float16": 0x3C00, "bfloat16": 0x3F80}[kind]
    y = adapter.apply_bits(one, kind)[1:]
    if kind == "float16":
        with np.errstate(over="ignore"):
            expected = b[1:].astype(np.float16).view(np.uint16)
    else:
        exact = b[1:].view(np.uint32)
        expected = ((exact + 0x7FFF + ((exact >> 16) & 1)) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(widened(y, kind), widened(expected, kind))


def test_16_bit_refusals(backend: ModuleType) -> None:
    adapter = backend.LowRankAdapter(4, 1)
    bits = np.zeros((2, 4), dtype=np.uint16)
    with pytest.raises(RangeError, match="`format`"):
        adapter.apply_bits(bits, "float8")
    with pytest.raises(DTypeError, match="`x`"):
        adapter.apply_bits(bits.astype(np.int32), "float16")
    with pytest.raises(ShapeError, match="`x`"):
        adapter.apply_bits(bits[:, :3], "float16")
    with pytest.raises(ShapeError, match="`out`"):
        adapter.apply_bits(bits, "float16", bits[0])
    bits[1, 2] = 0x7C00
    out = np.full((2, 4), 7, dtype=np.uint16)
    with pytest.raises(NonFiniteError, match="row 1"):
        adapter.apply_bits(bits, "float16", out)
    assert (out == 7).all()
