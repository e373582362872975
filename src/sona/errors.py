"""What can go wrong, one class per cause.

Every class is also the builtin that a caller would expect (`ValueError`, `TypeError`, ...), so
code that knows nothing of sona catches the right thing. Messages name the argument, what was
expected and what came.
"""

from __future__ import annotations

__all__ = [
    "BuilderError",
    "ConfigError",
    "DTypeError",
    "ForkError",
    "FormatError",
    "IntegrityError",
    "LinkError",
    "MissingExtraError",
    "NonFiniteError",
    "NotFittedError",
    "RangeError",
    "SecurityError",
    "ServiceError",
    "ShapeError",
    "SonaError",
    "StoreError",
    "UnansweredError",
    "VersionError",
]


class SonaError(Exception):
    """Base of every error that sona raises on purpose."""


class ShapeError(SonaError, ValueError):
    """An array has the wrong number of dimensions or the wrong length."""


class DTypeError(SonaError, TypeError):
    """An array or a scalar has a type that is not converted."""


class NonFiniteError(SonaError, ValueError):
    """A NaN or an infinity came where a finite number is needed."""


class RangeError(SonaError, ValueError):
    """A number lies outside its range."""


class ConfigError(SonaError, ValueError):
    """A configuration field has no meaning with this value."""


class BuilderError(SonaError, ValueError):
    """A trajectory builder was used twice or on an engine that did not begin it."""


class FormatError(SonaError, ValueError):
    """A message or a file from outside does not follow its format."""


class IntegrityError(FormatError):
    """A message or a file was damaged or altered after it was written."""


class VersionError(FormatError):
    """A message or a file was written in a format version that this release cannot read."""


class StoreError(SonaError, RuntimeError):
    """A durable store refused to read or to commit."""


class ServiceError(SonaError, ConnectionError):
    """A service refused a request (``status`` says how) or could not be reached (None)."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class LinkError(SonaError, ConnectionError):
    """An endpoint cannot be read, reached or listened on."""


class SecurityError(SonaError, PermissionError):
    """A link would not be as safe as it must be, or a security file cannot be used."""


class UnansweredError(SonaError, TimeoutError):
    """Nobody answered in time; what was asked may have been done all the same."""


class ForkError(SonaError, RuntimeError):
    """A process uses the network that its parent had opened before the fork."""


class MissingExtraError(SonaError, ImportError):
    """An optional library is not installed; the message names the extra that brings it."""


class NotFittedError(SonaError, ValueError, AttributeError):
    """An estimator was asked for a result before `fit`."""
