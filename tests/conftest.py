"""Fixtures that any test may use: each backend in turn, and seeded random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

from sona import _core
from sona._core import reference

# One more and one less than every vector width, and the lengths that embeddings have.
DIMS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 384]


@pytest.fixture(params=["reference", *_core.capabilities()])
def backend(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The module of kernels: the NumPy reference, then native under each instruction set."""
    if request.param == "reference":
        yield reference
    else:
        from sona._core import _kernels

        with _core.forced(request.param):
            yield _kernels


@pytest.fixture(params=DIMS)
def dim(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
