"""A `sona` node as a process, for the network benchmarks."""

from __future__ import annotations

import atexit
import socket
import subprocess
import sys
from pathlib import Path

__all__ = ["NodeProcess", "free_endpoint"]


def free_endpoint() -> str:
    """A loopback endpoint that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp/127.0.0.1:{free.getsockname()[1]}"


class NodeProcess:
    """Started when made; ready when that returns."""

    def __init__(self, command: str, *arguments: str, store: Path, dim: int) -> None:
        self._line = [
            *(sys.executable, "-m", "sona", command, *arguments),
            *("--store", str(store), "--dim", str(dim), "--insecure"),
        ]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        # A benchmark that fails half-way must not leave its node to load the machine.
        atexit.register(self._process.kill)
        assert self._process.stdout is not None
        assert "listens on" in self._process.stdout.readline()

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()
