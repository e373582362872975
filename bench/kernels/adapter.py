"""Micro-LoRA: applying it to a vector or a batch, and one learning step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from bench.kernels.contest import DIM, FALLBACK, best_of_ours, ours, peer, unit
from bench.kernels.timing import Case, Contestant, Measure

from sona import _core
from sona._core import reference
from sona.learning import PatternIndex

_NUMPY, _PLAIN = "NumPy, dot with out", "NumPy, plain expression"
_TORCH, _NUMBA = "torch, addmm in place", "numba"


def apply_case(dim: int, rank: int, n: int | None) -> Case:
    """y = x + s B A x in place (vector: into `out`), one vector or a batch of `n`."""
    rng = np.random.default_rng(0)
    shape = (dim,) if n is None else (n, dim)
    start = rng.standard_normal(shape).astype(np.float32)
    x, out, hidden, low = (
        start.copy(),
        np.empty(shape, np.float32),
        None,
        np.empty(shape, np.float32),
    )
    if n is not None:
        out = x
    a = (rng.standard_normal((rank, dim)) / np.sqrt(dim)).astype(np.float32)
    # Small, so that a batch that is adapted over and over stays finite.
    b = (1e-6 * rng.standard_normal((rank, dim))).astype(np.float32)
    at = np.ascontiguousarray(a.T)
    wide = start.astype(np.float64)
    expected = wide + (wide @ a.T.astype(np.float64)) @ b
    hidden = np.empty((*shape[:-1], rank), np.float32)
    reset = partial(np.copyto, x, start)

    def check(answer: Any) -> None:
        np.testing.assert_allclose(np.asarray(answer), expected, rtol=1e-4, atol=1e-5)

    def numpy_best() -> Any:
        np.dot(x, at, out=hidden)
        np.dot(hidden, b, out=low)
        return np.add(x, low, out=out)

    def numpy_rank1() -> Any:
        np.dot(x, at, out=hidden)
        np.multiply(hidden, b, out=low)
        return np.add(x, low, out=out)

    contestants = []
    absent: dict[str, str] = {}
    adapters: list[Any] = [_core.LowRankAdapter(dim, rank), reference.LowRankAdapter(dim, rank)]
    for adapter in adapters:
        adapter.lora_A, adapter.lora_B = a, b.T
        run = partial(adapter.apply, x, out)
        if isinstance(adapter, reference.LowRankAdapter):
            contestants.append(Contestant(FALLBACK, run, prepare=reset))
        else:
            contestants += ours(run, reset)
    numpy_run = numpy_rank1 if rank == 1 and n is not None else numpy_best
    contestants.append(Contestant(_NUMPY, numpy_run, prepare=reset))
    scale = np.float32(1.0)
    contestants.append(Contestant(_PLAIN, lambda: x + scale * (x @ at) @ b, prepare=reset))
    if torch := peer("torch", absent):
        tx, ta, tb = torch.from_numpy(x), torch.from_numpy(at), torch.from_numpy(b)

        def torch_run() -> Any:
            if n is None:
                return tx + (tx @ ta) @ tb
            return tx.addmm_(tx @ ta, tb)

        contestants.append(Contestant(_TORCH, torch_run, torch.no_grad, reset))
    if numba := peer("numba", absent):
        run = partial(_numba_apply(numba), x, a, b, out)
        contestants.append(Contestant(_NUMBA, run, prepare=reset))
    count = 1 if n is None else n
    label = "one vector" if n is None else f"{n} rows"
    return Case(
        f"apply, {label} x {dim}, rank {rank}",
        contestants,
        check,
        flops=4.0 * rank * dim * count,
        bytes_read=8.0 * dim * (count + rank),
        absent=absent,
        measures=_measures(dim, rank, n),
    )


def _measures(dim: int, rank: int, n: int | None) -> list[Measure]:
    own = best_of_ours()
    if n is None and rank == 2 and dim == DIM:
        least = [(20.0, _NUMPY), (35.0, _PLAIN), (6.0, _NUMBA)]
    elif n is None and rank == 2 and dim == 4096:
        least = [(7.0, _NUMPY)]
    elif n is not None and rank == 2:
        least = [(3.0, _NUMPY), (1.5 if n <= 1024 else 1.1, _TORCH)]
    elif n is not None and rank == 1:
        least = [(2.0, _NUMPY), (1.0, _TORCH), (1.0, _NUMBA)]
    else:
        least = []
    return [Measure(own, ratio, (name,)) for ratio, name in least]


def _numba_apply(numba: Any) -> Callable[..., Any]:
    @numba.njit(fastmath=True)  # type: ignore[untyped-decorator]
    def apply(x: Any, a: Any, b: Any, out: Any) -> Any:
        rank, dim = a.shape
        rows, to = x.reshape(-1, dim), out.reshape(-1, dim)
        for i in range(rows.shape[0]):
            row, target = rows[i], to[i]
            if rank == 2:
                first, second = np.float32(0), np.float32(0)
                for d in range(dim):
                    first += a[0, d] * row[d]
                    second += a[1, d] * row[d]
                for d in range(dim):
                    target[d] = row[d] + first * b[0, d] + second * b[1, d]
                continue
            hidden = np.empty(rank, np.float32)
            for j in range(rank):
                total = np.float32(0)
                for d in range(dim):
                    total += a[j, d] * row[d]
                hidden[j] = total
            for d in range(dim):
                target[d] = row[d]
            for j in range(rank):
                for d in range(dim):
                    target[d] += hidden[j] * b[j, d]
        return out

    return apply  # type: ignore[no-any-return]


def step_case(n: int = 100, k: int = 5) -> Case:
    """The learning step, and what it is measured against: one apply and one search."""
    rng = np.random.default_rng(0)
    x = unit(rng.standard_normal(DIM))
    centroids = unit(rng.standard_normal((n, DIM)))
    values = rng.random(n).astype(np.float32)
    indices, similarities = np.empty(k, np.int64), np.empty(k, np.float32)
    adapter, plain = _core.LowRankAdapter(DIM, 2), reference.LowRankAdapter(DIM, 2)
    for each in (adapter, plain):
        each.lora_A = rng.standard_normal((2, DIM)) / np.sqrt(DIM)
    index = PatternIndex(DIM)
    index.add(centroids)
    out = np.empty(DIM, np.float32)
    rule = (1.0, indices, similarities, 0.1, 1e-6, 0.0, 1.0, 0.1)

    def apply_and_search() -> Any:
        adapter.apply(x, out)
        index.search(out, k)
        return 0.5

    def check(expected: Any) -> None:
        assert 0.0 <= expected <= 1.0

    learn = partial(_core.decision_step, adapter, x, centroids, values, *rule)
    by_reference = partial(reference.decision_step, plain, x, centroids, values, *rule)
    flops = 2.0 * n * DIM + (2.0 * k + 24.0) * DIM
    pair = ": one apply + one search"
    contestants = [
        *ours(learn),
        *ours(apply_and_search, suffix=pair),
        Contestant(FALLBACK, by_reference),
    ]
    return Case(
        f"learning step, {n} patterns, rank 2",
        contestants,
        check,
        flops,
        bytes_read=4.0 * DIM * n,
        measures=[Measure(best_of_ours(), 1 / 5, (best_of_ours(pair),))],
    )
