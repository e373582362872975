"""Moves what was committed from SQLite's write-ahead log into the file, beside the writers.

By itself SQLite does that inside the commit that fills the log, and everybody whose export waits
for the next commit waits for it: as many bytes again, and two more waits for the disk. A thread
of its own does most of it while writers go on; what is left for the commit that starts the log
anew is what came meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Checkpoints"]

#: Bytes after which the thread moves what was committed.
_DUE = 4 << 20
#: What a commit changes besides the bytes that it was given: some pages.
_COMMIT = 32 << 10


class Checkpoints:
    """The thread of one database; started with the first bytes that are worth it.

    Parameters
    ----------
    connect : callable
        Opens a connection for the thread.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._wake = threading.Event()
        self._ended = False
        self._written = 0
        self._thread: threading.Thread | None = None

    def committed(self, n_bytes: int) -> None:
        """Take note of a commit; for one writer at a time."""
        self._written += n_bytes + _COMMIT
        if self._written < _DUE:
            return
        self._written = 0
        self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sona checkpoint", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Let the thread end; whoever closes the file moves what is left."""
        self._ended = True
        self._wake.set()

    def join(self) -> None:
        """Wait until it has ended."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        import sqlite3  # not at import of sona: only those who store need it

        # What fails here is left to the commit that starts the log anew.
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._connect()) as db:
            while self._wake.wait() and not self._ended:
                self._wake.clear()
                with contextlib.suppress(sqlite3.Error):
                    db.execute("PRAGMA wal_checkpoint(PASSIVE)")
