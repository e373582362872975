"""Interleaved timing: contestants take turns, so that a slow spell of the machine hits all."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import repeat
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Contestant:
    """One way to do the work of a case.

    `prepare` is not timed; it runs before every round where the work spoils its own input.
    """

    name: str
    run: Callable[[], Any]
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    prepare: Callable[[], Any] = lambda: None


@dataclass(frozen=True)
class Measure:
    """What must hold: `ours` is `at_least` times as fast as each in `against`; or, against none,
    reaches that share of the FMA peak.
    """

    ours: str
    at_least: float
    against: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """The same work for all contestants, and what it costs at the least.

    `bytes_read` is what each pass reads and writes; where it fits says which memory is the limit.
    """

    group: str
    contestants: list[Contestant]
    check: Callable[[Any], None]
    flops: float = 0.0
    bytes_read: float = 0.0
    threads: int = 1
    # why a peer does not take part
    absent: dict[str, str] = field(default_factory=dict)
    measures: list[Measure] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    group: str
    name: str
    seconds: float
    median_seconds: float


def measure(case: Case, budget: float = 1.5, rounds: int = 15) -> list[Result]:
    """Time every contestant of a case; the minimum and the median over rounds of turns.

    Where one thread works its own time on the processor counts, so that what else the machine
    does in between does not.
    """
    clock = time.thread_time if case.threads == 1 else time.perf_counter
    calls = {}
    for contestant in case.contestants:
        with contestant.context():
            contestant.prepare()
            case.check(contestant.run())
            contestant.prepare()
            once = _timed(contestant.run, 1, clock)
            share = budget / rounds
            calls[contestant.name] = max(1, int(share / max(once, 1e-7)))
    seconds: dict[str, list[float]] = {c.name: [] for c in case.contestants}
    started = time.perf_counter()
    for number_of_round in range(rounds):
        # The slowest contestants must not hold up the rest for ever.
        if number_of_round >= 3 and time.perf_counter() - started > 20.0 * budget:
            break
        for contestant in case.contestants:
            number = calls[contestant.name]
            with contestant.context():
                contestant.prepare()
                seconds[contestant.name].append(_timed(contestant.run, number, clock) / number)
    return [Result(case.group, name, min(s), median(s)) for name, s in seconds.items()]


def _timed(run: Callable[[], Any], number: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in repeat(None, number):
        run()
    return clock() - start
