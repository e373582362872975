"""News for those who watch: a bounded past, a queue per watcher, nothing that waits for anyone."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec

__all__ = ["Events"]

_PAST = 256
_BACKLOG = 256
_BEAT_SECONDS = 15.0


class Events:
    """The news of one tenant; for the event loop's thread.

    A watcher that reads too slowly loses the oldest news and is told so (``lagged``): it looks
    at the present again instead. Numbers rise by one, so a watcher that comes back with the
    last number it saw receives what it missed, as far as that is remembered.
    """

    def __init__(self) -> None:
        self._number = 0
        self._past: deque[tuple[int, bytes]] = deque(maxlen=_PAST)
        self._watchers: set[asyncio.Queue[bytes | None]] = set()
        self._closed = False

    def publish(self, kind: str, news: Any) -> None:
        """Tell everyone who watches."""
        self._number += 1
        text = _frame(kind, news, self._number)
        self._past.append((self._number, text))
        for queue in self._watchers:
            if queue.full():
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(_frame("lagged", {}, self._number))
            queue.put_nowait(text)

    async def watch(self, seen: int | None = None) -> AsyncIterator[bytes]:
        """Yield server-sent events until the service closes.

        Parameters
        ----------
        seen : int, optional
            Number of the last event that the watcher has; later ones that are remembered come
            first.
        """
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_BACKLOG)
        self._watchers.add(queue)
        try:
            yield _frame("hello", {"number": self._number}, None)
            if seen is not None:
                if (self._past and self._past[0][0] > seen + 1) or seen > self._number:
                    yield _frame("lagged", {}, self._number)
                for number, text in list(self._past):
                    if number > seen:
                        yield text
            while not self._closed:
                try:
                    text_or_end = await asyncio.wait_for(queue.get(), _BEAT_SECONDS)
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                if text_or_end is None:
                    return
                yield text_or_end
        finally:
            self._watchers.discard(queue)

    def close(self) -> None:
        """End every watcher's stream."""
        self._closed = True
        for queue in self._watchers:
            while queue.full():
                queue.get_nowait()
            queue.put_nowait(None)


def _frame(kind: str, news: Any, number: int | None) -> bytes:
    mark = b"" if number is None else b"id: %d\n" % number
    return b"event: %s\n%sdata: %s\n\n" % (kind.encode(), mark, msgspec.json.encode(news))
