"""Exports that nobody acknowledged yet, in a directory that outlives the agent.

For whichever way they go, Zenoh or HTTP. One file per session, so a later export of a session takes
the place of an earlier one, as it will at the coordinator. A file appears under its name only when
it is complete and on the disk. Two agents that submit one file at a time do no harm: submitting is
idempotent.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from os import PathLike, fspath
from urllib.parse import quote

from sona import state
from sona.errors import FormatError, StoreError
from sona.federated.export import AgentExport

__all__ = ["Spool"]

_log = logging.getLogger(__name__)
_SUFFIX = ".export"
# A host whose coordinator is gone for weeks must not lose its disk to it.
MAX_BYTES = 1 << 30


class Spool:
    """A directory of exports, shared by the agents of a host.

    Parameters
    ----------
    directory : path_like
        Created if missing, for its owner only.

    Raises
    ------
    StoreError
        If it cannot be created.
    """

    def __init__(self, directory: str | PathLike[str]) -> None:
        self._directory = fspath(directory)
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(f"`spool`: cannot create {self._directory!r}: {error}") from error

    def put(self, export: AgentExport) -> str:
        """Leave an export, unless a later one of its session lies here; returns the file.

        Raises
        ------
        StoreError
            If it cannot be written or the directory would grow past 1 GiB; nothing is half-written.
        """
        path = self._path(export)
        held = self._read(path) if os.path.exists(path) else None
        if held is not None and held.order >= export.order:
            return path
        data = export.to_bytes()
        held_bytes = sum(entry.stat().st_size for entry in os.scandir(self._directory))
        if held_bytes + len(data) > MAX_BYTES:
            raise StoreError(
                f"`spool`: {self._directory!r} may hold {MAX_BYTES} bytes; it holds {held_bytes}"
                f" and {len(data)} more came"
            )
        try:
            state.write(path, data)
        except OSError as error:
            raise StoreError(f"`spool`: cannot write {path!r}: {error}") from error
        return path

    def discard(self, export: AgentExport) -> None:
        """Remove an export that was acknowledged, unless a later one took its place."""
        path = self._path(export)
        held = self._read(path)
        if held is not None and held.order <= export.order:
            self._remove(path)

    def __iter__(self) -> Iterator[AgentExport]:
        """Read what lies here; a damaged file is reported, renamed and left out."""
        for name in sorted(os.listdir(self._directory)):
            if name.endswith(_SUFFIX):
                export = self._read(os.path.join(self._directory, name))
                if export is not None:
                    yield export

    def __len__(self) -> int:
        return sum(name.endswith(_SUFFIX) for name in os.listdir(self._directory))

    def set_aside(self, export: AgentExport, fault: str) -> None:
        """Keep an export that was refused out of the way, with the reason beside it."""
        self._set_aside(self._path(export), fault)

    def _path(self, export: AgentExport) -> str:
        agent_id, started = export.session
        name = quote(agent_id, safe="")
        if len(name) > 200:  # file systems allow 255 bytes
            name = f"{name[:150]}-{_short(agent_id)}"
        return os.path.join(self._directory, f"{name}@{started}{_SUFFIX}")

    def _read(self, path: str) -> AgentExport | None:
        try:
            with open(path, "rb") as stream:
                return AgentExport.from_bytes(stream.read())
        except FileNotFoundError:  # another agent was faster
            return None
        except FormatError as error:
            self._set_aside(path, str(error))
            return None

    def _set_aside(self, path: str, fault: str) -> None:
        _log.error("%s is set aside: %s", path, fault)
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, f"{path}.refused")
            with open(f"{path}.why", "w", encoding="utf-8") as stream:
                stream.write(f"{fault}\n")

    def _remove(self, path: str) -> None:
        # If a crash brings it back it is submitted once more, which changes nothing.
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def _short(text: str) -> str:
    from hashlib import blake2b

    return blake2b(text.encode(), digest_size=8).hexdigest()
