"""The cases: what is timed against what, on which data, and how the answers are compared."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
from bench.kernels.timing import Case, Contestant

from sona import _core
from sona._core import reference
from sona.learning import PatternIndex, SphericalKMeans

DIM = 384


def peer(name: str) -> ModuleType | None:
    """A library that may be absent, told to use one thread."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        return None
    if name == "faiss":
        module.omp_set_num_threads(1)
    if name == "torch":
        module.set_num_threads(1)
    return module


def unit(x: Any) -> Any:
    return _core.unit_rows(np.ascontiguousarray(x, dtype=np.float32))


def clustered(n: int, k: int, rng: np.random.Generator) -> Any:
    """`n` unit points about `k` directions, each as far off as its direction is long."""
    centers = unit(rng.standard_normal((k, DIM)))
    return unit(centers[rng.integers(k, size=n)] + rng.standard_normal((n, DIM)) / np.sqrt(DIM))


def ours(run: Callable[[], Any], prepare: Callable[[], Any] = lambda: None) -> list[Contestant]:
    """The same call on every instruction set of this machine."""
    return [
        Contestant(f"sona {name}", run, partial(_forced, name), prepare)
        for name in _core.capabilities()
    ]


def _forced(name: str) -> AbstractContextManager[None]:
    return _core.forced(name)


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
    adapters: list[Any] = [_core.LowRankAdapter(dim, rank), reference.LowRankAdapter(dim, rank)]
    for adapter in adapters:
        adapter.lora_A, adapter.lora_B = a, b.T
        run = partial(adapter.apply, x, out)
        if isinstance(adapter, reference.LowRankAdapter):
            contestants.append(Contestant("sona numpy fallback", run, prepare=reset))
        else:
            contestants += ours(run, reset)
    numpy_run = numpy_rank1 if rank == 1 and n is not None else numpy_best
    contestants.append(Contestant("NumPy, dot with out", numpy_run, prepare=reset))
    scale = np.float32(1.0)
    contestants.append(
        Contestant("NumPy, plain expression", lambda: x + scale * (x @ at) @ b, prepare=reset)
    )
    absent = {}
    if torch := peer("torch"):
        tx, ta, tb = torch.from_numpy(x), torch.from_numpy(at), torch.from_numpy(b)

        def torch_run() -> Any:
            if n is None:
                return tx + (tx @ ta) @ tb
            return tx.addmm_(tx @ ta, tb)

        contestants.append(Contestant("torch, addmm in place", torch_run, torch.no_grad, reset))
    else:
        absent["torch"] = "not installed"
    if numba := peer("numba"):
        contestants.append(
            Contestant("numba", partial(_numba_apply(numba), x, a, b, out), prepare=reset)
        )
    else:
        absent["numba"] = "not installed"
    count = 1 if n is None else n
    label = "one vector" if n is None else f"{n} rows"
    return Case(
        f"apply, {label} x {dim}, rank {rank}",
        contestants,
        check,
        flops=4.0 * rank * dim * count,
        bytes_read=8.0 * dim * count,
        absent=absent,
    )


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
    fallback = Contestant("sona numpy fallback", by_reference)
    pair = [
        Contestant(f"{c.name}: one apply + one search", c.run, c.context)
        for c in ours(apply_and_search)
    ]
    contestants = [*ours(learn), *pair, fallback]
    return Case(f"learning step, {n} patterns, rank 2", contestants, check, flops)


