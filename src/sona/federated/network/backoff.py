"""How long to wait before asking again."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

__all__ = ["attempts"]

_FIRST_S, _LONGEST_S = 0.05, 5.0


def attempts(wait_s: float) -> Iterator[float]:
    """Yield the seconds that are left, once per attempt, until there are none.

    The first comes at once. Between attempts it sleeps a random part of a span that doubles each
    time: a fleet that lost its coordinator at one moment does not return at one moment.
    """
    deadline = time.monotonic() + wait_s
    span = _FIRST_S
    yield wait_s
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, random.uniform(0.0, span)))
        span = min(2 * span, _LONGEST_S)
        left = deadline - time.monotonic()
        if left > 0:
            yield left
