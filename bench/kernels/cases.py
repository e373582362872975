"""The list of cases: what is timed against what is in the modules named here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bench.kernels.adapter import apply_case, step_case
from bench.kernels.clustering import assign_case, extract_case, fit_case
from bench.kernels.contest import DIM, KINDS
from bench.kernels.search import search_case
from bench.kernels.timing import Case


def all_cases(quick: bool) -> list[Callable[[], Case]]:
    """Makers of every case, small ones where `quick`; data is built when a maker is called."""
    if quick:
        return [
            partial(apply_case, DIM, 2, None),
            partial(apply_case, DIM, 1, 64),
            step_case,
            partial(assign_case, 2_000, 20, "clustered"),
            partial(fit_case, 2_000, 20),
            partial(extract_case, 1_000, 10),
            partial(search_case, 200, None),
            partial(search_case, 3_000, 8),
        ]
    vectors = [(64, 2), (DIM, 1), (DIM, 2), (DIM, 8), (1024, 2), (4096, 2), (8192, 2)]
    batches = [(n, rank) for n in (64, 1024, 16_384) for rank in (1, 2, 8)]
    return [
        *[partial(apply_case, dim, rank, None) for dim, rank in vectors],
        *[partial(apply_case, DIM, rank, n) for n, rank in batches],
        step_case,
        *[partial(assign_case, 50_000, 200, kind) for kind in ("clustered", "unclustered")],
        partial(assign_case, 50_000, 200, "clustered", 2),
        partial(fit_case, 50_000, 200),
        *[partial(extract_case, 10_000, 100, kind) for kind in KINDS],
        *[partial(search_case, n, None) for n in (200, 10_000, 100_000, 1_000_000)],
        *[partial(search_case, 100_000, None, 2), partial(search_case, 100_000, 64)],
        partial(search_case, 100_000, 64, 2),
    ]
