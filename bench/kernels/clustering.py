"""k-means: assignment, a fit from a given start, patterns from scratch."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from bench.kernels.contest import (
    DIM,
    KINDS,
    FairBlas,
    best_of_ours,
    clustered,
    fallback,
    ours,
    peer,
)
from bench.kernels.timing import Case, Contestant, Measure

from sona import _core
from sona.learning import SphericalKMeans

_FLOAT, _SCREEN, _ONE_THREAD = ", float32", ", 8-bit screen", ", float32, one thread"
_FAISS = "faiss IndexFlatIP, k = 1"


def assign_case(n: int, k: int, kind: str, threads: int = 1) -> Case:
    """Nearest of `k` centroids for `n` points, by float32 and through 8-bit codes."""
    rng = np.random.default_rng(0)
    points = KINDS[kind](n, k, rng)
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
    absent: dict[str, str] = {}
    contestants = ours(by_float, suffix=_FLOAT)
    if threads == 1:
        for c in ours(by_codes, suffix=_SCREEN):
            with c.context():
                if _core.screens_assignments(k):
                    contestants.append(c)
        contestants.append(
            fallback(lambda: _core.assign(points, centroids, labels, similarities, threads))
        )
        contestants += _single_thread_peers(points, centroids, absent)
    else:
        one = partial(_core.assign, points, centroids, labels, similarities, 1)
        contestants += ours(one, suffix=_ONE_THREAD)
    if faiss := peer("faiss", absent):
        flat = faiss.IndexFlatIP(DIM)
        flat.add(centroids)

        def faiss_run() -> Any:
            faiss.omp_set_num_threads(threads)
            return flat.search(points, 1)[1]

        contestants.append(Contestant(_FAISS, faiss_run, partial(FairBlas, faiss)))
    name = f"assign, {n} x {DIM}, k = {k}, {kind}" + (f", {threads} threads" if threads > 1 else "")
    return Case(
        name,
        contestants,
        check,
        flops=2.0 * n * k * DIM,
        bytes_read=4.0 * n * DIM,
        threads=threads,
        absent=absent,
        measures=_assign_measures(kind, threads),
    )


def _assign_measures(kind: str, threads: int) -> list[Measure]:
    by_float, by_codes = best_of_ours(_FLOAT), best_of_ours(_SCREEN)
    if threads > 1:
        return [Measure(by_float, 1.8, (best_of_ours(_ONE_THREAD),))]
    measures = [Measure(by_float, 0.75), Measure(by_float, 1.25, (_FAISS,))]
    if _core.capabilities()[-1] == "avx512vnni":
        measures.append(Measure(by_codes, 3.5 if kind == "clustered" else 2.5, (_FAISS,)))
        measures.append(Measure(by_codes, 0.95, (by_float,)))
    return measures


def _single_thread_peers(points: Any, centroids: Any, absent: dict[str, str]) -> list[Contestant]:
    k = len(centroids)
    out = np.empty((len(points), k), np.float32)

    def numpy_run() -> Any:
        np.dot(points, centroids.T, out=out)
        return out.argmax(axis=1)

    found = [Contestant("NumPy", numpy_run)]
    if cluster := peer("sklearn.cluster", absent):
        km = cluster.KMeans(k, n_init=1, max_iter=1, init=centroids).fit(points[: 5 * k])
        km.cluster_centers_ = centroids
        found.append(Contestant("scikit-learn predict", partial(km.predict, points)))
    if vq := peer("scipy.cluster.vq", absent):
        found.append(Contestant("scipy vq", lambda: vq.vq(points, centroids)[0]))
    if torch := peer("torch", absent):
        tp, tc = torch.from_numpy(points), torch.from_numpy(centroids).T
        run = partial(_torch_assign, torch, tp, tc)
        found.append(Contestant("torch, matmul + argmax", run, torch.no_grad))
    return found


def _torch_assign(torch: Any, points: Any, centroids: Any) -> Any:
    return torch.argmax(points @ centroids, dim=1).numpy()


def fit_case(n: int, k: int) -> Case:
    """Lloyd from one start for a number of iterations that takes it to convergence."""
    rng = np.random.default_rng(0)
    points = clustered(n, k, rng)
    init = points[rng.choice(n, k, replace=False)]
    n_iter = SphericalKMeans(k, init=init, tol=0.0, max_iter=30).fit(points).n_iter_

    own = SphericalKMeans(k, init=init, tol=0.0, max_iter=n_iter).fit(points)
    best = _inertia(points, _lloyd_in_double(points, init, n_iter), k)
    assert abs(_inertia(points, own.labels_, k) / best - 1.0) < 1e-4

    def check(labels: Any) -> None:
        # Libraries treat empty clusters differently, so peers need only be in the neighbourhood.
        assert abs(_inertia(points, labels, k) / best - 1.0) < 0.1

    def run() -> Any:
        return SphericalKMeans(k, init=init, tol=0.0, max_iter=n_iter).fit(points).labels_

    contestants = [*ours(run), fallback(run)]
    absent: dict[str, str] = {}
    if faiss := peer("faiss", absent):

        def faiss_run() -> Any:
            km = faiss.Kmeans(DIM, k, niter=n_iter, spherical=True, max_points_per_centroid=10**9)
            km.train(points, init_centroids=init)
            return km.index.search(points, 1)[1][:, 0]

        contestants.append(Contestant("faiss.Kmeans", faiss_run, partial(FairBlas, faiss)))
    if cluster := peer("sklearn.cluster", absent):

        def sklearn_run() -> Any:
            km = cluster.KMeans(k, init=init, n_init=1, max_iter=n_iter, tol=0.0)
            return km.fit(points).labels_

        contestants.append(Contestant("scikit-learn, Lloyd", sklearn_run))
    least = (3.3, 3.8) if _core.capabilities()[-1] == "avx512vnni" else (1.5, 1.7)
    peers = ("faiss.Kmeans", "scikit-learn, Lloyd")
    return Case(
        f"fit, {n} x {DIM}, k = {k}, same start, {n_iter} iterations",
        contestants,
        check,
        flops=2.0 * n * k * DIM * (n_iter + 1),
        bytes_read=4.0 * n * DIM * (n_iter + 1),
        absent=absent,
        measures=[
            Measure(best_of_ours(), ratio, (name,))
            for ratio, name in zip(least, peers, strict=True)
        ],
    )


def extract_case(n: int, k: int, kind: str = "clustered") -> Case:
    """Patterns from scratch: seeding included, to convergence."""
    points = KINDS[kind](n, k, np.random.default_rng(0))
    absent: dict[str, str] = {}
    highest = float("inf")

    def run() -> Any:
        return SphericalKMeans(k).fit(points).labels_

    contestants = [*ours(run), fallback(run)]
    if cluster := peer("sklearn.cluster", absent):

        def sklearn_run() -> Any:
            return cluster.KMeans(k, n_init=1, random_state=0).fit(points).labels_

        highest = _inertia(points, sklearn_run(), k)
        contestants.append(Contestant("scikit-learn, k-means++", sklearn_run))

    def check(labels: Any) -> None:
        assert _inertia(points, labels, k) <= highest * (1.0 + 1e-6)

    return Case(
        f"extract, {n} x {DIM}, k = {k}, {kind}",
        contestants,
        check,
        absent=absent,
        measures=[Measure(best_of_ours(), 5.0, ("scikit-learn, k-means++",))],
    )


def _lloyd_in_double(points: Any, init: Any, n_iter: int) -> Any:
    """Labels of a plain run; an empty cluster takes over the point that is served worst."""
    wide, centroids = points.astype(np.float64), init.astype(np.float64)
    labels = (wide @ centroids.T).argmax(axis=1)
    for _ in range(n_iter):
        served = np.einsum("ij,ij->i", wide, centroids[labels])
        for empty in np.setdiff1d(np.arange(len(init)), labels):
            worst = int(served.argmin())
            labels[worst] = empty
            served = np.maximum(served, wide @ wide[worst])
        sums = _sums(wide, labels, len(init))
        centroids = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        labels = (wide @ centroids.T).argmax(axis=1)
    return labels


def _sums(points: Any, labels: Any, k: int) -> Any:
    return np.stack([points[labels == c].sum(axis=0, dtype=np.float64) for c in range(k)])


def _inertia(points: Any, labels: Any, k: int) -> float:
    """Squared distances of unit points from the unit centroids that serve their clusters best."""
    sums = _sums(points, labels, k)
    return 2.0 * len(points) - 2.0 * float(np.linalg.norm(sums, axis=1).sum())
