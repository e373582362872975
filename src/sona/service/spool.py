"""Exports that could not be sent yet: one file each, written durably, sent oldest first."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sona import state
from sona.errors import StoreError

__all__ = ["Spool"]

_SUFFIX = ".export"


class Spool:
    """A folder of exports that wait to be sent.

    Parameters
    ----------
    folder : path_like
        Created if missing.
    max_bytes : int, default 1 GiB
        A spool that would grow larger refuses.

    Notes
    -----
    Several processes may share a folder: files are complete when they appear, and the receiver
    knows an export that is sent twice.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int = 2**30) -> None:
        self._folder = Path(folder)
        self._max_bytes = max_bytes
        self._folder.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, data: bytes) -> None:
        """Keep a message; an equal name replaces it.

        Raises
        ------
        StoreError
            If the spool is full or cannot be written.
        """
        held = 0
        for path in self._folder.glob("*" + _SUFFIX):
            with suppress(FileNotFoundError):  # another process has sent it meanwhile
                held += path.stat().st_size
        if held + len(data) > self._max_bytes:
            raise StoreError(
                f"`spool`: {os.fspath(self._folder)!r} may hold {self._max_bytes} bytes; it holds"
                f" {held} and {len(data)} more came"
            )
        try:
            state.write(self._folder / f"{time.time_ns():020d}-{name}{_SUFFIX}", data)
        except OSError as error:
            raise StoreError(
                f"`spool`: cannot write {os.fspath(self._folder)!r}: {error}"
            ) from error

    def waiting(self) -> Iterator[tuple[Path, bytes]]:
        """Yield files and what they hold, the oldest first."""
        for path in sorted(self._folder.glob("*" + _SUFFIX)):
            try:
                yield path, path.read_bytes()
            except FileNotFoundError:  # another process has sent it meanwhile
                continue

    def remove(self, path: Path) -> None:
        """Forget a message that was sent."""
        path.unlink(missing_ok=True)

    def set_aside(self, path: Path, why: str) -> None:
        """Keep a message that was refused for good out of the way, with the reason beside it."""
        aside = path.with_suffix(".refused")
        path.replace(aside)
        aside.with_suffix(".why").write_text(why + "\n")

    def __len__(self) -> int:
        return sum(1 for _ in self._folder.glob("*" + _SUFFIX))
