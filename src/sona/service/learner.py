"""The process that learns: what a service commits, this one learns, consolidates and publishes.

It is a coordinator of its own on the same stores, with low priority. Learning for seconds thus
takes no turn from the threads that commit and answer, and a learner that dies costs nothing but
time: the service starts another, which knows the store again.

Each line that comes in names a tenant with news; each line that goes out is a :class:`Lesson`.
The end of the input ends the process at once, so that none outlives its service.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec

from sona import wire
from sona.config import SonaConfig
from sona.errors import SonaError
from sona.federated import FederatedCoordinator
from sona.service.folder import CONFIG, PUBLISHED, STORE, TENANTS

__all__ = ["Lesson", "main"]

#: How often a tenant is looked at without news: for what has waited long enough.
_TICK_SECONDS = 5.0
#: Learning pauses this often, to publish what it has and to turn to the next tenant.
_SLICE_SECONDS = 0.5
#: Publishing takes at most a tenth of the time.
_PUBLISH_SECONDS = 0.25
_PUBLISH_SHARE = 9.0
#: A consolidation takes seconds of a processor that who sends needs: it waits until nothing has
#: come for so long, but not longer than that.
_CALM_SECONDS, _PATIENCE_SECONDS = 1.0, 30.0
#: New agents that make a consolidation due: at least so many, and such a share of all. It costs
#: what is held; this way learning costs a constant amount for each export, however many there are.
_NEW_AGENTS, _NEW_SHARE = 50, 0.25
_NEVER = sys.maxsize


class Lesson(msgspec.Struct, frozen=True):
    """What became of one look at a tenant.

    Attributes
    ----------
    tenant : str
    published : bool
        Whether there is a new warm start to read.
    seconds : float or None
        Time that a consolidation took; None where none ran.
    trajectories : int
        Accepted trajectories held.
    unlearned : int
        Exports that were committed and not learned yet.
    fault : str or None
        What went wrong.
    """

    tenant: str
    published: bool = False
    seconds: float | None = None
    trajectories: int = 0
    unlearned: int = 0
    fault: str | None = None


class _Pupil:
    """One tenant's coordinator in this process."""

    def __init__(self, folder: Path, name: str) -> None:
        self._name = name
        self._target = folder / PUBLISHED
        config = wire.decoder(SonaConfig).decode((folder / CONFIG).read_bytes())
        self._coordinator = FederatedCoordinator(name, config, store=os.fspath(folder / STORE))
        self._published = -1
        self._next = 0.0
        self._unlearned = 0
        self._came = 0.0  # when exports were last seen to come
        self._learned = time.monotonic()  # when all that had come was last seen to be
        self._due: float | None = None  # since when a consolidation is

    @property
    def wait(self) -> float | None:
        """Seconds until there is something to do; None where all is learned and published."""
        if self._unlearned:
            return 0.0
        waits = [seconds for seconds in (self._behind, self._held) if seconds is not None]
        return min(waits, default=None)

    @property
    def _held(self) -> float | None:
        """Seconds that a consolidation has to wait still; None where none is due."""
        if self._due is None:
            return None
        until = min(self._came + _CALM_SECONDS, self._due + _PATIENCE_SECONDS)
        return max(0.0, until - time.monotonic())

    @property
    def _behind(self) -> float | None:
        """Seconds until what was learned may be published; None where it is."""
        if self._coordinator.master_engine.stats().trajectories_seen == self._published:
            return None
        return max(0.0, self._next - time.monotonic())

    @property
    def urgent(self) -> bool:
        """Whether the next look must not wait for a free processor.

        What has waited for long must not, nor a consolidation: it writes to the store, and whoever
        writes keeps others from it.
        """
        late = time.monotonic() - self._learned > _PATIENCE_SECONDS
        return late or self._held == 0.0

    def look(self, *, consolidate: bool = True) -> Lesson:
        coordinator = self._coordinator
        self._look_for_news()
        if consolidate and self._held == 0.0:
            self._due = None
        else:
            coordinator.consolidation_interval = _NEVER
        result = coordinator.tick(_SLICE_SECONDS)
        self._look_for_news()
        if result is not None:
            self._published = -1  # the same trajectories, known better
        published = self._behind == 0.0
        if published:
            self._publish()
        seconds = None if result is None else 1e-3 * result.elapsed_ms
        held = coordinator.total_trajectories
        return Lesson(self._name, published, seconds, held, self._unlearned)

    def _look_for_news(self) -> None:
        coordinator, unlearned = self._coordinator, self._unlearned
        self._unlearned = coordinator.unlearned
        if self._unlearned > unlearned:
            self._came = time.monotonic()
        if not unlearned or not self._unlearned:
            self._learned = time.monotonic()
        share = int(_NEW_SHARE * coordinator.agent_count)
        coordinator.consolidation_interval = max(_NEW_AGENTS, share)
        if not coordinator.due:
            self._due = None
        elif self._due is None:
            self._due = time.monotonic()

    def _publish(self) -> None:
        started = time.monotonic()
        seen = self._coordinator.master_engine.stats().trajectories_seen
        data = self._coordinator.warm_start().to_bytes()
        # Not forced to the disk: it carries a checksum, and can be made again.
        partial = self._target.with_suffix(".partial")
        partial.write_bytes(data)
        os.replace(partial, self._target)
        self._published = seen
        cost = time.monotonic() - started
        self._next = time.monotonic() + max(_PUBLISH_SECONDS, _PUBLISH_SHARE * cost)


def main() -> None:
    """Learn until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    root = parser.parse_args().folder / TENANTS
    if hasattr(os, "nice"):
        os.nice(10)
    yielding = ThreadPoolExecutor(1, initializer=_give_way)
    news: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(news,), daemon=True).start()
    pupils: dict[str, _Pupil] = {}
    names: set[str] = set()
    ticked = time.monotonic()
    while True:
        names |= _next_names(news, pupils)
        if time.monotonic() - ticked >= _TICK_SECONDS:
            names |= set(pupils)
            ticked = time.monotonic()
        for name in sorted(names):
            try:
                if name not in pupils:
                    pupils[name] = _Pupil(root / name, name)
                pupil = pupils[name]
                if pupil.urgent:
                    lesson = pupil.look()
                else:
                    lesson = yielding.submit(pupil.look, consolidate=False).result()
            except (SonaError, OSError, MemoryError, msgspec.DecodeError) as error:
                lesson = Lesson(name, fault=str(error))
            print(msgspec.json.encode(lesson).decode(), flush=True)
        names = {name for name, pupil in pupils.items() if pupil.wait == 0.0}


def _give_way() -> None:
    """Let this thread take only what nobody else wants of the processors, where that can be said.

    Where a processor is shared by niceness alone, who wakes up to answer waits until the learner
    has had its turn of milliseconds. There is no way back for who may not raise priorities.
    """
    if hasattr(os, "SCHED_IDLE"):  # Linux
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _listen(news: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        news.put(line.strip())
    os._exit(0)


def _next_names(news: queue.SimpleQueue[str], pupils: dict[str, _Pupil]) -> set[str]:
    """Wait for news, for the time to publish or for the next look, and return who has news."""
    waits = [pupil.wait for pupil in pupils.values()]
    wait = min([_TICK_SECONDS, *(seconds for seconds in waits if seconds is not None)])
    names: set[str] = set()
    try:
        names.add(news.get(timeout=wait) if wait > 0.0 else news.get_nowait())
        while True:
            names.add(news.get_nowait())
    except queue.Empty:
        return names


if __name__ == "__main__":
    main()
