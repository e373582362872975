"""How much one caller may ask for, and how soon again."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from sona.checks import check_count, check_number

__all__ = ["Limits", "RateLimit"]

#: Callers whose allowance is remembered; who was forgotten starts with a full one.
_CALLERS = 10_000


class Limits(msgspec.Struct, frozen=True):
    """What the service refuses before it costs anything.

    Attributes
    ----------
    body_bytes : int
        Largest body; a larger one is answered with 413.
    vectors : int
        Most trajectories in one export; more are answered with 422.
    rate : float
        Requests per second and token that are sustained; more are answered with 429.
    burst : int
        Requests that may come at once before `rate` counts.
    body_seconds : float
        Time that a body may take to arrive; a slower one is answered with 408.
    waiting : int
        Exports of one tenant that may wait for their commit; more are answered with 429.
    unlearned : int
        Exports of one tenant that may be committed and not yet learned; more are answered with
        429, so that what is handed out never lags further behind what came.
    """

    body_bytes: int = 16 * 2**20
    vectors: int = 20_000
    rate: float = 200.0
    burst: int = 400
    body_seconds: float = 30.0
    waiting: int = 64
    unlearned: int = 10_000

    def __post_init__(self) -> None:
        check_count("body_bytes", self.body_bytes)
        check_count("vectors", self.vectors)
        check_number("rate", self.rate, 1e-3, 1e9)
        check_count("burst", self.burst)
        check_number("body_seconds", self.body_seconds, 1e-3, 86_400.0)
        check_count("waiting", self.waiting)
        check_count("unlearned", self.unlearned)


class RateLimit:
    """A token bucket per caller; for one thread.

    Parameters
    ----------
    rate : float
        Requests per second that are sustained.
    burst : int
        Requests that may come at once.
    clock : callable, default time.monotonic
        Seconds that never go back, whatever the wall clock does.
    """

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, caller: str) -> float:
        """Take one request from the caller's allowance.

        Returns
        -------
        float
            0.0 if it was there; otherwise seconds until it will be, and nothing is taken.
        """
        now = self._clock()
        left, at = self._buckets.get(caller, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        short = 1.0 - left
        self._buckets[caller] = (left if short > 0.0 else left - 1.0, now)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > _CALLERS:
            self._buckets.popitem(last=False)
        return short / self._rate if short > 0.0 else 0.0
