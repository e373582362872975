"""What comes through the door as a vector or a matrix, and what does not."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sona.errors import DTypeError, NonFiniteError, ShapeError


def test_what_qualifies_is_not_copied(backend: ModuleType, dim: int) -> None:
    vector = np.ones(dim, dtype=np.float32)
    assert backend.as_vector(vector, dim, "x") is vector
    matrix = np.ones((3, dim), dtype=np.float32)
    assert backend.as_matrix(matrix, None, "X") is matrix


@pytest.mark.parametrize("convert", [np.float64, list, tuple, np.asfortranarray])
def test_conversions(backend: ModuleType, convert: Any) -> None:
    matrix = convert(np.arange(6.0).reshape(2, 3))
    result = backend.as_matrix(matrix, 3, "X")
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, np.arange(6.0).reshape(2, 3))


def test_lists_of_integers_are_numbers(backend: ModuleType) -> None:
    assert backend.as_vector([1, 2, 3], 3, "x").tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "wrong",
    [
        np.ones(3, dtype=np.int32),
        np.ones(3, dtype=np.float16),
        np.ones(3, dtype=np.complex64),
        np.ones(3, dtype=bool),
        ["1", "2", "3"],
        [True, False, True],
        "abc",
        None,
        object(),
    ],
)
def test_other_types_are_refused(backend: ModuleType, wrong: Any) -> None:
    with pytest.raises(DTypeError, match="`x` must be float32"):
        backend.as_vector(wrong, 3, "x")


def test_shapes_are_named(backend: ModuleType) -> None:
    for shape in [(383,), (1, 384), (384, 1), (), (0,)]:
        with pytest.raises(ShapeError, match=r"`embedding` must have shape \(384,\); got "):
            backend.as_vector(np.ones(shape, dtype=np.float32), 384, "embedding")
    with pytest.raises(ShapeError, match=r"`X` must have shape \(n, 4\); got \(2, 3\)"):
        backend.as_matrix(np.ones((2, 3)), 4, "X")
    with pytest.raises(ShapeError, match="`X` must have shape"):
        backend.as_matrix(np.ones(3), None, "X")
    with pytest.raises(ShapeError, match="at least one value"):
        backend.as_matrix(np.ones((2, 0)), None, "X")
    with pytest.raises(ShapeError, match="not be empty"):
        backend.as_vector([0.0] * 0 or np.ones(0), None, "x")
    with pytest.raises(ShapeError, match="regular"):
        backend.as_matrix([[1.0], [1.0, 2.0]], None, "X")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_every_place_is_looked_at(backend: ModuleType, dim: int, bad: float) -> None:
    for place in range(dim):
        vector = np.zeros(dim, dtype=np.float32)
        vector[place] = bad
        with pytest.raises(NonFiniteError, match=rf"`x` must be finite.*at \[{place}\]"):
            backend.as_vector(vector, dim, "x")
    matrix = np.zeros((3, dim), dtype=np.float32)
    matrix[2, dim - 1] = bad
    with pytest.raises(NonFiniteError, match=rf"at \[2, {dim - 1}\]"):
        backend.as_matrix(matrix, dim, "X")


def test_double_beyond_float32_is_refused(backend: ModuleType) -> None:
    with pytest.raises(NonFiniteError, match="float32"):
        backend.as_vector([1e300, 0.0], 2, "x")


def test_largest_floats_and_denormals_pass(backend: ModuleType) -> None:
    extremes = np.array([3.4028235e38, -3.4028235e38, 1e-45, -0.0], dtype=np.float32)
    assert backend.as_vector(extremes, 4, "x") is extremes


@pytest.mark.parametrize("scale", [1.0, 0.0, 1e30, 1e-30])
def test_an_embedding_of_unit_length(
    backend: ModuleType, dim: int, scale: float, rng: np.random.Generator
) -> None:
    vector = (scale * rng.standard_normal(dim)).astype(np.float32)
    unit = backend.as_unit(vector, dim, "x")
    assert unit is not vector
    np.testing.assert_array_equal(unit, backend.unit_rows(vector))
    np.testing.assert_array_equal(backend.as_unit(vector.tolist(), dim, "x"), unit)
    out = np.empty(dim, np.float32)
    assert backend.as_unit(vector, dim, "x", out) is out
    np.testing.assert_array_equal(out, unit)
    for wrong in (np.inf, -np.inf, np.nan):
        vector[-1] = wrong
        with pytest.raises(NonFiniteError, match="`x` must be finite"):
            backend.as_unit(vector, dim, "x")
    with pytest.raises(ShapeError):
        backend.as_unit(vector, dim + 1, "x")
    with pytest.raises(ShapeError):
        backend.as_unit(unit, dim, "x", np.empty(dim + 1, np.float32))
    with pytest.raises(DTypeError):
        backend.as_unit(unit, dim, "x", np.empty(dim))


def test_unit_rows(backend: ModuleType, dim: int, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((5, dim)).astype(np.float32)
    rows[1] = 0.0
    rows[2] *= np.float32(1e30)
    rows[3] *= np.float32(1e-30)
    before = rows.copy()
    unit = backend.unit_rows(rows)
    np.testing.assert_array_equal(rows, before)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), [1, 0, 1, 1, 1], rtol=1e-6)
    wide = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    np.testing.assert_allclose(unit * lengths, wide, rtol=1e-6)
    np.testing.assert_array_equal(backend.unit_rows(rows[4]), unit[4])
    with pytest.raises(ShapeError):
        backend.unit_rows(np.ones((1, 1, 1), dtype=np.float32))
    with pytest.raises(DTypeError):
        backend.unit_rows(np.ones(3))
