"""1,000 agents hand in over the network, beside writing the same exports to the same store.

    python -m bench.network.throughput [--agents 1000] [--rows 100] [--dim 384] [--folder DIR]

Each agent opens a link of its own to a coordinator process, hands in and leaves; 32 at a time.
The coordinator commits and acknowledges, and learns later. Beside it: the same bytes put into a
store of the same class on the same disk, one transaction each, one after the other, in this
process; they are parsed, named and judged before its clock starts, so it does nothing but write.
Asserts that every export was acknowledged and is stored, and prints both rates.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from bench.network.process import NodeProcess, free_endpoint

from sona.federated import AgentExport, trust
from sona.federated.network import Link, Security
from sona.federated.store import open_store
from sona.federated.table import TrajectoryTable

AT_A_TIME = 32


def exports(agents: int, rows: int, dim: int, first: int = 0) -> list[AgentExport]:
    """Random unit embeddings round 50 centres: what a store sees of a real fleet."""
    centres = np.random.default_rng(0).standard_normal((50, dim))
    rng = np.random.default_rng(first + 1)
    made = []
    for number in range(first, first + agents):
        points = centres[rng.integers(50, size=rows)] + 0.5 * rng.standard_normal((rows, dim))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        table = TrajectoryTable(
            points.astype(np.float32),
            rng.random(rows),
            1_000_000 * number + np.arange(rows),
            ["small" if coin else "large" for coin in rng.random(rows) < 0.5],
            [()] * rows,
        )
        made.append(AgentExport(f"agent-{number}", table, None, 1_000, 1_000_000 * number + 1_000))
    return made


def direct(made: list[AgentExport], path: Path, dim: int) -> float:
    """Exports a second, written one after the other."""
    made = [AgentExport.from_bytes(export.to_bytes()) for export in made]
    judged = [trust.judge(export, dim, 0.3) for export in made]
    assert all(export.export_id for export in made)
    store = open_store(path)
    began = time.perf_counter()
    for one in judged:
        store.put(one)
    rate = len(made) / (time.perf_counter() - began)
    store.close()
    return rate


def networked(made: list[AgentExport], path: Path, dim: int) -> float:
    """Exports a second, each acknowledged to an agent that has a link of its own."""
    where = free_endpoint()
    process = NodeProcess("coordinator", "--listen", where, store=path, dim=dim)

    def agent(export: AgentExport) -> bool:
        with Link(where, export.agent_id, security=Security.off(), wait_s=300.0) as link:
            return link.submit(export).duplicate

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        began = time.perf_counter()
        assert not any(pool.map(agent, made))
        rate = len(made) / (time.perf_counter() - began)
    process.kill()  # what was acknowledged must be there all the same
    store = open_store(path)
    assert all(store.export(export.session)[1] == export for export in made)  # type: ignore[index]
    store.close()
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--folder", help="where the stores lie; a temporary folder if not given")
    args = parser.parse_args()
    made = exports(args.agents, args.rows, args.dim)
    size = len(made[0].to_bytes())
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        # Half before and half after, for a disk that others use has no one speed.
        half = len(made) // 2
        before = direct(made[:half], Path(folder, "before.db"), args.dim)
        over_network = networked(made, Path(folder, "network.db"), args.dim)
        after = direct(made[half:], Path(folder, "after.db"), args.dim)
    written = 2.0 / (1.0 / before + 1.0 / after)
    print(f"{args.agents} exports of {size} bytes, all acknowledged and stored")
    print(f"direct:  {written:7.1f} exports/s  {written * size / 1e6:6.1f} MB/s", end="")
    print(f"  ({before:.1f} before, {after:.1f} after)")
    print(f"network: {over_network:7.1f} exports/s  {over_network * size / 1e6:6.1f} MB/s")
    print(f"ratio:   {over_network / written:.2f}")


if __name__ == "__main__":
    main()
