"""A service in a process of its own, for the benchmarks of this folder."""

from __future__ import annotations

import atexit
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["ServiceProcess", "free_port"]


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServiceProcess:
    """`sona serve` on a folder, ready to be asked; as users run it, with its log in a file.

    Parameters
    ----------
    folder : path
        Of the service; the log lies beside it.
    port : int
    """

    def __init__(self, folder: Path, port: int, *options: str) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "sona", "serve", "--store", os.fspath(folder)]
        with open(f"{folder}.log", "ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(port), "--rate", "1e9", *options], stderr=log
            )
        # A benchmark that fails half-way must not leave its service to load the machine.
        atexit.register(self.process.kill)
        while self.get("/readyz")[0] != 200:
            assert self.process.poll() is None, f"see {folder}.log"
            time.sleep(0.005)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of an answer; status 0 where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def rss_mib(self) -> float:
        """Memory that the process holds, in MiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Let it finish what it accepted."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)
