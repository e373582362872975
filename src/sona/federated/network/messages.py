"""What travels beside exports and warm starts: acknowledgements and refusals, as JSON."""

from __future__ import annotations

from typing import NoReturn

import msgspec

from sona import errors, wire
from sona.errors import SonaError, StoreError

__all__ = ["Refusal", "fingerprint", "read_refusal"]


class Refusal(msgspec.Struct, tag="refusal", tag_field="sona", forbid_unknown_fields=True):
    """What a node answers instead of doing as asked.

    Attributes
    ----------
    error : str
        Class in :mod:`sona.errors`.
    message : str
    final : bool
        Whether the same request would be refused again; false for a full disk, a locked store.
    """

    error: str
    message: str
    final: bool

    @classmethod
    def of(cls, error: Exception) -> Refusal:
        """Describe an error; what is not about the request may pass, and so is not final."""
        final = isinstance(error, SonaError) and not isinstance(error, StoreError)
        return cls(type(error).__name__, str(error), final)

    def raise_it(self) -> NoReturn:
        """Raise here what was raised there."""
        known = self.error if self.error in errors.__all__ else SonaError.__name__
        raise getattr(errors, known)(self.message)


def read_refusal(data: bytes) -> Refusal | None:
    """Read an error reply; None where it is not a node's, such as Zenoh's own time-out."""
    try:
        return wire.decoder(Refusal).decode(data)
    except msgspec.DecodeError:
        return None


def fingerprint(data: bytes) -> bytes:
    """Name some bytes by 16, to see whether two sides have the same."""
    from hashlib import blake2b

    return blake2b(data, digest_size=16).digest()
