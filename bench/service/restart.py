"""How soon a service that was killed is ready again, with a million trajectories learned.

    python -m bench.service.restart --folder DIR [--trajectories 1000000 --rows 100 --dim 384]

The folder is filled first: exports are committed and learned one by one, then a snapshot and a
publication are written. That takes minutes; ``--seconds`` ends it early, and the next run with the
same folder goes on. Then, five times: the service is started and killed with SIGKILL. Prints the
time from the start of the process to the first 200 of ``/readyz`` and to the first warm start,
beside what an interpreter that imports the service takes; and the time in which a coordinator
opens the same store and has decided.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
from bench.network.throughput import exports
from bench.service.process import ServiceProcess, free_port

from sona import SonaConfig
from sona.federated import FederatedCoordinator
from sona.service.folder import CONFIG, PUBLISHED, STORE, TENANTS

ROUNDS = 5
DONE = "filled"


def fill(root: Path, agents: int, rows: int, dim: int, seconds: float) -> bool:
    """Commit and learn what is missing; True when everything is there and published."""
    if (root / DONE).exists():
        return True
    root.mkdir(parents=True, exist_ok=True)
    config = SonaConfig.for_coordinator(hidden_dim=dim)
    (root / CONFIG).write_bytes(msgspec.json.encode(config))
    coordinator = FederatedCoordinator("default", config, store=root / STORE)
    began, held = time.monotonic(), coordinator.agent_count
    while held < agents and time.monotonic() - began < seconds:
        for export in exports(min(50, agents - held), rows, dim, first=held):
            coordinator.aggregate(export, consolidate=False)
        held = coordinator.agent_count
    learned = coordinator.master_engine.stats().trajectories_seen
    print(f"{learned} trajectories of {held} agents learned", flush=True)
    if not coordinator.snapshots() or coordinator.snapshots()[0].sequence < held:
        coordinator.snapshot()
        coordinator.store.prune_snapshots(1)
    (root / PUBLISHED).write_bytes(coordinator.warm_start().to_bytes())
    coordinator.close()
    if held >= agents:
        (root / DONE).touch()
    return held >= agents


def open_store(root: Path, dim: int) -> tuple[float, float]:
    """Seconds until a coordinator is made, and until it has decided."""
    config = SonaConfig.for_coordinator(hidden_dim=dim)
    began = time.perf_counter()
    coordinator = FederatedCoordinator("default", config, store=root / STORE)
    made = time.perf_counter() - began
    coordinator.route(np.ones(dim, np.float32))
    decided = time.perf_counter() - began
    coordinator.close()
    return made, decided


def restart(folder: Path) -> tuple[float, float]:
    """Seconds from the start of the process until it is ready, and until it hands out."""
    began = time.perf_counter()
    service = ServiceProcess(folder, free_port())
    ready = time.perf_counter() - began
    while service.get("/v1/warm-start")[0] != 200:
        time.sleep(0.005)
    handed = time.perf_counter() - began
    service.kill()
    return ready, handed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="kept; filled where it is not")
    parser.add_argument("--trajectories", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--seconds", type=float, default=1e9, help="time for filling")
    args = parser.parse_args()
    root = args.folder / TENANTS / "default"
    agents = args.trajectories // args.rows
    if not fill(root, agents, args.rows, args.dim, args.seconds):
        return
    for name, seen in {
        "interpreter": [(_interpreter(),) for _ in range(ROUNDS)],
        "service ready, hands out": [restart(args.folder) for _ in range(ROUNDS)],
        "coordinator made, decided": [open_store(root, args.dim) for _ in range(ROUNDS)],
    }.items():
        medians = [statistics.median(times) for times in zip(*seen, strict=True)]
        worst = [max(times) for times in zip(*seen, strict=True)]
        told = ", ".join(f"{m:.2f} s (worst {w:.2f})" for m, w in zip(medians, worst, strict=True))
        print(f"{name}: {told}")


def _interpreter() -> float:
    began = time.perf_counter()
    code = "import sona.service.server, sona.federated.sqlite"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
