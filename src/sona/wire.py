"""The one envelope of everything that sona writes: state files, exports, warm starts.

An envelope is a safetensors message, so any safetensors reader can look inside. Its metadata
names what it is (``kind``), the version of that kind's format, a JSON ``header`` whose schema
the kind defines, and a CRC-32 over header and tensors. Reading never executes anything: the
container is parsed by safetensors, the header by a msgspec schema.

The checksum finds damage, not forgery; :func:`digest` is the content-derived name of a message.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from sona.errors import FormatError, IntegrityError, VersionError

__all__ = ["decode_json", "decoder", "digest", "kind_of", "pack", "under", "unpack"]

#: A larger message is refused before it is parsed.
MAX_BYTES = 1 << 30

_HeaderT = TypeVar("_HeaderT")


class _Metadata(msgspec.Struct):
    kind: str
    version: int
    header: str
    crc32: int


class _Texts(msgspec.Struct):
    # One text, because safetensors writes several in an order that differs from run to run.
    sona: str


class _Preamble(msgspec.Struct):
    # The JSON head of a safetensors message; the tensors' entries are left to safetensors.
    metadata: _Texts = msgspec.field(name="__metadata__")


def pack(kind: str, version: int, header: Any, tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Write an envelope.

    Parameters
    ----------
    kind : str
        What the message is, for example ``"sona.export"``.
    version : int
        Version of that kind's format.
    header : object
        Anything that msgspec writes as JSON.
    tensors : mapping of str to ndarray
        Arrays of any integer or float dtype.

    Returns
    -------
    bytes
        The message. Cost: two copies of the tensors.
    """
    head = msgspec.json.encode(header)
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    metadata = _Metadata(kind, version, head.decode(), _checksum(head, arrays))
    text = msgspec.json.encode(metadata).decode()
    return bytes(safetensors.numpy.save(arrays, {"sona": text}))


def unpack(
    data: bytes | bytearray | memoryview,
    kind: str,
    version: int,
    header_type: type[_HeaderT],
    *,
    max_bytes: int = MAX_BYTES,
) -> tuple[_HeaderT, dict[str, NDArray[Any]]]:
    """Read an envelope of the expected kind and version.

    Returns
    -------
    header : header_type
        Parsed and checked against its schema.
    tensors : dict of str to ndarray
        Read-only arrays that share one copy of the message.

    Raises
    ------
    FormatError
        If the bytes are not such an envelope. :class:`~sona.errors.VersionError` if a newer
        release wrote them, :class:`~sona.errors.IntegrityError` if they are damaged.
    """
    if len(data) > max_bytes:
        raise FormatError(f"`data` must have at most {max_bytes} bytes; got {len(data)}")
    raw = bytes(data)
    metadata = _read_metadata(raw)
    if metadata.kind != kind:
        raise FormatError(f"`data` must hold a {kind!r} message; got {metadata.kind!r}")
    if metadata.version != version:
        raise VersionError(f"`data` must have {kind} version {version}; got {metadata.version}")
    try:
        tensors = safetensors.numpy.load(raw)
    except Exception as error:  # safetensors raises its own class and overflow errors
        raise FormatError(f"`data` is not a well-formed message: {error}") from None
    for array in tensors.values():
        array.flags.writeable = False
    if _checksum(metadata.header.encode(), tensors) != metadata.crc32:
        raise IntegrityError("`data` was damaged after it was written: checksum does not match")
    return decode_json(metadata.header, header_type), tensors


def kind_of(data: bytes | bytearray | memoryview) -> str:
    """Return what an envelope says it holds; nothing else of it is read.

    Raises
    ------
    FormatError
        If it is no envelope.
    """
    return _read_metadata(data).kind


def decode_json(text: str | bytes, schema: type[_HeaderT]) -> _HeaderT:
    """Parse JSON by a schema; the error names the place, as in ``$.stats.avg_quality``."""
    try:
        return decoder(schema).decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise FormatError(f"malformed JSON: {error}") from None


def decoder(schema: type[_HeaderT]) -> msgspec.json.Decoder[_HeaderT]:
    """Return the JSON decoder of a schema; made once, one at a time.

    msgspec reads the fields of a type when it first meets it, and kills the process if another
    thread decodes that type meanwhile (seen with msgspec 0.22). Whoever decodes in threads gets
    the decoder here.
    """
    known = _DECODERS.get(schema)
    if known is None:
        with _MAKING:
            known = _DECODERS.setdefault(schema, msgspec.json.Decoder(schema))
    return known


_DECODERS: dict[type[Any], msgspec.json.Decoder[Any]] = {}
_MAKING = threading.Lock()


def under(tensors: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """Return the tensors whose names begin with `prefix`, under the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def digest(header: Any, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Content-derived name: SHA-256 over header and tensors, 64 hexadecimal characters."""
    import hashlib  # loads OpenSSL, which an engine alone never needs

    sha = hashlib.sha256()
    for part in _parts(msgspec.json.encode(header), tensors):
        sha.update(part)
    return sha.hexdigest()


def _read_metadata(raw: bytes | bytearray | memoryview) -> _Metadata:
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length > len(raw) - 8:
        raise FormatError(f"`data` is not a sona message: {len(raw)} bytes hold no complete head")
    try:
        texts = decoder(_Preamble).decode(raw[8 : 8 + length]).metadata
        return decoder(_Metadata).decode(texts.sona)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise FormatError(f"`data` is not a sona message: {error}") from None


def _checksum(head: bytes, tensors: Mapping[str, NDArray[Any]]) -> int:
    crc = 0
    for part in _parts(head, tensors):
        crc = zlib.crc32(part, crc)
    return crc


def _parts(head: bytes, tensors: Mapping[str, NDArray[Any]]) -> Iterator[Any]:
    yield head
    for name in sorted(tensors):
        array = tensors[name]
        yield f"{name}:{array.dtype.str}:{array.shape};".encode()
        yield np.ascontiguousarray(array).reshape(-1)  # both take any buffer of one dimension
