"""kill -9 of coordinators at random moments: acknowledged exports lost, exports counted twice.

    python -m bench.network.kills [--kills 50] [--seed 0]

A global coordinator and two regions, each a process with a store. Agents hand in at both regions
all the time; at random moments one of the three, drawn at random, is killed and started again.
In the end everything settles, and the stores are compared with what was acknowledged.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from bench.network.process import NodeProcess, free_endpoint
from bench.network.throughput import exports

from sona import SonaConfig
from sona.federated import AgentExport, FederatedCoordinator
from sona.federated.network import Link, Security
from sona.federated.store import open_store

DIM = 16
SETTLE_S = 60.0
PAUSE_S = 0.02  # between two agents of a region, so that all kills fall into traffic


def audit(path: Path, acknowledged: list[AgentExport]) -> tuple[int, int, int]:
    """Exports lost; outcomes counted beyond those of the exports held; exports held."""
    coordinator = FederatedCoordinator("auditor", SonaConfig.for_coordinator(hidden_dim=DIM), path)
    held = {export.export_id: export for export in coordinator.exports}
    lost = sum(export.export_id not in held for export in acknowledged)
    rows = sum(export.rows for export in held.values())
    twice = coordinator.metrics.trajectories_held - rows
    coordinator.close()
    return lost, twice, len(held)


def count(path: Path) -> int:
    """Exports in the store of a coordinator that runs."""
    store = open_store(path)
    held = len(store.changes(0).sessions)
    store.close()
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    made = exports(40_000, 2, DIM)
    off = Security.off()
    wheres = [free_endpoint() for _ in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        stores = [Path(folder, f"{name}.db") for name in ("global", "north", "south")]
        processes = [
            NodeProcess("coordinator", "--listen", wheres[0], store=stores[0], dim=DIM),
            *(
                NodeProcess(
                    *("coordinator", "--listen", wheres[n], "--region", stores[n].stem),
                    *("--upstream", wheres[0]),
                    store=stores[n],
                    dim=DIM,
                )
                for n in (1, 2)
            ),
        ]
        acknowledged: list[list[AgentExport]] = [[], [], []]
        done = threading.Event()

        def agents(region: int) -> None:
            with Link(wheres[region], f"host-{region}", security=off, wait_s=120.0) as link:
                for export in made[region::2]:
                    if done.is_set():
                        return
                    link.submit(export)
                    acknowledged[region].append(export)
                    time.sleep(PAUSE_S)

        threads = [threading.Thread(target=agents, args=(n,)) for n in (1, 2)]
        for thread in threads:
            thread.start()
        victims: Counter[str] = Counter()
        for _ in range(args.kills):
            time.sleep(rng.uniform(0.0, 1.0))
            victim = rng.randrange(3)
            processes[victim].kill()
            victims[stores[victim].stem] += 1
            time.sleep(rng.uniform(0.0, 0.3))
            processes[victim].start()
        done.set()
        for thread in threads:
            thread.join()
        total = sum(map(len, acknowledged))
        deadline = time.monotonic() + SETTLE_S
        while count(stores[0]) < total and time.monotonic() < deadline:
            time.sleep(1.0)
        for process in processes:
            process.kill()
        everything = [*acknowledged[1], *acknowledged[2]]
        audits = [
            audit(store, part)
            for store, part in zip(stores, [everything, *acknowledged[1:]], strict=True)
        ]
    print(f"{args.kills} kills: {dict(victims)}; {total} exports acknowledged by the regions")
    for store, (lost, twice, held) in zip(stores, audits, strict=True):
        print(f"{store.stem}: {held} held, {lost} acknowledged and lost, {twice} counted twice")
    assert not any(lost or twice for lost, twice, _ in audits)


if __name__ == "__main__":
    main()
