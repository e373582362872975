"""A real service in a process of its own, on a port of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sona.federated import AgentExport, TrajectoryExport
from sona.service import Client

DIM = 8


def make_export(agent_id="agent-1", rows=12, *, dim=DIM, timestamp=1_000_000, seed=0, routes="ab"):
    """An export whose route "a" serves the first axis and "b" the second."""
    rng = np.random.default_rng([seed, *agent_id.encode()])
    topics = rng.integers(2, size=rows)
    picked = rng.integers(2, size=rows)
    vectors = np.eye(dim)[topics] + 0.05 * rng.standard_normal((rows, dim))
    made = [
        TrajectoryExport(vector.astype(np.float32), float(topic == pick), routes[pick], (), i)
        for i, (vector, topic, pick) in enumerate(zip(vectors, topics, picked, strict=True))
    ]
    return AgentExport(agent_id, made, session_duration_ms=0, timestamp=timestamp)


class Running:
    """A service process: its log, its port, its end.

    `sabotage` is code that runs in the process before the service does.
    """

    def __init__(self, store: Path, *options: str, port: int = 0, sabotage: str = ""):
        self.store = Path(store)
        code = f"{sabotage}\nimport sys\nfrom sona.cli import main\nsys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "serve", "--store", str(store)]
        self.process = subprocess.Popen(
            [*command, "--port", str(port), "--drain-seconds", "0.2", *options],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        self.lines: list[dict] = []
        self._log = threading.Thread(target=self._read, daemon=True)
        self._log.start()
        started = self.wait_for("started")
        self.port = started["port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def _read(self):
        for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except json.JSONDecodeError:  # not ours: a traceback, say; shown when something waits
                self.lines.append({"event": line})

    def wait_for(self, event: str, seconds: float = 30.0) -> dict:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in list(self.lines):
                if line["event"] == event:
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"no {event!r} in {self.lines}")

    def request(self, method, path, body=None, headers=None, timeout=20.0):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def json(self, method, path, body=None, headers=None):
        status, _, data = self.request(method, path, body, headers)
        return status, json.loads(data)

    def post(self, data, key=None, token=None, **headers):
        """Send an export; returns status and what the service says."""
        if key is not None:
            headers["Idempotency-Key"] = key
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return self.json("POST", "/v1/exports", data, headers)

    def overview(self, token=None):
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return self.json("GET", "/v1/overview", None, headers)[1]

    def client(self, **options) -> Client:
        return Client(self.url, **options)

    def ready(self) -> Running:
        return eventually(lambda: self.request("GET", "/readyz")[0] == 200) and self

    def stop(self, sig=signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sig)
        status = self.process.wait(30)
        self._log.join(5)
        self.process.stderr.close()
        return status

    def __enter__(self):
        return self.ready()

    def __exit__(self, *_):
        self.stop()


def eventually(true, seconds: float = 20.0):
    """Wait until something holds, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = true()
        if got:
            return got
        time.sleep(0.02)
    raise AssertionError("did not come true")


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    """One service without tokens, that has learned from one agent; shared by who only adds."""
    with Running(tmp_path_factory.mktemp("service") / "store", "--rate", "1e6") as running:
        assert running.post(make_export("founder", 60).to_bytes())[0] == 201
        eventually(lambda: running.request("GET", "/v1/warm-start")[0] == 200)
        yield running
