"""The one door to native code.

On the far side: C++ kernels, compiled once per instruction set, that trust their arguments. On
this side: NumPy arrays that were checked. Every kernel exported here exists twice with one
signature: in `_kernels` (native) and in `reference` (NumPy, the oracle and the fallback), chosen
once, at import.

- ``SONA_BACKEND=native`` or ``numpy`` insists on one of them.
- ``SONA_CAPABILITY=baseline``, ``avx2``, ``avx512``, ``avx512vnni`` or ``neon`` is the highest
  instruction set that the native kernels may use.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from sona._core.arrays import FloatArray, aligned_zeros, dimensions
from sona._core.expectation import neighbour_weights
from sona.errors import ConfigError, RangeError

__all__ = [
    "CellModel",
    "FloatArray",
    "LowRankAdapter",
    "Outlook",
    "RowCodes",
    "accumulate",
    "adapt_tensor",
    "aligned_zeros",
    "as_matrix",
    "as_unit",
    "as_vector",
    "assign",
    "backend",
    "capabilities",
    "capability",
    "count_outcome",
    "decision_step",
    "dimensions",
    "encode_rows",
    "expected_values",
    "follow",
    "forced",
    "gate_observe",
    "gate_trust",
    "judge",
    "neighbour_weights",
    "outcome_step",
    "place_outcome",
    "precedents",
    "put_outcome",
    "same_vector",
    "screens_assignments",
    "settle",
    "similarities_to",
    "squared_distances",
    "store_row",
    "top_k",
    "unit_rows",
]

_RISING = {"baseline": 0, "avx2": 1, "neon": 1, "avx512": 2, "avx512vnni": 3}


def _choose_backend() -> Literal["native", "numpy"]:
    asked = os.environ.get("SONA_BACKEND", "")
    if asked not in ("", "native", "numpy"):
        raise ConfigError(f"`SONA_BACKEND` must be native or numpy; got {asked!r}")
    if asked == "numpy":
        return "numpy"
    if find_spec("sona._core._kernels") is not None:
        return "native"
    if asked == "" and _installed_pure():
        return "numpy"
    raise ImportError(
        "sona's native kernels were not built: install the package with a C++ compiler at hand "
        "(pip install .), or choose NumPy with SONA_BACKEND=numpy"
    )


def _installed_pure() -> bool:
    """Was the package installed as pure Python on purpose (-C wheel.cmake=false)?"""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        wheel = distribution("sona").read_text("WHEEL")
    except PackageNotFoundError:
        return False
    return wheel is not None and "Tag: py3-none-any" in wheel


backend: Literal["native", "numpy"] = _choose_backend()

if TYPE_CHECKING or backend == "native":
    from sona._core import _kernels
    from sona._core._kernels import (
        CellModel,
        LowRankAdapter,
        Outlook,
        RowCodes,
        accumulate,
        adapt_tensor,
        as_matrix,
        as_unit,
        as_vector,
        assign,
        count_outcome,
        decision_step,
        encode_rows,
        expected_values,
        follow,
        gate_observe,
        gate_trust,
        judge,
        outcome_step,
        place_outcome,
        precedents,
        put_outcome,
        same_vector,
        screens_assignments,
        settle,
        similarities_to,
        squared_distances,
        store_row,
        top_k,
        unit_rows,
    )
else:
    from sona._core.reference import (
        CellModel,
        LowRankAdapter,
        Outlook,
        RowCodes,
        accumulate,
        adapt_tensor,
        as_matrix,
        as_unit,
        as_vector,
        assign,
        count_outcome,
        decision_step,
        encode_rows,
        expected_values,
        follow,
        gate_observe,
        gate_trust,
        judge,
        outcome_step,
        place_outcome,
        precedents,
        put_outcome,
        same_vector,
        screens_assignments,
        settle,
        similarities_to,
        squared_distances,
        store_row,
        top_k,
        unit_rows,
    )


def capabilities() -> tuple[str, ...]:
    """Instruction sets that this binary holds and this CPU has, lowest first; () under NumPy."""
    return tuple(_kernels.capabilities()) if backend == "native" else ()


def capability() -> str | None:
    """The instruction set in use; None under NumPy."""
    return _kernels.capability() if backend == "native" else None


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Use one instruction set inside a ``with`` block; for tests and benchmarks.

    Raises
    ------
    RangeError
        This CPU or this binary does not have it.

    Notes
    -----
    The choice is the process's, not the thread's.
    """
    if name not in capabilities():
        raise RangeError(f"`name` must be one of {capabilities()}; got {name!r}")
    before = _kernels.capability()
    _kernels.activate(name)
    try:
        yield
    finally:
        _kernels.activate(before)


def _apply_cap() -> None:
    cap = os.environ.get("SONA_CAPABILITY", "")
    if cap == "":
        return
    if cap not in _RISING:
        raise ConfigError(f"`SONA_CAPABILITY` must be one of {tuple(_RISING)}; got {cap!r}")
    if backend == "native":
        allowed = [name for name in capabilities() if _RISING[name] <= _RISING[cap]]
        _kernels.activate(allowed[-1])


_apply_cap()
