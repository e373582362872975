"""Exports a second through the service, beside committing the same bytes to SQLite directly.

    python -m bench.service.throughput [--rows 60 --dim 384 --exports 600 --clients 8 --folder DIR]

Clients are threads of this process, each with a `Client` of its own; every export is acknowledged
after its commit, which exports that wait at the same time share. Directly: the same bytes into a
table of nothing but bodies, one row and one commit per export, write-ahead log, synchronous=FULL,
in one thread. The two take turns, so that a disk that is slow for a while is slow for both. At
the end, what was acknowledged must be learned.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.network.throughput import exports
from bench.service.process import ServiceProcess, free_port

from sona.federated import AgentExport
from sona.service import Client

ROUNDS = 6


class Direct:
    """A table of bodies, as plain as SQLite can have it."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("CREATE TABLE bodies (number INTEGER PRIMARY KEY, body BLOB)")

    def put(self, bodies: list[bytes]) -> float:
        """Exports a second."""
        began = time.perf_counter()
        for body in bodies:
            self._db.execute("INSERT INTO bodies (body) VALUES (?)", (body,))
        return len(bodies) / (time.perf_counter() - began)


def through(clients: list[Client], made: list[AgentExport]) -> float:
    """Exports a second, each acknowledged."""
    shares = [made[number :: len(clients)] for number in range(len(clients))]

    def send(client: Client, share: list[AgentExport]) -> None:
        for export in share:
            receipt = client.send(export)
            assert receipt is not None
            assert receipt.ruling == "accepted"

    with ThreadPoolExecutor(len(clients)) as pool:
        began = time.perf_counter()
        list(pool.map(send, clients, shares))
        return len(made) / (time.perf_counter() - began)


def unlearned(service: ServiceProcess) -> int:
    """Exports that are committed and not learned yet, as the service tells Prometheus."""
    lines = service.get("/metrics")[1].decode().splitlines()
    return int(float(next(s for s in lines if s.startswith("sona_exports_unlearned ")).split()[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--exports", type=int, default=600)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--folder", help="where the stores lie; a temporary folder if not given")
    args = parser.parse_args()
    made = exports(args.exports, args.rows, args.dim)
    bodies = [export.to_bytes() for export in made]
    rates: dict[str, list[float]] = {"directly": [], "service": []}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        direct = Direct(Path(folder, "direct.db"))
        service = ServiceProcess(Path(folder, "service"), free_port())
        clients = [Client(service.url) for _ in range(args.clients)]
        share = len(made) // ROUNDS
        for start in range(0, share * ROUNDS, share):
            rates["directly"].append(direct.put(bodies[start : start + share]))
            rates["service"].append(through(clients, made[start : start + share]))
        print(f"{share * ROUNDS} exports of {len(bodies[0])} bytes, {args.clients} clients")
        for name, seen in rates.items():
            print(f"{name:9s} {statistics.median(seen):7.1f} exports/s  {[round(r) for r in seen]}")
        ratios = [b / a for a, b in zip(rates["directly"], rates["service"], strict=True)]
        print(f"ratio     {statistics.median(ratios):7.2f} (median of {ROUNDS} turns)")
        behind, began = unlearned(service), time.perf_counter()
        print(f"{behind} exports were not learned yet at the last acknowledgement", flush=True)
        while json.loads(service.get("/v1/overview")[1])["version"] < share * ROUNDS * args.rows:
            time.sleep(0.05)
        print(f"all were learned and published {time.perf_counter() - began:.1f} s later")
        service.stop()


if __name__ == "__main__":
    main()
