"""The serving side: a coordinator that answers on the network."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from sona import wire
from sona.errors import RangeError
from sona.federated.coordinator import FederatedCoordinator
from sona.federated.export import AgentExport
from sona.federated.merge import Ledger
from sona.federated.network import keys
from sona.federated.network.line import Line
from sona.federated.network.messages import Refusal, fingerprint
from sona.federated.network.security import Security
from sona.federated.records import AggregationResult
from sona.federated.stage import Stage
from sona.federated.trust import Judged
from sona.federated.warm_start import WarmStart

if TYPE_CHECKING:
    from collections.abc import Sequence

    import zenoh

    from sona.federated.network.exchange import Exchange

__all__ = ["Node"]

_log = logging.getLogger(__name__)

# Exports that wait in memory to be taken in; with more, Zenoh holds the senders back.
_BACKLOG = 64
# Exports that one commit takes in, so that the first of a burst need not wait for its last.
_TOGETHER = 16
# How often to see whether something has waited long enough for a consolidation.
_TICK_S = 10.0
# Learning waits until for so long nothing came, but not longer than that: to learn an export takes
# ten times as long as to commit it, and whoever waits for an acknowledgement pays for waiting.
_QUIET_S, _BUSY_S = 0.5, 30.0


class Node:
    """Answers for a coordinator on the network, and passes on what it holds.

    Parameters
    ----------
    coordinator : FederatedCoordinator
        Give it a store: an acknowledgement is worth as much as the store behind it.
    listen : sequence of str
        Endpoints, ``tls/HOST:PORT``, or ``tcp/HOST:PORT`` on loopback.
    security : Security
    exchange : Exchange, optional
        :class:`Forwarding` makes it a regional coordinator, :class:`Gossip` a peer. Without one
        it is the coordinator of a star, or the global one above regions.

    Raises
    ------
    LinkError
        If it cannot listen there.
    SecurityError
        If an endpoint is not as safe as it must be.

    Notes
    -----
    The node answers from its own threads until it is closed. It does not close the coordinator.
    """

    def __init__(
        self,
        coordinator: FederatedCoordinator,
        listen: Sequence[str],
        *,
        security: Security,
        exchange: Exchange | None = None,
    ) -> None:
        self.coordinator = coordinator
        self._exchange = exchange
        self._line = Line(
            listen=listen, alive=keys.alive("node", coordinator.coordinator_id), security=security
        )
        self._learned = 0  # how often the engine was given something to learn
        self._warm: tuple[object, bytes] | None = None
        self._news = threading.Event()
        self._closing = threading.Event()
        self._inherited: WarmStart | None = None
        self._threads: list[threading.Thread] = []
        self._queryables: list[zenoh.Queryable[Any]] = []
        # While this thread waits for the disk, others read and judge what came meanwhile.
        self._committing = Stage(self._commit, "sona commit", most=_TOGETHER, waiting=_TOGETHER)
        try:
            session = self._line.session()
            self._start(self._learn, "learn")
            if exchange is not None:
                exchange.attach(self)
            for key, read in ((keys.SUBMIT, _submitted), (keys.FORWARD, _forwarded)):
                self._serve(session, key, partial(self._read, read))
            for key, answer in (
                (keys.WARM, self._warm_start),
                (keys.LEDGER, self._ledger),
                (keys.HEED, self._heed),
                (keys.EXPORT, self._export),
                (keys.PUBLISH, self._publish),
            ):
                self._serve(session, key, partial(_answer, answer))
        except BaseException:
            self.close()
            raise

    def take_in(self, export: AgentExport) -> AggregationResult:
        """Commit an export; whoever the node exchanges with will hear of it."""
        result = self.coordinator.aggregate(export, learn=False)
        self._heard([result])
        return result

    def inherit(self, warm_start: WarmStart) -> None:
        """Hand out what a coordinator above knows, while that is more than is known here."""
        self._inherited = warm_start

    def publish(self) -> int:
        """Pass on what is held, now; returns sessions that travelled."""
        return 0 if self._exchange is None else self._exchange.round()

    def close(self) -> None:
        """Finish what was begun, then leave."""
        if self._exchange is not None:
            self._exchange.close()
        self._closing.set()
        self._news.set()
        for queryable in self._queryables:
            queryable.undeclare()  # type: ignore[no-untyped-call]
        for thread in self._threads:
            thread.join()
        self._committing.close()
        self._line.close()

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self, read: Callable[[str, bytes], AgentExport], query: zenoh.Query) -> None:
        """Parse and judge an export, and hand it on to be committed."""
        key, payload = _asked(query)
        try:
            judged = self.coordinator.admit(read(key, payload))
        except Exception as error:
            _reply(query, key, error)
            return
        if isinstance(judged, AggregationResult):
            _reply(query, key, msgspec.json.encode(judged))
        else:
            self._committing.put((query, key, judged))

    def _commit(self, waiting: list[tuple[zenoh.Query, str, Judged]]) -> None:
        """Commit exports, acknowledge them, and take note that something is new."""
        results: Sequence[AggregationResult | Exception]
        try:
            results = self.coordinator.aggregate_all([judged for _, _, judged in waiting])
        except Exception as error:
            results = [error] * len(waiting)
        self._heard(results)
        for (query, key, _), told in zip(waiting, results, strict=True):
            _reply(query, key, told if isinstance(told, Exception) else msgspec.json.encode(told))

    def _heard(self, results: Sequence[AggregationResult | Exception]) -> None:
        if any(isinstance(told, AggregationResult) and not told.duplicate for told in results):
            self._news.set()
            if self._exchange is not None:
                self._exchange.stir()

    def _warm_start(self, key: str, payload: bytes) -> bytes:
        if payload:
            return self.coordinator.warm_start(wire.decode_json(payload, int)).to_bytes()
        # A fleet that starts at one moment asks for one thing: it is written once, until something
        # was learned here or above. A consolidation changes the engine.
        known = (self.coordinator.master_engine, self._learned, self._inherited)
        warm = self._warm
        if warm is None or warm[0] != known:
            best, inherited = self.coordinator.warm_start(), known[2]
            if inherited is not None and inherited.version >= best.version:
                best = inherited
            warm = self._warm = (known, best.to_bytes())
        return warm[1]

    def _ledger(self, key: str, payload: bytes) -> bytes:
        ledger = self.coordinator.ledger.to_bytes()
        return b"" if payload == fingerprint(ledger) else ledger

    def _export(self, key: str, payload: bytes) -> bytes:
        session = keys.session(key)
        held = self.coordinator.store.export(session)
        if held is None:
            raise RangeError(f"`session` must be one that is held; got {session}")
        return held[1].to_bytes()

    def _heed(self, key: str, payload: bytes) -> bytes:
        self.coordinator.heed(Ledger.from_bytes(payload))
        return b""

    def _publish(self, key: str, payload: bytes) -> bytes:
        return msgspec.json.encode(self.publish())

    def _learn(self) -> None:
        """Learn what was committed, when nobody waits for an acknowledgement."""
        while not self._closing.is_set():
            self._news.wait(_TICK_S)
            began = time.monotonic()
            while self._news.is_set() and time.monotonic() - began < _BUSY_S:
                self._news.clear()
                self._closing.wait(_QUIET_S)
            try:
                self.coordinator.tick()
                self._learned += 1
            except Exception:  # whatever it is, exports must still be taken in
                _log.exception("no consolidation, trying again with the next export")

    def _serve(
        self, session: zenoh.Session, key: str, handle: Callable[[zenoh.Query], None]
    ) -> None:
        import zenoh

        queryable = session.declare_queryable(
            key, zenoh.handlers.FifoChannel(_BACKLOG), complete=True
        )
        self._queryables.append(queryable)
        queries = queryable.handler  # a thread that waits on the queryable itself locks it

        def work() -> None:
            while True:
                try:
                    query = queries.recv()
                except zenoh.ZError:  # undeclared
                    return
                handle(query)

        self._start(work, key)

    def _start(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=f"sona {name}", daemon=True)
        thread.start()
        self._threads.append(thread)


def _submitted(key: str, payload: bytes) -> AgentExport:
    export = AgentExport.from_bytes(payload)
    sender = keys.last(key)  # access control has let this sender use this name
    if export.agent_id != sender:
        raise RangeError(f"`export.agent_id` must be {sender!r}; got {export.agent_id!r}")
    return export


def _forwarded(key: str, payload: bytes) -> AgentExport:
    return AgentExport.from_bytes(payload)


def _asked(query: zenoh.Query) -> tuple[str, bytes]:
    return str(query.key_expr), b"" if query.payload is None else query.payload.to_bytes()


def _answer(answer: Callable[[str, bytes], bytes], query: zenoh.Query) -> None:
    key, payload = _asked(query)
    told: bytes | Exception
    try:
        told = answer(key, payload)
    except Exception as error:
        told = error
    _reply(query, key, told)


def _reply(query: zenoh.Query, key: str, answer: bytes | Exception) -> None:
    import zenoh

    try:
        with query:
            if isinstance(answer, bytes):
                query.reply(key, answer)
                return
            refusal = Refusal.of(answer)
            if not refusal.final:
                _log.error("%s failed", key, exc_info=answer)
            query.reply_err(msgspec.json.encode(refusal))
    except zenoh.ZError as error:  # who asked has left
        _log.warning("%s was not told the answer: %s", key, error)
