"""How a node passes on what it holds: rounds that repeat whatever happens."""

from __future__ import annotations

import logging
import random
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from sona.errors import SonaError

if TYPE_CHECKING:
    from sona.federated.network.node import Node

__all__ = ["Exchange"]

_log = logging.getLogger(__name__)
_FIRST_S, _LONGEST_S = 0.1, 10.0


class Exchange(ABC):
    """Repeats :meth:`exchange` in a thread, with a jittered back-off after failures.

    :class:`Forwarding` passes on upward, :class:`Gossip` around. One round runs at a time.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._news = threading.Event()
        self._closing = threading.Event()
        self._round = threading.Lock()
        self._node: Node | None = None
        self._thread: threading.Thread | None = None

    @abstractmethod
    def exchange(self, node: Node) -> int:
        """Run one round; returns sessions that travelled."""

    def attach(self, node: Node) -> None:
        """Begin, for this node."""
        self._node = node
        self._thread = threading.Thread(target=self._run, name="sona exchange", daemon=True)
        self._thread.start()

    def round(self) -> int:
        """Run one round now, after the one that may be going on."""
        assert self._node is not None
        with self._round:
            return self.exchange(self._node)

    def stir(self) -> None:
        """Take note that the node holds something new."""
        self._news.set()

    def close(self) -> None:
        """End after the round that may be going on."""
        self._closing.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            self._news.clear()
            try:
                self.round()
            except SonaError as error:
                if not failures:
                    _log.warning("no exchange, trying again until there is one: %s", error)
                # A fleet that lost one node at one moment does not return at one moment.
                span = min(_FIRST_S * 2.0 ** min(failures, 20), _LONGEST_S)
                self._closing.wait(random.uniform(0.0, span))
                failures += 1
            else:
                if failures:
                    _log.warning("exchanged again after %d failures", failures)
                failures = 0
                self._news.wait(self._interval_s)
