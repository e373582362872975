"""What goes wrong between an agent and its coordinator, for the simulation."""

from __future__ import annotations

from collections import Counter

import numpy as np

from sona.federated import AgentExport
from sona.federated.topology import InProcess

__all__ = ["Trouble"]


class Trouble:
    """Stands between agents and a topology, and lets a share of everything fail.

    Three things fail, each with probability `share`: an agent is killed before its export has
    left it; an acknowledgement is lost, so that the agent hands in again; a coordinator is down
    for a wave of agents, whose exports lie in the spool until the next agent finds it up.

    Parameters
    ----------
    topology : InProcess
    share : float
        In [0, 1].
    seed : int

    Attributes
    ----------
    acknowledged : list of AgentExport
        What one coordinator would have to know.
    happened : Counter of str
        ``killed``, ``repeated``, ``spooled``.
    """

    def __init__(self, topology: InProcess, share: float, seed: int) -> None:
        self._topology = topology
        self._share = share
        self._rng = np.random.default_rng([seed, 7])
        self._spools: dict[str, list[AgentExport]] = {}
        self._down: set[str] = set()
        self.acknowledged: list[AgentExport] = []
        self.happened: Counter[str] = Counter()

    def next_wave(self) -> None:
        """Decide who is down while the next agents hand in."""
        self._down = {
            c.coordinator_id
            for c in self._topology.coordinators
            if self._rng.random() < self._share
        }

    def hand_in(self, export: AgentExport) -> None:
        """Submit an export, or fail to."""
        if self._rng.random() < self._share:
            self.happened["killed"] += 1
            return
        home = self._topology.home_of(export.agent_id).coordinator_id
        spool = self._spools.setdefault(home, [])
        if home in self._down:
            self.happened["spooled"] += 1
            spool.append(export)
            return
        self._submit(export)
        while spool:
            self._submit(spool.pop())

    def end(self) -> None:
        """Let everyone come up and hand in what still lies in a spool."""
        self._down = set()
        for spool in self._spools.values():
            while spool:
                self._submit(spool.pop())

    def _submit(self, export: AgentExport) -> None:
        self._topology.submit(export)
        self.acknowledged.append(export)
        if self._rng.random() < self._share:
            self.happened["repeated"] += 1
            self._topology.submit(export)
