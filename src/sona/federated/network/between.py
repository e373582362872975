"""What nodes ask of each other, beside the four verbs."""

from __future__ import annotations

from sona.errors import RangeError
from sona.federated.export import AgentExport
from sona.federated.merge import Ledger
from sona.federated.network import keys
from sona.federated.network.link import TIMEOUT_S, Link
from sona.federated.network.messages import fingerprint

__all__ = ["NodeLink"]


class NodeLink(Link):
    """A link from one node to another. Its questions are asked once: the next round asks again."""

    role = "peer"

    def ledger(self, known: Ledger) -> Ledger:
        """Return what the other holds; short on the way if that is `known`."""
        data = self._line.ask(keys.LEDGER, fingerprint(known.to_bytes()), TIMEOUT_S)
        return Ledger.from_bytes(data) if data else known

    def export(self, session: tuple[str, int]) -> AgentExport | None:
        """Fetch what the other holds of a session."""
        try:
            return AgentExport.from_bytes(self._line.ask(keys.export(session), b"", TIMEOUT_S))
        except RangeError:  # it was withdrawn there meanwhile
            return None

    def heed(self, ledger: Ledger) -> None:
        """Let the other know who was withdrawn here."""
        self._line.ask(keys.HEED, ledger.to_bytes(), TIMEOUT_S)

    def forward(self, export: AgentExport) -> None:
        """Hand in what this node took in from an agent; returns once it is committed there."""
        self._line.ask(keys.FORWARD, export.to_bytes(), TIMEOUT_S)
