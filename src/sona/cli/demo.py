"""`sona demo`: a fleet learns to route handwritten digits, and new agents start better."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np

from sona.cli import picture
from sona.cli.digits import DigitFleet, Traffic
from sona.cli.progress import progress
from sona.cli.table import table
from sona.config import SonaConfig
from sona.federated import EphemeralAgent, FederatedCoordinator
from sona.types import LearnedPattern

__all__ = ["DemoResult", "add_arguments", "run", "run_fleet"]

_CONSOLIDATE_EVERY = 5


class DemoResult(NamedTuple):
    """First-decision quality, held-out traffic, mean over the seeds' fleets.

    Attributes
    ----------
    cold : float
        An agent that knows nothing.
    own : float
        An agent with only its own experience; mean over the fleet.
    warm : float
        A new agent that starts with what the fleet has learned.
    best_single, oracle : float
        The best route for everything; the best route for each request.
    growth : list of (int, float)
        Exports merged so far and quality of an agent started warm with them.
    patterns : list of LearnedPattern
        What the coordinator hands out.
    routes : list of str
    left_out : int
        Agents that the coordinator did not believe in the end; all of them are honest.
    """

    cold: float
    own: float
    warm: float
    best_single: float
    oracle: float
    growth: list[tuple[int, float]]
    patterns: list[LearnedPattern]
    routes: list[str]
    left_out: int


def first_decisions(agent: EphemeralAgent, traffic: Traffic, routes: list[str]) -> float:
    """Mean quality when `agent` decides every request as if it were its first."""
    chosen = [routes.index(agent.route(image, routes).route) for image in traffic.images]
    return float(traffic.outcomes[np.arange(len(chosen)), chosen].mean())


def serve(agent: EphemeralAgent, traffic: Traffic, routes: list[str], keep_failures: bool) -> None:
    """Let `agent` answer requests and learn from the outcomes."""
    for image, outcomes in zip(traffic.images, traffic.outcomes, strict=True):
        route = agent.route(image, routes, explore=True).route
        quality = float(outcomes[routes.index(route)])
        if keep_failures or quality > 0.0:
            agent.process_trajectory(image, image, quality, route)


def run_fleet(
    seed: int,
    n_agents: int = 40,
    n_requests: int = 60,
    *,
    federate: bool = True,
    keep_failures: bool = True,
    advance: Callable[[], object] = lambda: None,
) -> DemoResult:
    """Run one fleet from its first agent to its last.

    Parameters
    ----------
    seed : int
        Decides everything random.
    n_agents, n_requests : int
        Size of the fleet; requests that each agent answers.
    federate : bool, default True
        Off: exports are not merged and nobody starts warm.
    keep_failures : bool, default True
        Off: outcomes of quality 0 are thrown away, to show what they are worth.
    advance : callable
        Called after each agent.
    """
    world = DigitFleet(seed)
    config = SonaConfig.for_ephemeral(hidden_dim=64, seed=seed)
    coordinator = FederatedCoordinator("demo", SonaConfig.for_coordinator(hidden_dim=64, seed=seed))
    coordinator.consolidation_interval = _CONSOLIDATE_EVERY
    cold = first_decisions(EphemeralAgent("cold", config), world.held_out, world.routes)
    growth = [(0, cold)]
    own = []
    warm_start = None
    for number in range(1, n_agents + 1):
        requests = world.slice(n_requests)
        alone = EphemeralAgent(f"alone-{number}", config)
        serve(alone, requests, world.routes, keep_failures)
        own.append(first_decisions(alone, world.held_out, world.routes))
        if federate:
            agent = EphemeralAgent(f"agent-{number}", config, warm_start)
            serve(agent, requests, world.routes, keep_failures)
            if coordinator.aggregate(agent.export_state()).consolidated:
                warm_start = coordinator.warm_start()
                new = EphemeralAgent(f"new-{number}", config, warm_start)
                growth.append((number, first_decisions(new, world.held_out, world.routes)))
        advance()
    if federate:
        coordinator.force_consolidate()
        warm_start = coordinator.warm_start()
    new = EphemeralAgent("new", config, warm_start)
    warm = first_decisions(new, world.held_out, world.routes)
    outcomes = world.held_out.outcomes
    return DemoResult(
        cold=cold,
        own=float(np.mean(own)),
        warm=warm,
        best_single=float(outcomes.mean(axis=0).max()),
        oracle=float(outcomes.max(axis=1).mean()),
        growth=[*growth, (n_agents, warm)] if growth[-1][0] != n_agents else growth,
        patterns=coordinator.get_all_patterns(),
        routes=world.routes,
        left_out=sum(standing.dropped for standing in coordinator.reputation.values()),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--seeds", type=int, default=1, help="number of fleets (default 1)")
    parser.add_argument("--agents", type=int, default=40, help="agents per fleet (default 40)")
    parser.add_argument("--requests", type=int, default=60, help="requests per agent (default 60)")
    parser.add_argument("--picture", default="sona-demo.png", help="PNG to write")
    parser.add_argument("--no-federation", action="store_true", help="nobody starts warm")
    parser.add_argument("--drop-failures", action="store_true", help="throw away what went wrong")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    with one_thread():
        results = list(_fleets(args))
    rows = [
        ("cold agent, no experience", "cold"),
        ("agent with only its own experience", "own"),
        ("warm-started agent, first decision", "warm"),
        ("best single route", "best_single"),
        ("oracle, best route of each request", "oracle"),
    ]
    figures = {field: [getattr(result, field) for result in results] for _, field in rows}
    print(
        table(
            ["first-decision quality on held-out traffic", "mean", "min", "max"],
            [
                [title, f"{np.mean(v):.3f}", f"{min(v):.3f}", f"{max(v):.3f}"]
                for title, v in ((title, figures[field]) for title, field in rows)
            ],
        )
    )
    if not args.no_federation:
        left_out = sum(result.left_out for result in results)
        agents = args.seeds * args.agents
        print(f"agents not believed, though all are honest: {left_out} of {agents}")
    picture.demo(results[-1], args.picture)
    print(f"what was learned: {args.picture}")
    return 0


def one_thread() -> AbstractContextManager[object]:
    """Keep BLAS to one thread for a while."""
    # The products here are small: a second BLAS thread costs more in waiting than it computes.
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:  # comes with scikit-learn; without it the demo says what is missing
        return nullcontext()
    limits: AbstractContextManager[object] = threadpool_limits(1)
    return limits


def _fleets(args: argparse.Namespace) -> Iterator[DemoResult]:
    with progress(args.seeds * args.agents, "agents") as advance:
        for seed in range(args.seeds):
            yield run_fleet(
                seed,
                args.agents,
                args.requests,
                federate=not args.no_federation,
                keep_failures=not args.drop_failures,
                advance=advance,
            )
