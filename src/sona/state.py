"""Engine state as bytes and as a file.

A state is an envelope of :mod:`sona.wire`: a JSON header with configuration and counters, and one
tensor per array, so it can be opened with any safetensors reader and holds nothing executable.
A file is replaced in one step: whoever reads it sees the old state or the new one, also after a
crash in between.
"""

from __future__ import annotations

import os
import threading
from os import PathLike, fspath
from typing import Any

import msgspec
from numpy.typing import NDArray

from sona import wire
from sona.config import SonaConfig
from sona.errors import FormatError

__all__ = ["EngineState", "read", "write"]

_KIND = "sona.state"
_VERSION = 1
_BINARY = getattr(os, "O_BINARY", 0)  # Windows alone tells text from bytes


class EngineState(msgspec.Struct, frozen=True, eq=False):
    """Everything that an engine is, by part.

    Attributes
    ----------
    config : SonaConfig
    parts : dict of str to dict
        JSON-able facts of each part.
    tensors : dict of str to ndarray
        Arrays of all parts, named ``part/array``.
    """

    config: SonaConfig
    parts: dict[str, dict[str, Any]]
    tensors: dict[str, NDArray[Any]]

    @classmethod
    def of(
        cls,
        config: SonaConfig,
        parts: dict[str, dict[str, Any]],
        arrays: dict[str, dict[str, NDArray[Any]]],
    ) -> EngineState:
        """Make a state of each part's facts and of each part's arrays."""
        tensors = {
            f"{part}/{name}": array for part, held in arrays.items() for name, array in held.items()
        }
        return cls(config, parts, tensors)

    def to_bytes(self) -> bytes:
        """Write the state as one message."""
        return wire.pack(_KIND, _VERSION, _Header(self.config, self.parts), self.tensors)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> EngineState:
        """Read a state.

        Raises
        ------
        FormatError
            If the bytes are not a state; :class:`~sona.errors.IntegrityError` if damaged.
        """
        header, tensors = wire.unpack(data, _KIND, _VERSION, _Header)
        return cls(header.config, header.parts, tensors)

    def tensors_of(self, part: str) -> dict[str, NDArray[Any]]:
        """Arrays of one part, under their names within the part."""
        return wire.under(self.tensors, part + "/")

    def facts_of(self, part: str) -> dict[str, Any]:
        """JSON-able facts of one part."""
        facts = self.parts.get(part)
        if facts is None:
            raise FormatError(f"`data` holds no part {part!r}")
        return facts


class _Header(msgspec.Struct):
    config: SonaConfig
    parts: dict[str, dict[str, Any]]


def write(path: str | PathLike[str], data: bytes) -> None:
    """Replace a file by `data`, durably and in one step."""
    path = fspath(path)
    folder = os.path.dirname(os.path.abspath(path))
    # Beside the target, because only a rename within one file system is a single step.
    temporary = f"{path}.{os.getpid()}-{threading.get_ident()}.tmp"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    if os.name == "posix":  # the rename itself must reach the disk; Windows cannot open folders
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def read(path: str | PathLike[str]) -> bytes:
    """Read a whole file.

    Raises
    ------
    FormatError
        If it is larger than any message may be.
    """
    size = os.path.getsize(path)
    if size > wire.MAX_BYTES:
        raise FormatError(f"`path`: {fspath(path)!r} has {size} bytes; at most {wire.MAX_BYTES}")
    with open(path, "rb") as file:
        return file.read()
