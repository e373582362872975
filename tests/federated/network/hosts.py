"""Hosts on one machine: network namespaces on a switch, whose cables can be cut and slowed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap

from tests.federated.network.fleet import ROOT

__all__ = ["Lan", "why_not"]


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def why_not():
    """Why there can be no hosts here; None if there can."""
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "needs iproute2"
    if os.geteuid() != 0:
        return "needs root"
    name = f"sona-{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"the kernel gives no namespaces: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return None


class Lan:
    """A switch in a namespace of its own; nothing of it touches the machine's network."""

    def __init__(self):
        self._prefix = f"sona-{os.getpid()}"
        self._switch = f"{self._prefix}-switch"
        self._hosts = []
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")

    def host(self):
        """Add a host; returns its number."""
        number = len(self._hosts) + 1
        name = f"{self._prefix}-{number}"
        _ip("netns", "add", name)
        self._hosts.append(name)
        port = f"port{number}"
        _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0",
            "netns", name)  # fmt: skip
        _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
        _ip("-n", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", name, "link", "set", device, "up")
        return number

    @staticmethod
    def address(number):
        return f"10.77.0.{number}"

    def on(self, number):
        """Prefix of a command that is to run on a host."""
        return ["ip", "netns", "exec", self._hosts[number - 1]]

    def cut(self, number):
        """Pull a host's cable."""
        _ip("-n", self._switch, "link", "set", f"port{number}", "down")

    def mend(self, number):
        """Plug it in again."""
        _ip("-n", self._switch, "link", "set", f"port{number}", "up")

    def slow(self, number):
        """Make what goes to a host slow; returns how: by netem where the kernel has it."""
        to = ["tc", "-n", self._switch, "qdisc", "add", "dev", f"port{number}", "root"]
        netem = [*to, "netem", "delay", "100ms", "20ms", "loss", "1%", "rate", "1mbit"]
        if subprocess.run(netem, capture_output=True).returncode == 0:
            return "netem"
        # A token bucket: no loss, but everything queues for its turn.
        bucket = [*to, "tbf", "rate", "1mbit", "burst", "4kb", "latency", "2s"]
        subprocess.run(bucket, check=True, capture_output=True)
        return "tbf"

    def run(self, number, code, *arguments):
        """Run Python on a host and return what it printed."""
        done = subprocess.run(
            [*self.on(number), sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close(self):
        for name in [*self._hosts, self._switch]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
