"""`POST /v1/route` with many patterns, asked by several clients at once.

    python -m bench.service.routes [--patterns 10000 --dim 384 --clients 8 --requests 400]

A tenant is made that learns until it holds exactly so many patterns. Then the
clients, threads of a process of their own, ask for routes on connections that stay open. Prints
latency as the clients see it, its p99 beside its p50, and what share of the request the decision
itself took (`Server-Timing`). In between they ask `/healthz`, which decides nothing: what its p99
is beside its p50 is the machine's, not the decision's.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
from bench.network.throughput import exports
from bench.service.process import ServiceProcess, free_port

from sona import SonaConfig
from sona.federated import FederatedCoordinator
from sona.service.folder import CONFIG, PUBLISHED, STORE, TENANTS


def fill(folder: Path, patterns: int, dim: int) -> None:
    """Make the default tenant's files with so many patterns."""
    folder.mkdir(parents=True)
    config = SonaConfig.for_coordinator(
        hidden_dim=dim, pattern_clusters=patterns, trajectory_capacity=1_000
    )
    (folder / CONFIG).write_bytes(msgspec.json.encode(config))
    coordinator = FederatedCoordinator("default", config, store=folder / STORE)
    number = 0
    while len(coordinator.master_engine.patterns) < patterns:
        for export in exports(4, 500, dim, first=number):
            coordinator.aggregate(export, consolidate=False)
        number += 4
    assert len(coordinator.master_engine.patterns) == patterns
    (folder / PUBLISHED).write_bytes(coordinator.warm_start().to_bytes())
    coordinator.snapshot()
    coordinator.close()


def ask(port: int, dim: int, clients: int, requests: int) -> None:
    """Be the clients: print latencies and decision times in milliseconds as JSON."""
    rng = np.random.default_rng(1)
    bodies = [
        json.dumps({"embedding": vector.tolist()}) for vector in rng.standard_normal((64, dim))
    ]
    seen: list[tuple[float, float, float]] = []
    start = threading.Barrier(clients)

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        start.wait()
        for count in range(requests + 20):
            began = time.perf_counter()
            connection.request(
                "POST",
                "/v1/route",
                bodies[(number + count) % 64],
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            answer.read()
            took = 1e3 * (time.perf_counter() - began)
            assert answer.status == 200
            decided = float(answer.headers["Server-Timing"].rpartition("=")[2])
            began = time.perf_counter()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            nothing = 1e3 * (time.perf_counter() - began)
            if count >= 20:  # connections and caches are warm
                seen.append((took, decided, nothing))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(seen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patterns", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=400, help="per client")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.port is not None:
        ask(args.port, args.dim, args.clients, args.requests)
        return
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder, "service", TENANTS, "default"), args.patterns, args.dim)
        service = ServiceProcess(Path(folder, "service"), free_port())
        while service.get("/v1/warm-start")[0] != 200:
            time.sleep(0.05)
        time.sleep(2.0)  # the learner has read its store
        for clients in (1, args.clients):
            command = [sys.executable, "-m", "bench.service.routes", "--port", str(service.port)]
            command += ["--dim", str(args.dim), "--clients", str(clients)]
            command += ["--requests", str(args.requests)]
            out = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
            took, decided, nothing = np.array(json.loads(out)).T
            p50, p99 = np.percentile(took, [50, 99])
            idle50, idle99 = np.percentile(nothing, [50, 99])
            print(
                f"{args.patterns} patterns, {clients} clients: p50 {p50:.2f} ms, p99 {p99:.2f} ms,"
                f" p99/p50 {p99 / p50:.2f}; decision {np.median(decided):.2f} ms,"
                f" {100 * np.median(decided / took):.0f} % of the request;"
                f" /healthz p50 {idle50:.2f} ms, p99/p50 {idle99 / idle50:.2f}"
            )
        service.stop()


if __name__ == "__main__":
    main()
