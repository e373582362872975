"""What a router of another library asks an engine and tells it, never getting in its way.

request ──> choose ──> the host sends it ──> outcome ──> learn (a thread of its own) ──> tick
              │
              └── None while the engine is learning, or when anything went wrong:
                  the host decides as it would have without sona
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from sona import SonaEngine
from sona.checks import check_count, check_number
from sona.errors import ConfigError
from sona.types import ArrayLike

__all__ = ["Advisor", "Embed", "Recent"]

#: From a text to its embedding; a coroutine function serves where the host is asynchronous.
Embed: TypeAlias = Callable[[str], ArrayLike | Awaitable[ArrayLike]]

_log = logging.getLogger("sona.integrations")
# A choice waits this long for the engine, which a background cycle may hold for seconds.
_PATIENCE = 0.002
# Outcomes after which a route's mean cost and latency forget the oldest.
_MEMORY = 100

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """A mapping that keeps its newest entries; safe to share between threads.

    Each step is one call of the dictionary, which its own lock protects.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[str, Value] = OrderedDict()

    def put(self, key: str, value: Value) -> None:
        self._entries[key] = value
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def get(self, key: object) -> Value | None:
        return self._entries.get(key) if isinstance(key, str) else None

    def take(self, key: object) -> Value | None:
        return self._entries.pop(key, None) if isinstance(key, str) else None


@dataclass
class _Expense:
    """Running means of what a route costs."""

    count: int = 0
    cost: float = 0.0
    seconds: float = 0.0

    def add(self, cost: float, seconds: float) -> None:
        self.count = min(self.count + 1, _MEMORY)
        self.cost += (cost - self.cost) / self.count
        self.seconds += (seconds - self.seconds) / self.count


class Advisor:
    """An engine as a host's router uses it.

    Parameters
    ----------
    engine : SonaEngine
    embed : callable
        From a text to its embedding.
    cost_weight, latency_weight : float
        What one unit of cost, and one second, is worth in quality.
    explore : int
        Outcomes that each route should have before choices go by what is expected alone; until
        then they try what may turn out better.

    Raises
    ------
    ConfigError
        If there is no `embed`.
    RangeError, DTypeError
        If a weight is negative or no number.
    """

    def __init__(
        self,
        engine: SonaEngine,
        embed: Embed,
        cost_weight: float,
        latency_weight: float,
        explore: int,
    ) -> None:
        if not callable(embed):
            raise ConfigError(
                f"`embed` must be a function from a text to its embedding; got {embed!r}"
            )
        self.engine, self.embed = engine, embed
        self._explore = check_count("explore", explore, 0)
        self._known = {name: int(route.count) for name, route in engine.stats().routes.items()}
        self._settled = {name for name, count in self._known.items() if count >= self._explore}
        self._cost_weight = check_number("cost_weight", cost_weight, 0.0, 1e12)
        self._latency_weight = check_number("latency_weight", latency_weight, 0.0, 1e12)
        self._weighs = self._cost_weight > 0.0 or self._latency_weight > 0.0
        self._expenses: dict[str, _Expense] = {}
        self._turn = threading.Lock()
        self._lessons: queue.Queue[tuple[ArrayLike, str, float]] = queue.Queue()
        self._learner: threading.Thread | None = None
        self.failures = 0

    def choose(self, vector: ArrayLike, routes: Sequence[str]) -> str | None:
        """Return the best route for a query, or None while the engine is busy learning."""
        explore = self._explore > 0 and not self._settled.issuperset(routes)
        costs = {name: self._expense(name) for name in routes} if self._weighs else None
        if not (self._turn.acquire(False) or self._turn.acquire(timeout=_PATIENCE)):
            return None
        try:
            return self.engine.route(vector, routes, costs, 1.0, explore, n_patterns=0).route
        finally:
            self._turn.release()

    def spent(self, route: str, cost: float, seconds: float) -> None:
        """Count what one request to a route cost."""
        self._expenses.setdefault(route, _Expense()).add(cost, seconds)

    def learn(self, vector: ArrayLike, route: str, quality: float) -> None:
        """Hand an outcome to the learner, a thread that starts with the first."""
        self._lessons.put((vector, route, quality))
        if self._learner is None:
            self._learner = threading.Thread(target=self._run, name="sona-learner", daemon=True)
            self._learner.start()

    def flush(self) -> None:
        """Wait until everything handed over is learned."""
        self._lessons.join()

    def failed(self, error: Exception) -> None:
        """Count what went wrong; the first is logged."""
        self.failures += 1
        if self.failures == 1:
            _log.error("sona failed and left routing as it was; not logged again", exc_info=error)

    def _expense(self, route: str) -> float:
        known = self._expenses.get(route)
        if known is None:  # cheap until it is known: it must be tried to be known
            return 0.0
        return self._cost_weight * known.cost + self._latency_weight * known.seconds

    def _run(self) -> None:
        while True:
            vector, route, quality = self._lessons.get()
            try:
                with self._turn:
                    trajectory = self.engine.begin_trajectory(vector)
                    trajectory.set_model_route(route)
                    self.engine.end_trajectory(trajectory, quality)
                    self._known[route] = known = self._known.get(route, 0) + 1
                    if known >= self._explore:
                        self._settled.add(route)
                    self.engine.tick()
                    self.engine.prepare()
            except Exception as error:
                self.failed(error)
            finally:
                self._lessons.task_done()
