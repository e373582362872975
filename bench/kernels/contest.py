"""What all cases share: our contestants on each instruction set, peers, and data."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
from bench.kernels.timing import Contestant

from sona import _core
from sona._core import reference

DIM = 384
FALLBACK = "sona numpy fallback"


def best_of_ours(suffix: str = "") -> str:
    """Our contestant on the highest instruction set: the one that the measures are about."""
    return f"sona {_core.capabilities()[-1]}{suffix}"


def ours(
    run: Callable[[], Any], prepare: Callable[[], Any] = lambda: None, suffix: str = ""
) -> list[Contestant]:
    """The same call on every instruction set of this machine."""
    return [
        Contestant(f"sona {name}{suffix}", run, partial(_core.forced, name), prepare)
        for name in _core.capabilities()
    ]


def fallback(run: Callable[[], Any]) -> Contestant:
    """The same call on the NumPy kernels, as a machine without native ones would make it."""
    return Contestant(FALLBACK, run, _numpy_kernels)


@contextmanager
def _numpy_kernels() -> Iterator[None]:
    native = {name: getattr(_core, name) for name in reference.__all__}
    for name in native:
        setattr(_core, name, getattr(reference, name))
    try:
        yield
    finally:
        for name, kernel in native.items():
            setattr(_core, name, kernel)


def peer(name: str, absent: dict[str, str]) -> ModuleType | None:
    """A library that may be absent, which is noted then; told to use one thread."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        absent[name.split(".")[0]] = "not installed"
        return None
    if name == "faiss":
        module.omp_set_num_threads(1)
    if name == "torch":
        module.set_num_threads(1)
    return module


class FairBlas:
    """faiss with its threshold for BLAS set fairly for batches; the default serves one query."""

    def __init__(self, faiss: Any) -> None:
        self.faiss = faiss

    def __enter__(self) -> None:
        self.before = self.faiss.cvar.distance_compute_blas_threshold
        self.faiss.cvar.distance_compute_blas_threshold = 20

    def __exit__(self, *_: object) -> None:
        self.faiss.cvar.distance_compute_blas_threshold = self.before


def unit(x: Any) -> Any:
    return _core.unit_rows(np.ascontiguousarray(x, dtype=np.float32))


def clustered(n: int, k: int, rng: np.random.Generator) -> Any:
    """`n` unit points about `k` directions, each as far off as its direction is long."""
    centers = unit(rng.standard_normal((k, DIM)))
    return unit(centers[rng.integers(k, size=n)] + rng.standard_normal((n, DIM)) / np.sqrt(DIM))


def unclustered(n: int, k: int, rng: np.random.Generator) -> Any:
    """`n` random directions."""
    return unit(rng.standard_normal((n, DIM)))


def outliers(n: int, k: int, rng: np.random.Generator) -> Any:
    """Clusters, and a point in a hundred that one coordinate rules."""
    points = clustered(n, k, rng)
    stray = rng.standard_normal((n // 100, DIM))
    stray[:, 0] += 50.0 * rng.standard_normal(n // 100)
    points[: n // 100] = unit(stray)
    return points


KINDS = {"clustered": clustered, "unclustered": unclustered, "outliers": outliers}
