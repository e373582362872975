"""How a coordinator's costs grow: the 1,000th export against the 10th, memory, and a restart.

python bench/federated/scale.py aggregate     time of an export by number of exports before it
python bench/federated/scale.py memory        resident memory by number of exports
python bench/federated/scale.py consolidate   the same while it learns anew from twice its capacity
python bench/federated/scale.py restart       start-up with 1,000,000 trajectories in the store
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time

import msgspec
import numpy as np

from sona import SonaConfig
from sona.federated import AgentExport, FederatedCoordinator
from sona.federated.entries import place
from sona.federated.merge import Stamp
from sona.federated.records import Summary
from sona.federated.table import TrajectoryTable

DIM = 384


def export(number: int, rows: int = 100, dim: int = DIM) -> AgentExport:
    rng = np.random.default_rng(number)
    topics = np.random.default_rng(0).standard_normal((50, dim))
    x = topics[rng.integers(50, size=rows)] + 0.7 * rng.standard_normal((rows, dim))
    routes = [f"route-{r}" for r in rng.integers(4, size=rows)]
    table = TrajectoryTable(
        x.astype(np.float32),
        rng.random(rows).round(),
        1_000 * number + np.arange(rows),
        routes,
        [()] * rows,
    )
    return AgentExport(f"agent-{number}", table, None, 10, 1_000 * number)


def aggregate(exports: int) -> None:
    """Medians over nine neighbours; the store is on disk, consolidations are left out."""
    with tempfile.TemporaryDirectory() as folder:
        coordinator = FederatedCoordinator(
            "bench", SonaConfig.for_coordinator(hidden_dim=DIM), os.path.join(folder, "store.db")
        )
        took = []
        for number in range(exports + 5):
            sent = export(number)
            start = time.process_time(), time.perf_counter()
            coordinator.aggregate(sent, consolidate=False)
            took.append((time.process_time() - start[0], time.perf_counter() - start[1]))
        coordinator.close()
    cpu, wall = np.array(took).T * 1e3
    for at in (10, 100, exports // 2, exports):
        around = slice(at - 5, at + 5)
        print(
            f"export {at:5d}: median {np.median(wall[around]):7.2f} ms,"
            f" CPU {np.median(cpu[around]):7.2f} ms"
        )
    ratio = np.median(cpu[exports - 5 : exports + 5]) / np.median(cpu[5:15])
    print(f"CPU of export {exports} over export 10: {ratio:.2f}")


def memory(exports: int) -> None:
    """Trajectories grow fourfold from line to line, agents do not."""
    for rows in (25, 100, 400):
        pid = os.fork()
        if not pid:
            config = SonaConfig.for_coordinator(hidden_dim=DIM, trajectory_capacity=2_000)
            coordinator = FederatedCoordinator("bench", config)
            for number in range(exports):
                coordinator.aggregate(export(number, rows), consolidate=False)
            sent = exports * rows * DIM * 4 / 2**20
            print(
                f"{exports} exports of {rows:4d} rows ({sent:6.0f} MiB sent):"
                f" peak {_peak_mib():.0f} MiB"
            )
            os._exit(0)
        os.waitpid(pid, 0)


def consolidate(exports: int) -> None:
    """The preset remembers 50,000 trajectories: 73 MiB of embeddings."""
    for count in (exports // 4, exports // 2, exports):
        pid = os.fork()
        if not pid:
            coordinator = FederatedCoordinator("bench", SonaConfig.for_coordinator(hidden_dim=DIM))
            for number in range(count):
                coordinator.aggregate(export(number), learn=False)
            stored = _peak_mib()
            coordinator.force_consolidate()
            once = _peak_mib()
            coordinator.force_consolidate()
            print(
                f"{count} exports of 100 rows: peak {stored:.0f} MiB stored, {once:.0f} MiB"
                f" consolidated, {_peak_mib():.0f} MiB consolidated beside what serves",
                flush=True,
            )
            os._exit(0)
        os.waitpid(pid, 0)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def restart(sessions: int) -> None:
    """An engine filled to its capacity of 50,000, and sessions of 100 trajectories each."""
    config = SonaConfig.for_coordinator(hidden_dim=DIM)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "store.db")
        coordinator = FederatedCoordinator("bench", config, path)
        for number in range(52):
            coordinator.aggregate(export(number, 1_000), consolidate=False)
        described = msgspec.json.encode(
            Summary(100, 50, config.quality_threshold, 50.0, b"\x01\0\0\0" * 101, 0)
        )
        # Start-up reads what sessions are summed up to, never their bodies.
        with coordinator.store._database.writing() as run:
            for number in range(sessions - 520):
                place(run, (f"other-{number}", 0), None, Stamp(0, 1, 100, "x" * 64), described)
        learner = coordinator._learner
        learner.roster.apply(coordinator.store.changes(learner.roster.sequence))
        learner.knowledge.sequence = learner.roster.sequence
        coordinator.snapshot()
        size = coordinator.snapshots()[0].n_bytes / 2**20
        coordinator.close()
        start = time.perf_counter()
        again = FederatedCoordinator("bench", config, path)
        ready = time.perf_counter() - start
        again.route(np.ones(DIM))
        total = again.metrics.trajectories_held
        print(f"{total} trajectories, snapshot {size:.0f} MiB: ready in {ready:.2f} s")
        again.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["aggregate", "memory", "consolidate", "restart"])
    parser.add_argument("--count", type=int, default=None, help="exports, or sessions")
    args = parser.parse_args()
    if args.what == "aggregate":
        aggregate(args.count or 1_000)
    elif args.what == "memory":
        memory(args.count or 100)
    elif args.what == "consolidate":
        consolidate(args.count or 1_000)
    else:
        restart(args.count or 10_000)


if __name__ == "__main__":
    main()
