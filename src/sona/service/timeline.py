"""Time in a bounded number of stretches: when it grows too long, neighbours are merged."""

from __future__ import annotations

from sona.service.records import Bucket, Mean

__all__ = ["Timeline"]

#: Stretches that are kept; the page draws one point for each.
_STRETCHES = 96
_FIRST_WIDTH_MS = 1_000
#: Routes that are followed over time; further ones are shown without a trend.
_ROUTES = 64


class _Tally:
    """A count and a sum of qualities."""

    __slots__ = ("count", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0

    def add(self, count: int, total: float) -> None:
        self.count += count
        self.sum += total

    def mean(self) -> float | None:
        return self.sum / self.count if self.count else None

    def view(self) -> Mean:
        return Mean(self.count, self.mean())


class _Stretch:
    __slots__ = ("accepted", "agents", "cold", "exports", "rejected", "routes", "warm")

    def __init__(self) -> None:
        self.exports = self.agents = self.accepted = self.rejected = 0
        self.cold, self.warm = _Tally(), _Tally()
        self.routes: dict[str, _Tally] = {}

    def absorb(self, other: _Stretch) -> None:
        for name in ("exports", "agents", "accepted", "rejected"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.cold.add(other.cold.count, other.cold.sum)
        self.warm.add(other.warm.count, other.warm.sum)
        for route, tally in other.routes.items():
            self.routes.setdefault(route, _Tally()).add(tally.count, tally.sum)


class Timeline:
    """What new exports brought over time, in at most 96 stretches of equal width.

    Memory does not grow with time or traffic. A clock that goes back never rewrites the past:
    what arrives then counts in the latest stretch.
    """

    def __init__(self) -> None:
        self.width_ms = _FIRST_WIDTH_MS
        self._first = 0  # number of the first stretch: its time over its width
        self._stretches: list[_Stretch] = []
        self._followed: set[str] = set()
        self.cold, self.warm = _Tally(), _Tally()

    def add(
        self,
        at_ms: int,
        *,
        new_agent: bool,
        accepted: int,
        rejected: int,
        quality: float | None,
        warm: bool,
        routes: dict[str, tuple[int, float]],
    ) -> None:
        """Count one new export."""
        stretch = self._at(at_ms)
        stretch.exports += 1
        stretch.agents += new_agent
        stretch.accepted += accepted
        stretch.rejected += rejected
        if quality is not None:
            for part in (stretch, self):
                (part.warm if warm else part.cold).add(1, quality)
        for route, (count, total) in routes.items():
            if route not in self._followed and len(self._followed) >= _ROUTES:
                continue
            self._followed.add(route)
            stretch.routes.setdefault(route, _Tally()).add(count, total)

    def view(self) -> list[Bucket]:
        """Return the stretches, the oldest first."""
        return [
            Bucket(
                (self._first + number) * self.width_ms,
                stretch.exports,
                stretch.agents,
                stretch.accepted,
                stretch.rejected,
                stretch.cold.view(),
                stretch.warm.view(),
            )
            for number, stretch in enumerate(self._stretches)
        ]

    def recent(self, route: str) -> list[float | None]:
        """Return a route's mean quality in each stretch; None where it was not used."""
        nothing = _Tally()
        return [stretch.routes.get(route, nothing).mean() for stretch in self._stretches]

    def trend(self, route: str) -> float | None:
        """Return the mean of the latest quarter of the stretches less that of the others."""
        cut = len(self._stretches) - max(1, len(self._stretches) // 4)
        early, late = _Tally(), _Tally()
        for number, stretch in enumerate(self._stretches):
            tally = stretch.routes.get(route)
            if tally is not None:
                (late if number >= cut else early).add(tally.count, tally.sum)
        if not early.count or not late.count:
            return None
        return late.sum / late.count - early.sum / early.count

    def _at(self, at_ms: int) -> _Stretch:
        if not self._stretches:
            self._first = at_ms // self.width_ms
        while at_ms // self.width_ms - self._first >= _STRETCHES:
            self._halve()
        last = max(at_ms // self.width_ms - self._first, len(self._stretches) - 1)
        while len(self._stretches) <= last:
            self._stretches.append(_Stretch())
        return self._stretches[last]

    def _halve(self) -> None:
        self.width_ms *= 2
        odd = self._first % 2
        self._first //= 2
        merged: list[_Stretch] = []
        for number, stretch in enumerate(self._stretches, start=odd):
            if number // 2 == len(merged):
                merged.append(_Stretch())
            merged[-1].absorb(stretch)
        self._stretches = merged
