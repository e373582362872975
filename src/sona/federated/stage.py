"""A thread that takes on together whatever waits for it at the moment it is free."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

__all__ = ["Stage"]

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class Stage(Generic[_T]):
    """One stage of a pipeline: items wait in order, one thread works on all that wait.

    Parameters
    ----------
    work : callable
        Takes one or more items and tells their owners what became of them. What it raises is
        logged, and the next items have their turn.
    name : str
        Of the thread, which is started with the first item.
    most : int, default 64
        Items that are worked on at once.
    waiting : int, default 64
        Items that may wait; :meth:`put` waits while there are more.
    """

    def __init__(
        self, work: Callable[[list[_T]], None], name: str, *, most: int = 64, waiting: int = 64
    ) -> None:
        self._work = work
        self._name = name
        self._most = most
        self._room = threading.Semaphore(waiting)
        self._items: SimpleQueue[_T | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def put(self, item: _T) -> None:
        """Let an item wait for its turn."""
        self._room.acquire()
        self._items.put(item)
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                    self._thread.start()

    def close(self) -> None:
        """Finish what was put and end the thread; nothing may be put meanwhile or afterwards."""
        with self._starting:
            if self._thread is not None:
                self._items.put(None)
                self._thread.join()

    def _run(self) -> None:
        more = True
        while more:
            batch: list[_T] = []
            while more and len(batch) < self._most and not (batch and self._items.empty()):
                item = self._items.get()
                if item is None:
                    more = False
                else:
                    batch.append(item)
            if batch:
                self._room.release(len(batch))
                try:
                    self._work(batch)
                except Exception:  # those who come after must be served all the same
                    _log.exception("%s failed", self._name)