def assign_case(n: int, k: int, kind: str, threads: int = 1) -> Case:
    """Nearest of `k` centroids for `n` points, by float32 and through 8-bit codes."""
    rng = np.random.default_rng(0)
    points = clustered(n, k, rng) if kind == "clustered" else unit(rng.standard_normal((n, DIM)))
    # Centroids as an iteration of k-means meets them.
    centroids = SphericalKMeans(k, init=points[:k], max_iter=1).fit(points[: 20 * k]).centroids_
    codes = _core.RowCodes(n, DIM)
    _core.encode_rows(points, codes, 0)
    labels, similarities = np.empty(n, np.int32), np.empty(n, np.float32)
    products = points @ centroids.T
    best = products.max(axis=1)

    def check(answer: Any) -> None:
        found = labels if answer is None else np.asarray(answer).reshape(n)
        assert (products[np.arange(n), found] >= best - 1e-5).all()

    by_float = partial(_core.assign, points, centroids, labels, similarities, threads)
    by_codes = partial(_core.assign, points, centroids, labels, similarities, threads, codes)
    contestants = [Contestant(f"{c.name}, float32", c.run, c.context) for c in ours(by_float)]
    if threads == 1:
        for c in ours(by_codes):
            with c.context():
                if _core.screens_assignments(k):
                    contestants.append(Contestant(f"{c.name}, 8-bit screen", c.run, c.context))
        out = np.empty((n, k), np.float32)

        def numpy_run() -> Any:
            np.dot(points, centroids.T, out=out)
            return out.argmax(axis=1)

        contestants.append(Contestant("NumPy", numpy_run))
    absent = {}
    if faiss := peer("faiss"):
        flat = faiss.IndexFlatIP(DIM)
        flat.add(centroids)

        def faiss_run() -> Any:
            faiss.omp_set_num_threads(threads)
            return flat.search(points, 1)[1]

        contestants.append(Contestant("faiss IndexFlatIP, k = 1", faiss_run, partial(_Blas, faiss)))
    else:
        absent["faiss"] = "not installed"
    if (cluster := peer("sklearn.cluster")) and threads == 1:
        km = cluster.KMeans(k, n_init=1, max_iter=1, init=centroids).fit(points[: 5 * k])
        km.cluster_centers_ = centroids
        contestants.append(Contestant("scikit-learn predict", partial(km.predict, points)))
    elif threads == 1:
        absent["scikit-learn"] = "not installed"
    if (vq := peer("scipy.cluster.vq")) and threads == 1:
        contestants.append(Contestant("scipy vq", lambda: vq.vq(points, centroids)[0]))
    name = f"assign, {n} x {DIM}, k = {k}, {kind}" + (f", {threads} threads" if threads > 1 else "")
    return Case(name, contestants, check, flops=2.0 * n * k * DIM, threads=threads, absent=absent)


class _Blas:
    """faiss with its threshold for BLAS set fairly for batches; the default serves one query."""

    def __init__(self, faiss: Any) -> None:
        self.faiss = faiss

    def __enter__(self) -> None:
        self.before = self.faiss.cvar.distance_compute_blas_threshold
        self.faiss.cvar.distance_compute_blas_threshold = 20

    def __exit__(self, *_: object) -> None:
        self.faiss.cvar.distance_compute_blas_threshold = self.before


def fit_case(n: int, k: int) -> Case:
    """Lloyd from one start for a number of iterations that takes it to convergence."""
    rng = np.random.default_rng(0)
    points = clustered(n, k, rng)
    init = points[rng.choice(n, k, replace=False)]
    n_iter = SphericalKMeans(k, init=init, tol=0.0, max_iter=30).fit(points).n_iter_

    def inertia(labels: Any) -> float:
        sums = np.zeros((k, DIM))
        np.add.at(sums, labels, points)
        lengths = np.linalg.norm(sums, axis=1)
        return 2.0 * len(points) - 2.0 * float(lengths.sum())

    best = inertia(SphericalKMeans(k, init=init, tol=0.0, max_iter=n_iter).fit(points).labels_)

    def check(labels: Any) -> None:
        # Libraries treat empty clusters differently, so peers need only be in the neighbourhood.
        assert inertia(labels) == np.float64(best) or abs(inertia(labels) / best - 1.0) < 0.1

    def run() -> Any:
        return SphericalKMeans(k, init=init, tol=0.0, max_iter=n_iter).fit(points).labels_

    contestants, absent = ours(run), {}
    if faiss := peer("faiss"):

        def faiss_run() -> Any:
            km = faiss.Kmeans(DIM, k, niter=n_iter, spherical=True, max_points_per_centroid=10**9)
            km.train(points, init_centroids=init)
            return km.index.search(points, 1)[1][:, 0]

        contestants.append(Contestant("faiss.Kmeans", faiss_run, partial(_Blas, faiss)))
    else:
        absent["faiss"] = "not installed"
    if cluster := peer("sklearn.cluster"):

        def sklearn_run() -> Any:
            km = cluster.KMeans(k, init=init, n_init=1, max_iter=n_iter, tol=0.0)
            return km.fit(points).labels_

        contestants.append(Contestant("scikit-learn, Lloyd", sklearn_run))
    else:
        absent["scikit-learn"] = "not installed"
    return Case(
        f"fit, {n} x {DIM}, k = {k}, same start, {n_iter} iterations",
        contestants,
        check,
        absent=absent,
    )


