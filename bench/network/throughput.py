"""1,000 agents hand in over the network, beside writing the same exports to the same store.

    python -m bench.network.throughput [--agents 1000] [--rows 100] [--dim 384] [--folder DIR]

32 agents at a time hand in to a coordinator process, which commits and acknowledges, and learns
later. Once over the link that their host keeps open, once each over a link of its own, opened for
one export and closed again. Beside it: the same bytes put into a store of the same class on the
same disk, one transaction each, one after the other, in this process; they are parsed, named and
judged before its clock starts, so it does nothing but write. Asserts that every export was
acknowledged and is stored, and prints the rates.
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


def networked(made: list[AgentExport], path: Path, dim: int, *, shared: bool) -> float:
    """Exports a second, each acknowledged; over one link or over as many as there are agents."""
    where = free_endpoint()
    process = NodeProcess("coordinator", "--listen", where, store=path, dim=dim)

    def link_of(name: str) -> Link:
        return Link(where, name, security=Security.off(), wait_s=300.0)

    def agent(export: AgentExport) -> bool:
        if shared:
            return host.submit(export).duplicate
        with link_of(export.agent_id) as own:
            return own.submit(export).duplicate

    with ThreadPoolExecutor(AT_A_TIME) as pool, link_of("host") as host:
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
        # A third before, between and after, for a disk that others use has no one speed.
        third = len(made) // 3
        parts = [made[:third], made[third : 2 * third], made[2 * third :]]
        paces = [1.0 / direct(parts[0], Path(folder, "0.db"), args.dim)]
        over_host = networked(made, Path(folder, "host.db"), args.dim, shared=True)
        paces.append(1.0 / direct(parts[1], Path(folder, "1.db"), args.dim))
        over_own = networked(made, Path(folder, "own.db"), args.dim, shared=False)
        paces.append(1.0 / direct(parts[2], Path(folder, "2.db"), args.dim))
    written = len(paces) / sum(paces)
    print(f"{args.agents} exports of {size} bytes, all acknowledged and stored")
    for name, rate in (
        ("direct", written),
        ("one link of their host", over_host),
        ("a link for each agent", over_own),
    ):
        print(f"{name:23s} {rate:7.1f} exports/s  {rate * size / 1e6:6.1f} MB/s", end="")
        print(f"  {rate / written:.2f} of direct")
    print("direct, before, between and after:", [round(1.0 / pace, 1) for pace in paces])


if __name__ == "__main__":
    main()
