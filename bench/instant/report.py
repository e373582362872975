"""What an outcome and a decision cost in the steady state, and where the time goes.

python -m bench.instant.report [--quick]

Times are processor time of the thread over thousands of calls, divided: whatever is put off and
done for many at once is in them. They are given in microseconds and in yardsticks, where a
yardstick is one micro-LoRA apply and one top-5 search of the bank, measured between the runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from bench.instant.steady import DIM, Requests, agent, traffic

from sona.federated import EphemeralAgent
from sona.learning import MicroLoRA, PatternIndex

__all__ = ["Figures", "main", "measured", "steady"]

Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small memory, few calls")
    options = parser.parse_args()
    for informed in (False, True):
        for own_states in (False, True):
            kind = "routes chosen for the query" if informed else "routes at random"
            states = "activations of their own" if own_states else "activations are the query"
            print(f"\n{kind}, {states}")
            made, more = steady(options.quick, informed=informed, own_states=own_states)
            figures = measured(made, more, options.quick)
            for name, micros in figures.items():
                share = micros / figures["yardstick"]
                print(f"  {name:36s} {micros:8.2f} us {share:7.2f} yardsticks", flush=True)


def steady(quick: bool, **kind: bool) -> tuple[EphemeralAgent, Requests]:
    """An agent whose memory is full, and requests that it has not seen."""
    capacity = 500 if quick else 10_000
    made = agent(traffic(2 * capacity, **kind), capacity)
    return made, traffic(capacity // 2 + 100, **kind, seed=1)


def measured(made: EphemeralAgent, more: Requests, quick: bool) -> Figures:
    """Microseconds per call, by what is called."""
    calls, rounds = (600, 2) if quick else (6_000, 3)
    stream = more.forever()
    best: Figures = {}

    def note(name: str, run: Callable[..., Any], number: int) -> None:
        requests = list(islice(stream, number))
        start = time.thread_time()
        for request in requests:
            run(*request)
        micros = 1e6 * (time.thread_time() - start) / number
        best[name] = min(best.get(name, np.inf), micros)

    for _ in range(rounds):
        note("yardstick", yardstick(made), calls)
        note("process_trajectory", made.process_trajectory, calls)
        note("begin, add_step, end", recorded(made), calls)
        note("route", lambda q, *_: made.route(q), calls // 6)
        note("route, then process_trajectory", decided(made), calls // 6)
    for name, run in parts(made):
        note(f"  {name}", run, calls)
    return best


def yardstick(made: EphemeralAgent) -> Callable[..., Any]:
    """One apply and one top-5 search of as many patterns as the agent has."""
    lora, index, out = MicroLoRA(DIM), PatternIndex(DIM), np.empty(DIM, np.float32)
    index.add(np.stack([pattern.centroid for pattern in made.engine.patterns]))

    def run(query: Any, *_: Any) -> None:
        index.search(lora.apply(query, out), 5)

    return run


def recorded(made: EphemeralAgent) -> Callable[..., Any]:
    def run(query: Any, state: Any, quality: float, route: str) -> None:
        trajectory = made.engine.begin_trajectory(query)
        trajectory.add_step(state, quality)
        trajectory.set_model_route(route)
        made.engine.end_trajectory(trajectory, quality)

    return run


def decided(made: EphemeralAgent) -> Callable[..., Any]:
    def run(query: Any, state: Any, quality: float, route: str) -> None:
        made.route(query)
        made.process_trajectory(query, state, quality, route)

    return run


def parts(made: EphemeralAgent) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The pieces of process_trajectory, each on its own."""
    engine = made.engine
    memory, router, adaptation = engine._queries, engine._router, engine._adaptation
    bank = memory.bank
    yield "expectations of the route", lambda q, h, g, r: bank.expect(r)
    values = bank.values("route-1")
    yield (
        "gate and step, one reading of the bank",
        lambda q, h, g, r: adaptation.learn(
            q, bank.centroids, values, g, bank.cells.similarities, bank.cells.spread
        ),
    )
    yield "count in the pattern, remember", lambda q, h, g, r: memory.observe(q, r, g, True, True)
    yield "router: remember, level, look-ups", lambda q, h, g, r: router.observe(q, r, g)


if __name__ == "__main__":
    main()
