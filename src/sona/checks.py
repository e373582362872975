"""What a number or a text must be before sona takes it, and the words that refuse it.

Arrays are checked by :mod:`sona._core`, which does it without copying.
"""

from __future__ import annotations

import math

import numpy as np

from sona.errors import DTypeError, NonFiniteError, RangeError, SonaError

__all__ = ["check_count", "check_number", "check_quality", "check_text", "check_time"]

_MAX_TEXT = 1_024


def check_quality(name: str, value: object) -> float:
    """Return `value` as a float in [0, 1]."""
    if type(value) is float and 0.0 <= value <= 1.0:  # once per request
        return value
    return check_number(name, value, 0.0, 1.0)


def check_number(name: str, value: object, low: float, high: float) -> float:
    """Return `value` as a finite float in [low, high]."""
    if type(value) is not float:
        if isinstance(value, bool | np.bool_) or not isinstance(
            value, int | float | np.floating | np.integer
        ):
            raise DTypeError(f"`{name}` must be a number in [{low:g}, {high:g}]; got {value!r}")
        value = float(value)
    if not low <= value <= high:
        error = RangeError if math.isfinite(value) else NonFiniteError
        raise error(f"`{name}` must be in [{low:g}, {high:g}]; got {value}")
    return value


def check_count(name: str, value: object, low: int = 1) -> int:
    """Return `value` as an int that is at least `low`."""
    if type(value) is int and value >= low:  # the usual case, for little
        return value
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise DTypeError(f"`{name}` must be an integer; got {value!r}")
    if value < low:
        raise RangeError(f"`{name}` must be at least {low}; got {value}")
    return int(value)


def check_text(name: str, text: object, error: type[SonaError] = RangeError) -> str:
    """Return `text` if it is a string of 1 to 1024 characters."""
    if not isinstance(text, str) or not 0 < len(text) <= _MAX_TEXT:
        shown = f"{len(text)} characters" if isinstance(text, str) else repr(text)
        raise error(f"`{name}` must be a string of 1 to {_MAX_TEXT} characters; got {shown}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair: it could never be written
            raise error(f"`{name}` must be valid Unicode; got {text!r}") from None
    return text


def check_time(name: str, value: object) -> int:
    """Return `value` as a time or a duration in milliseconds, an int in [0, 2**63)."""
    value = check_count(name, value, 0)
    if value >= 1 << 63:
        raise RangeError(f"`{name}` must be below 2**63 milliseconds; got {value}")
    return value
