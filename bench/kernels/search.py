"""Cosine search: the ten most similar of n stored vectors."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from bench.kernels.contest import DIM, FairBlas, best_of_ours, fallback, ours, peer, unit
from bench.kernels.timing import Case, Contestant, Measure

from sona import _core
from sona.learning import PatternIndex

_FAISS, _TORCH, _NUMPY = "faiss IndexFlatIP", "torch, matmul + topk", "NumPy"


def search_case(n: int, m: int | None, threads: int = 1) -> Case:
    """The 10 most similar of `n` stored vectors, for one query or `m`."""
    rng = np.random.default_rng(0)
    rows = unit(rng.standard_normal((n, DIM)))
    queries = unit(rng.standard_normal(DIM if m is None else (m, DIM)))
    index = PatternIndex(DIM)
    index.add(rows)
    asked = np.atleast_2d(queries)
    exact = np.concatenate(
        [
            asked.astype(np.float64) @ rows[i : i + 10_000].T.astype(np.float64)
            for i in range(0, n, 10_000)
        ],
        axis=1,
    )
    best = -np.sort(-np.partition(exact, n - 10, axis=1)[:, n - 10 :], axis=1)

    def check(ids: Any) -> None:
        own = np.asarray(ids).reshape(len(asked), 10).astype(np.int64)
        np.testing.assert_allclose(np.take_along_axis(exact, own, axis=1), best, atol=1e-6)

    stored = index.vectors
    absent: dict[str, str] = {}
    contestants = ours(lambda: index.search(queries, 10, threads)[0])
    if threads == 1:
        plain = partial(_core.top_k, stored, n, queries, 10)
        contestants += ours(lambda: plain()[0], suffix=", float32 only")
        contestants.append(fallback(lambda: index.search(queries, 10)[0]))
        contestants += _single_thread_peers(stored, asked, absent)
    else:
        contestants += ours(lambda: index.search(queries, 10)[0], suffix=", one thread")
    if faiss := peer("faiss", absent):
        flat = faiss.IndexFlatIP(DIM)
        flat.add(stored)

        def faiss_run() -> Any:
            faiss.omp_set_num_threads(threads)
            return flat.search(asked, 10)[1]

        context = partial(FairBlas, faiss) if m is not None else Contestant.context
        contestants.append(Contestant(_FAISS, faiss_run, context))
    label = "one query" if m is None else f"{m} queries"
    suffix = f", {threads} threads" if threads > 1 else ""
    return Case(
        f"top-10 of {n}, {label}{suffix}",
        contestants,
        check,
        flops=2.0 * n * DIM * len(asked),
        bytes_read=4.0 * n * DIM,
        threads=threads,
        absent=absent,
        measures=_measures(n, m, threads),
    )


def _measures(n: int, m: int | None, threads: int) -> list[Measure]:
    own = best_of_ours()
    if threads > 1:
        return [Measure(own, 1.8, (best_of_ours(", one thread"),))]
    if m is not None:
        plain = best_of_ours(", float32 only")
        return [
            Measure(plain, 1.6, (_FAISS, _TORCH)),
            Measure(plain, 0.75),
            Measure(own, 4.0, (_FAISS, _TORCH)),
        ]
    if n < 1000:
        return [Measure(own, 3.0, (_FAISS,)), Measure(own, 4.0, (_NUMPY,))]
    return [Measure(own, 3.5, (_FAISS,))]


def _single_thread_peers(stored: Any, asked: Any, absent: dict[str, str]) -> list[Contestant]:
    found = [Contestant(_NUMPY, lambda: _best(asked @ stored.T))]
    if torch := peer("torch", absent):
        patterns, question = torch.from_numpy(stored.copy()).T, torch.from_numpy(asked)

        def torch_run() -> Any:
            return torch.topk(question @ patterns, 10).indices.numpy()

        found.append(Contestant(_TORCH, torch_run, torch.no_grad))
    if usearch := peer("usearch.index", absent):
        metric = usearch.MetricKind.IP

        def usearch_run() -> Any:
            return usearch.search(stored, asked, 10, metric, exact=True, threads=1).keys

        found.append(Contestant("usearch, exact", usearch_run))
    if numkong := peer("numkong", absent):
        packed = numkong.dots_pack(stored)
        run = partial(numkong.dots_packed, asked, packed)
        found.append(Contestant("numkong, dots_packed", lambda: _best(np.asarray(run()))))
    return found


def _best(products: Any) -> Any:
    n = products.shape[1]
    top = np.argpartition(products, n - 10, axis=1)[:, n - 10 :]
    order = np.argsort(-np.take_along_axis(products, top, axis=1), axis=1)
    return np.take_along_axis(top, order, axis=1)
