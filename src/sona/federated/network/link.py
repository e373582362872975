"""The client's side: what an agent, a region or a peer asks of a node."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from os import PathLike
from types import TracebackType

import msgspec

from sona import wire
from sona.checks import check_number, check_text
from sona.errors import SonaError, UnansweredError
from sona.federated.export import AgentExport
from sona.federated.network import keys
from sona.federated.network.backoff import attempts
from sona.federated.network.line import Line
from sona.federated.network.security import Security
from sona.federated.records import AggregationResult
from sona.federated.spool import Spool
from sona.federated.topology import Topology
from sona.federated.warm_start import WarmStart

__all__ = ["Link"]

# Of one attempt. A burst that is learned from while it arrives keeps its last ones waiting.
TIMEOUT_S = 30.0


class Link(Topology):
    """The four verbs, asked of a node in another process or on another host.

    An agent does not see which topology it is part of: whoever listens on its endpoint
    acknowledges for all.

    Parameters
    ----------
    endpoints : str or sequence of str
        ``tcp/HOST:PORT`` or ``tls/HOST:PORT`` of one node or of several that stand in for each
        other: the first that can be reached is used.
    name : str
        Who this is; others see it as present while the link is open.
    security : Security
        From a file, or :meth:`Security.off` on loopback.
    spool : path_like, optional
        Directory for exports that nobody acknowledges. Whatever lies there, also from agents
        that have ended, is handed in after the next acknowledgement.
    wait_s : float, default 60.0
        How long a verb asks again before it gives up, 0 to 86,400.

    Raises
    ------
    LinkError, SecurityError, StoreError
        If an endpoint, its security or the spool cannot be used.

    Notes
    -----
    Safe to use from several threads. The session is opened with the first verb, so a link may
    be made before a fork, but used on one side of it only.
    """

    role = "agent"

    def __init__(
        self,
        endpoints: str | Sequence[str],
        name: str,
        *,
        security: Security,
        spool: str | PathLike[str] | None = None,
        wait_s: float = 60.0,
    ) -> None:
        endpoints = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        token = keys.alive(self.role, check_text("name", name))
        self._line = Line(connect=endpoints, alive=token, security=security)
        self._wait_s = check_number("wait_s", wait_s, 0.0, 86_400.0)
        self._spool = None if spool is None else Spool(spool)

    def submit(self, export: AgentExport) -> AggregationResult:
        """Hand an export in and return what became of it, once it is committed.

        Raises
        ------
        UnansweredError
            If nobody acknowledged it in time. It may be stored all the same, and handing it in
            again does no harm. With a spool it lies there now.
        SonaError
            What the coordinator refused it with.
        """
        key, body = keys.submit(export.agent_id), export.to_bytes()
        spooled = False

        def keep() -> None:
            nonlocal spooled
            if self._spool is not None and not spooled:
                self._spool.put(export)
                spooled = True

        try:
            data = self._persist(key, body, keep)
        except UnansweredError as error:
            if spooled:
                raise UnansweredError(f"{error}; it lies in the spool now") from None
            raise
        except SonaError as error:
            if self._spool is not None and spooled:
                self._spool.set_aside(export, str(error))
            raise
        if self._spool is not None:
            if spooled:
                self._spool.discard(export)
            self._empty(self._spool)
        return wire.decode_json(data, AggregationResult)

    def warm_start(self, k: int | None = None) -> WarmStart:
        """Fetch what a new agent starts with.

        Raises
        ------
        UnansweredError
            If nobody answered in time.
        """
        body = b"" if k is None else msgspec.json.encode(k)
        return WarmStart.from_bytes(self._persist(keys.WARM, body))

    def publish(self) -> int:
        """Let the node tell the others now what it holds; returns sessions that travelled."""
        return wire.decode_json(self._persist(keys.PUBLISH, b""), int)

    def presence(self) -> dict[str, list[str]]:
        """Return who is linked to the node right now, by the node's name."""
        found = self._line.present(TIMEOUT_S)
        nodes = [keys.last(token) for token in found if token.split("/")[-2] == "node"]
        others = [keys.last(token) for token in found if token.split("/")[-2] != "node"]
        return {node: sorted(others) for node in nodes}

    def close(self) -> None:
        """End the session; others see this one leave."""
        self._line.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _persist(
        self, key: str, payload: bytes, on_silence: Callable[[], None] = lambda: None
    ) -> bytes:
        """Ask until there is an answer or no time left; tell of each silence."""
        began = time.monotonic()
        for left in attempts(self._wait_s):
            try:
                return self._line.ask(key, payload, min(left, TIMEOUT_S) if left else TIMEOUT_S)
            except UnansweredError as error:
                silence = error
                on_silence()
        raise UnansweredError(f"gave up after {time.monotonic() - began:.1f} s: {silence}")

    def _empty(self, spool: Spool) -> None:
        """Hand in what others left; what fails stays for the next, this agent has done its part."""
        deadline = time.monotonic() + self._wait_s
        for export in spool:
            if time.monotonic() > deadline:
                return
            try:
                self._line.ask(keys.submit(export.agent_id), export.to_bytes(), TIMEOUT_S)
            except UnansweredError:
                continue  # perhaps only this one may not be handed in from here
            except SonaError as error:
                spool.set_aside(export, str(error))
            else:
                spool.discard(export)
