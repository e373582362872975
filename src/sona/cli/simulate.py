"""`sona simulate`: a large fleet in one process, under a topology that fails."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sona.checks import check_count, check_quality
from sona.cli import picture
from sona.cli.demo import first_decisions, one_thread, serve
from sona.cli.digits import DigitFleet
from sona.cli.progress import progress
from sona.cli.table import table
from sona.cli.trouble import Trouble
from sona.config import SonaConfig
from sona.errors import ConfigError
from sona.federated import (
    EphemeralAgent,
    Hierarchical,
    PeerToPeer,
    Star,
    WarmStart,
)
from sona.federated.topology import InProcess

__all__ = ["Simulation", "add_arguments", "run", "simulate"]

# Coordinators tell each other what they hold after so many agents, and each time after as many
# as before: the work of learning anew stays in proportion to what was learned.
_FIRST_WAVE, _GROWTH = 10, 2.0


class Simulation(NamedTuple):
    """What came of it.

    Attributes
    ----------
    growth : list of (int, float)
        Agents that have run, and quality of the first decision of one that starts then.
    cold, best_single, oracle : float
        Quality of an agent that knows nothing, of the best route for everything, and of the best
        route of each request.
    single : float
        Of an agent started by one coordinator that holds everything acknowledged.
    acknowledged, sessions, held : int
        Exports acknowledged; agent sessions among them; sessions that the topology holds.
    happened : dict of str to int
        What went wrong, by kind.
    """

    growth: list[tuple[int, float]]
    cold: float
    best_single: float
    oracle: float
    single: float
    acknowledged: int
    sessions: int
    held: int
    happened: dict[str, int]


def simulate(
    topology: InProcess,
    agents: int,
    requests: int,
    failures: float,
    seed: int,
    advance: Callable[[], object] = lambda: None,
) -> Simulation:
    """Run a fleet on handwritten digits, and one coordinator beside it at the end.

    Parameters
    ----------
    topology : InProcess
    agents, requests : int
        Size of the fleet; requests that each agent answers.
    failures : float
        Share of what may fail that does; see :class:`~sona.cli.trouble.Trouble`.
    seed : int
    advance : callable
        Called after each agent.
    """
    world = DigitFleet(seed)
    config = SonaConfig.for_ephemeral(hidden_dim=64, seed=seed)
    trouble = Trouble(topology, failures, seed)
    for coordinator in topology.coordinators:
        coordinator.consolidation_interval = agents + 1  # when they publish, and not before

    def quality(warm_start: WarmStart | None) -> float:
        new = EphemeralAgent("new", config, warm_start)
        return first_decisions(new, world.held_out, world.routes)

    growth = [(0, cold := quality(None))]
    warm_start = None
    for first, last in _waves(agents):
        trouble.next_wave()
        for number in range(first, last):
            agent = EphemeralAgent(f"agent-{number}", config, warm_start)
            serve(agent, world.slice(requests), world.routes, keep_failures=True)
            trouble.hand_in(agent.export_state())
            advance()
        if last == agents:
            trouble.end()
        topology.publish()
        warm_start = topology.warm_start()
        growth.append((last, quality(warm_start)))
    single = Star(SonaConfig.for_coordinator(hidden_dim=64, seed=seed))
    (one,) = single.coordinators
    one.consolidation_interval = agents + 1
    for export in trouble.acknowledged:
        one.aggregate(export, learn=False)
    single.publish()
    outcomes = world.held_out.outcomes
    return Simulation(
        growth=growth,
        cold=cold,
        best_single=float(outcomes.mean(axis=0).max()),
        oracle=float(outcomes.max(axis=1).mean()),
        single=quality(single.warm_start()),
        acknowledged=len(trouble.acknowledged),
        sessions=len({export.session for export in trouble.acknowledged}),
        held=len(topology.coordinators[0].ledger),
        happened=dict(trouble.happened),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--agents", type=int, default=1_000, help="fleet size (default 1000)")
    parser.add_argument("--requests", type=int, default=20, help="requests per agent (default 20)")
    parser.add_argument(
        "--topology", choices=["star", "hierarchical", "peers"], default="star", help="who merges"
    )
    parser.add_argument("--regions", type=int, help="of a hierarchical topology (default 4)")
    parser.add_argument("--peers", type=int, help="of a topology of peers (default 8)")
    parser.add_argument(
        "--failures", type=float, default=0.0, help="share of what may fail that does (default 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides everything random")
    parser.add_argument("--picture", default="sona-simulate.png", help="PNG to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    agents, requests = check_count("agents", args.agents), check_count("requests", args.requests)
    failures = check_quality("failures", args.failures)
    topology = _topology(args)
    with one_thread(), progress(agents, "agents") as advance:
        result = simulate(topology, agents, requests, failures, args.seed, advance)
    print(
        table(
            ["agents that have run", "first decision of the next"],
            [[str(number), f"{quality:.3f}"] for number, quality in result.growth],
        )
    )
    print()
    print(
        table(
            ["what came of it", ""],
            [
                ["quality, one coordinator that holds everything", f"{result.single:.3f}"],
                ["quality, best single route", f"{result.best_single:.3f}"],
                ["quality, oracle", f"{result.oracle:.3f}"],
                ["exports acknowledged", str(result.acknowledged)],
                ["exports held in the end", str(result.held)],
                ["agents killed before they handed in", str(result.happened.get("killed", 0))],
                ["handed in twice", str(result.happened.get("repeated", 0))],
                ["left in a spool and handed in later", str(result.happened.get("spooled", 0))],
            ],
        )
    )
    picture.simulation(result, args.topology, args.picture)
    print(f"quality by agents seen: {args.picture}")
    return 0


def _topology(args: argparse.Namespace) -> InProcess:
    config = SonaConfig.for_coordinator(hidden_dim=64, seed=args.seed)
    for name, belongs_to in (("regions", "hierarchical"), ("peers", "peers")):
        if getattr(args, name) is not None and args.topology != belongs_to:
            raise ConfigError(f"--{name} belongs to --topology {belongs_to}")
    if args.topology == "hierarchical":
        return Hierarchical(4 if args.regions is None else args.regions, config)
    if args.topology == "peers":
        return PeerToPeer(8 if args.peers is None else args.peers, config, seed=args.seed)
    return Star(config)


def _waves(agents: int) -> Iterator[tuple[int, int]]:
    first, last = 0, float(_FIRST_WAVE)
    while first < agents:
        end = min(agents, round(last))
        yield first, end
        first, last = end, last * _GROWTH
