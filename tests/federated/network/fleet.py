"""A small fleet for the network tests: exports, free ports, nodes as processes, convergence."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from sona import SonaConfig
from sona.federated import AgentExport, FederatedCoordinator, TrajectoryExport
from sona.federated.network import Security

DIM = 6
CONFIG = SonaConfig.for_coordinator(hidden_dim=DIM)
OFF = Security.off()
ROOT = Path(__file__).parents[3]  # where a child process finds these modules


def export(number, agent_id=None, rows=12, timestamp=None):
    rng = np.random.default_rng(number)
    made = [
        TrajectoryExport(
            np.eye(DIM)[number % 3] + 0.2 * rng.standard_normal(DIM),
            float(rng.random()),
            "abc"[int(rng.integers(3))],
            (),
            1000 * number + row,
        )
        for row in range(rows)
    ]
    ended = 1000 * number + 20 if timestamp is None else timestamp
    return AgentExport(agent_id or f"agent-{number}", made, None, ended - 1000 * number, ended)


def endpoint(host="127.0.0.1", protocol="tcp"):
    with socket.socket() as free:
        free.bind((host, 0))
        return f"{protocol}/{host}:{free.getsockname()[1]}"


def coordinator(name="coordinator", store=None):
    return FederatedCoordinator(name, CONFIG, store)


def held(where):
    """Ids of the exports that a coordinator, or a store on disk, holds."""
    if isinstance(where, FederatedCoordinator):
        return [export.export_id for export in where.exports]
    opened = coordinator(store=where)
    try:
        return held(opened)
    finally:
        opened.close()


def one_over(exports):
    """What a single coordinator that got all of them knows."""
    single = coordinator("single")
    for made in exports:
        single.aggregate(made)
    return knowledge(single)


def knowledge(of):
    of.force_consolidate()
    engine = of.master_engine
    probes = np.eye(DIM, dtype=np.float32)
    return (
        of.agent_count,
        of.total_trajectories,
        [(p.centroid.tobytes(), repr(p.routes)) for p in engine.patterns],
        [engine.route(x).expected for x in probes],
        engine.apply_micro_lora(probes).tobytes(),
    )


def eventually(holds, within=60.0):
    """Wait until `holds()`; the limit only ends a test that would hang."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


class Process:
    """A `sona` command that serves, with a store of its own; may be killed and started again."""

    def __init__(self, command, *arguments, store, prefix=(), trust=("--insecure",)):
        self.store = store
        self._line = [
            *prefix, sys.executable, "-m", "sona", command, *arguments,
            "--store", str(store), "--dim", str(DIM), *trust,
        ]  # fmt: skip
        self.start()

    def start(self):
        self._process = subprocess.Popen(self._line, stdout=subprocess.PIPE, text=True)
        assert "listens on" in self._process.stdout.readline()
        self.pid = self._process.pid

    def kill(self):
        """kill -9."""
        self._process.kill()
        self._wait()

    def stop(self):
        """SIGTERM; returns the exit status."""
        self._process.terminate()
        return self._wait()

    def _wait(self):
        status = self._process.wait(timeout=60)
        self._process.stdout.close()
        return status
