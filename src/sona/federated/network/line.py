"""One Zenoh session: opened when first needed, in the process that needs it.

Multicast and gossip scouting are off, and endpoints are explicit: a process speaks to whom it was
told to, and listens where it was told to. A client's session has one other end, so whatever a
name means there, nobody else answers to it.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sona.errors import (
    ForkError,
    LinkError,
    MissingExtraError,
    RangeError,
    SecurityError,
    UnansweredError,
)
from sona.federated.network import keys
from sona.federated.network.messages import read_refusal
from sona.federated.network.security import Security

if TYPE_CHECKING:
    import zenoh

__all__ = ["Line"]

_ENDPOINT = re.compile(r"(tcp|tls)/(.+):(\d{1,5})")
_LOOPBACK = re.compile(r"localhost|\[::1\]|127(\.\d{1,3}){3}")
# What is larger is refused here, and dropped by the receiver before it is assembled; the key and
# Zenoh's own head come on top.
MAX_MESSAGE = 64 << 20

# Zenoh's runtime is threads, and threads do not survive a fork: a child of a process that has
# opened a session can never open one itself, it would wait for ever.
_opened_in: int | None = None


class Line:
    """A session with explicit endpoints.

    Parameters
    ----------
    listen, connect : sequence of str
        Endpoints, ``tcp/HOST:PORT`` or ``tls/HOST:PORT``. Who listens is a node; who only
        connects is a client, which goes to the first endpoint that it reaches, and looks for
        another when that one is lost.
    alive : str
        Liveliness token that tells others that this process is there.
    security : Security

    Raises
    ------
    LinkError
        If an endpoint cannot be read.
    SecurityError
        If security is off and an endpoint is not on loopback, or on and one is not TLS.
    """

    def __init__(
        self,
        *,
        listen: Sequence[str] = (),
        connect: Sequence[str] = (),
        alive: str,
        security: Security,
    ) -> None:
        if not (listen or connect):
            raise LinkError("a link needs at least one endpoint; got none")
        for endpoint in (*listen, *connect):
            _check(endpoint, security)
        self._settings = _settings(list(listen), list(connect), security)
        self._where = ", ".join((*listen, *connect))
        self._alive = alive
        self._lock = threading.Lock()
        self._session: zenoh.Session | None = None

    def session(self) -> zenoh.Session:
        """Return the open session.

        Raises
        ------
        LinkError
            If nothing can be reached, or this process cannot listen there.
        ForkError
            If a session was opened before this process was forked.
        MissingExtraError
            If eclipse-zenoh is not installed.
        """
        global _opened_in
        here = os.getpid()
        if _opened_in not in (None, here):
            raise ForkError(
                "this process was forked from one that had used the network already; use it only"
                " after the fork, or start processes with the 'spawn' or 'forkserver' method"
            )
        with self._lock:
            if self._session is None:
                try:
                    import zenoh
                except ImportError:
                    raise MissingExtraError(
                        "the network needs eclipse-zenoh; install it with: pip install"
                        " 'sona[zenoh]'"
                    ) from None
                config = zenoh.Config()
                for name, value in self._settings.items():
                    config.insert_json5(name, _json(value))
                _opened_in = here
                try:
                    session = zenoh.open(config)
                    self._token = session.liveliness().declare_token(self._alive)
                    self._session = session
                except zenoh.ZError as error:
                    reason = str(error).partition(" at /")[0].strip()  # without its source line
                    raise LinkError(f"cannot open {self._where}: {reason}") from error
            return self._session

    def ask(self, key: str, payload: bytes, timeout_s: float) -> bytes:
        """Return the answer to a question.

        Raises
        ------
        UnansweredError
            If none came: nobody is there, it took too long, or access was denied.
        RangeError
            If the payload is larger than 64 MiB.
        SonaError
            What the node raised, where asking again would not help.
        """
        if len(payload) > MAX_MESSAGE:
            raise RangeError(
                f"a message must have at most {MAX_MESSAGE} bytes; {key!r} got {len(payload)}"
            )
        try:
            session = self.session()
        except LinkError as error:
            raise UnansweredError(str(error)) from error
        import zenoh

        try:
            replies = session.get(key, payload=payload, timeout=timeout_s)
        except zenoh.ZError as error:  # the session was closed meanwhile
            raise UnansweredError(f"{key!r} could not be asked: {error}") from error
        why = f"nobody answers {key!r} at {self._where}, or access is denied"
        for reply in replies:
            if reply.ok is not None:
                # The only reply to believe is the one to what was asked.
                if str(reply.ok.key_expr) == key:
                    return reply.ok.payload.to_bytes()
                continue
            fault = reply.err.payload.to_bytes() if reply.err is not None else b""
            refusal = read_refusal(fault)
            if refusal is None:
                why = f"no answer to {key!r} within {timeout_s:g} s"
            elif refusal.final:
                refusal.raise_it()
            else:
                why = refusal.message
        raise UnansweredError(why)

    def present(self, timeout_s: float) -> list[str]:
        """Return the tokens of everyone who is there: the node, and whoever is linked to it."""
        try:
            replies = self.session().liveliness().get(keys.ALIVE, timeout=timeout_s)
        except LinkError as error:
            raise UnansweredError(str(error)) from error
        return sorted({str(reply.ok.key_expr) for reply in replies if reply.ok is not None})

    def close(self) -> None:
        """Close the session; the next question opens another."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None and _opened_in == os.getpid():
            session.close()  # type: ignore[no-untyped-call]


def _check(endpoint: str, security: Security) -> None:
    read = _ENDPOINT.fullmatch(endpoint)
    if read is None or not 0 < int(read[3]) < 65536:
        raise LinkError(f"an endpoint must be 'tcp/HOST:PORT' or 'tls/HOST:PORT'; got {endpoint!r}")
    if security.is_on and read[1] != "tls":
        raise SecurityError(f"endpoint {endpoint!r} must be 'tls/...' where security is on")
    if not security.is_on and (read[1] == "tls" or not _LOOPBACK.fullmatch(read[2])):
        raise SecurityError(
            f"endpoint {endpoint!r} needs a security file: security may be off for"
            " 'tcp/' on loopback only"
        )


def _settings(listen: list[str], connect: list[str], security: Security) -> Mapping[str, Any]:
    settings: dict[str, Any] = {
        "mode": "router" if listen else "client",
        "scouting/multicast/enabled": False,
        "scouting/gossip/enabled": False,
        "listen/endpoints": listen,
        "connect/endpoints": connect,
        # A node that learns may leave a burst waiting: a full queue is no reason to hang up.
        "transport/link/tx/queue/congestion_control/block/wait_before_close": 60_000_000,
        "transport/link/rx/max_message_size": MAX_MESSAGE + (1 << 20),
        "transport/link/protocols": ["tls" if security.is_on else "tcp"],
        "transport/unicast/max_sessions": 10_000,
        "transport/unicast/accept_pending": 1_000,
        "transport/shared_memory/enabled": False,
    }
    if security.is_on:
        settings["transport/link/tls"] = security.tls()
        if listen:
            settings["access_control"] = security.access()
    return settings


def _json(value: Any) -> str:
    import json

    return json.dumps(value)