def extract_case(n: int, k: int) -> Case:
    """Patterns from scratch: seeding included, to convergence."""
    points = clustered(n, k, np.random.default_rng(0))

    def check(inertia: Any) -> None:
        assert 0.0 < inertia < 2.0 * n

    contestants = ours(lambda: SphericalKMeans(k).fit(points).inertia_)
    absent = {}
    if cluster := peer("sklearn.cluster"):
        run = partial(_sklearn_inertia, cluster, points, k)
        contestants.append(Contestant("scikit-learn, k-means++", run))
    else:
        absent["scikit-learn"] = "not installed"
    return Case(f"extract, {n} x {DIM}, k = {k}", contestants, check, absent=absent)


def _sklearn_inertia(cluster: Any, points: Any, k: int) -> float:
    return float(cluster.KMeans(k, n_init=1, random_state=0).fit(points).inertia_)


def search_case(n: int, m: int | None, threads: int = 1) -> Case:
    """The 10 most similar of `n` stored vectors, for one query or `m`."""
    rng = np.random.default_rng(0)
    rows = unit(rng.standard_normal((n, DIM)))
    queries = unit(rng.standard_normal(DIM if m is None else (m, DIM)))
    index = PatternIndex(DIM)
    index.add(rows)
    asked = np.atleast_2d(queries)
    exact = asked.astype(np.float64) @ rows.T.astype(np.float64)
    best = -np.sort(-np.partition(exact, n - 10, axis=1)[:, n - 10 :], axis=1)

    def check(ids: Any) -> None:
        found = np.take_along_axis(exact, np.asarray(ids).reshape(len(asked), 10), axis=1)
        np.testing.assert_allclose(found, best, atol=1e-6)

    stored = index.vectors.copy()
    contestants = ours(lambda: index.search(queries, 10, threads)[0])
    absent = {}
    if threads == 1:
        plain = partial(_core.top_k, stored, n, queries, 10)
        contestants += [
            Contestant(f"{c.name}, float32 only", c.run, c.context)
            for c in ours(lambda: plain()[0])
        ]

        def numpy_run() -> Any:
            products = asked @ stored.T
            top = np.argpartition(products, n - 10, axis=1)[:, n - 10 :]
            order = np.argsort(-np.take_along_axis(products, top, axis=1), axis=1)
            return np.take_along_axis(top, order, axis=1)

        contestants.append(Contestant("NumPy", numpy_run))
    if faiss := peer("faiss"):
        flat = faiss.IndexFlatIP(DIM)
        flat.add(stored)

        def faiss_run() -> Any:
            faiss.omp_set_num_threads(threads)
            return flat.search(asked, 10)[1]

        context = partial(_Blas, faiss) if m is not None else Contestant.context
        contestants.append(Contestant("faiss IndexFlatIP", faiss_run, context))
    else:
        absent["faiss"] = "not installed"
    if (torch := peer("torch")) and threads == 1:
        patterns, question = torch.from_numpy(stored).T, torch.from_numpy(asked)
        run = partial(_torch_search, torch, question, patterns)
        contestants.append(Contestant("torch, matmul + topk", run, torch.no_grad))
    elif threads == 1:
        absent["torch"] = "not installed"
    if (usearch := peer("usearch.index")) and threads == 1:
        metric = usearch.MetricKind.IP

        def usearch_run() -> Any:
            return usearch.search(stored, asked, 10, metric, exact=True, threads=1).keys

        contestants.append(Contestant("usearch, exact", usearch_run))
    elif threads == 1:
        absent["usearch"] = "not installed"
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
    )


def _torch_search(torch: Any, queries: Any, patterns: Any) -> Any:
    return torch.topk(queries @ patterns, 10).indices.numpy()


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
        partial(extract_case, 10_000, 100),
        *[partial(search_case, n, None) for n in (200, 10_000, 100_000, 1_000_000)],
        *[partial(search_case, 100_000, None, 2), partial(search_case, 100_000, 64)],
        partial(search_case, 100_000, 64, 2),
    ]
