"""`sona replay LOG`: the fleet's learning, run on a user's own log.

:mod:`sona.request_log` says what a log looks like. The last share of the requests is held out:
decisions on it are valued by the outcomes of those requests whose logged route is the one decided
for, each weighted by how rare its route is in the log. Then everything is learned and saved.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from sona.checks import check_quality
from sona.cli.progress import progress
from sona.cli.table import table
from sona.config import SonaConfig
from sona.errors import FormatError
from sona.federated import AgentExport, EphemeralAgent, FederatedCoordinator, TrajectoryExport
from sona.request_log import LoggedRequest, read_log
from sona.training import value_decisions
from sona.types import Trajectory

__all__ = ["add_arguments", "run"]

_SHOWN_FAULTS = 10
_OWN_AGENTS = 20  # agents whose own experience is valued; the mean settles long before


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("log", help="JSON lines or .parquet, one request per row")
    parser.add_argument("--state", default="sona-state.sona", help="state file to write")
    parser.add_argument("--held-out", type=float, default=0.2, help="share to judge by (0.2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    held_out = check_quality("held-out", args.held_out)
    requests, faults = read_log(args.log)
    for number, why in faults[:_SHOWN_FAULTS]:
        print(f"{args.log}:{number}: {why}", file=sys.stderr)
    if len(faults) > _SHOWN_FAULTS:
        rest = ", ".join(str(number) for number, _ in faults[_SHOWN_FAULTS:])
        print(f"{args.log}: bad lines, too: {rest}", file=sys.stderr)
    print(f"{len(requests)} requests read, {len(faults)} bad lines left out")
    if not requests:
        raise FormatError(f"`log`: {args.log!r} holds no usable request")
    cut = len(requests) - round(held_out * len(requests))
    past, future = requests[:cut], [request.trajectory for request in requests[cut:]]
    agents = len({request.agent for request in requests})
    with progress((2 if future and past else 1) * agents, "agents") as advance:
        if past and future:
            _report(past, future, args.seed, advance)
        coordinator = _learn(requests, args.seed, advance)
    coordinator.master_engine.save(args.state)
    print(coordinator.stats())
    print(f"state: {args.state}")
    return 0


def _by_agent(requests: Sequence[LoggedRequest]) -> dict[str, list[Trajectory]]:
    grouped: dict[str, list[Trajectory]] = {}
    for trajectory, agent in requests:
        grouped.setdefault(agent, []).append(trajectory)
    return grouped


def _learn(
    requests: Sequence[LoggedRequest], seed: int, advance: Callable[[], object]
) -> FederatedCoordinator:
    dim = len(requests[0].trajectory.embedding)
    config = SonaConfig.for_coordinator(hidden_dim=dim, seed=seed)
    coordinator = FederatedCoordinator("replay", config)
    for agent, held in _by_agent(requests).items():
        rows = [
            TrajectoryExport(t.embedding, t.quality, t.route, t.context, t.timestamp) for t in held
        ]
        coordinator.aggregate(AgentExport(agent, rows, timestamp=held[-1].timestamp))
        advance()
    coordinator.force_consolidate()
    return coordinator


def _report(
    past: Sequence[LoggedRequest],
    future: Sequence[Trajectory],
    seed: int,
    advance: Callable[[], object],
) -> None:
    coordinator = _learn(past, seed, advance)
    known = [request.trajectory for request in past]
    config = SonaConfig.for_ephemeral(hidden_dim=len(known[0].embedding), seed=seed)
    seen = Counter(str(trajectory.route) for trajectory in known)
    mean = {r: float(np.mean([t.quality for t in known if t.route == r])) for r in seen}
    best = max(mean, key=lambda route: mean[route])
    usual = max(seen, key=lambda route: seen[route])
    routes = sorted(seen)
    warm = EphemeralAgent("warm", config, coordinator.warm_start())
    as_logged = float(np.mean([trajectory.quality for trajectory in future]))
    rows = [
        ["as logged", f"{as_logged:.4f}", str(len(future))],
        _row(f"most used route ({usual})", [usual] * len(future), future),
        _row(f"best single route so far ({best})", [best] * len(future), future),
        _row("cold agent", _decide(EphemeralAgent("cold", config), future, routes), future),
    ]
    own: list[str] = []
    valued: list[Trajectory] = []
    for held in list(_by_agent(past).values())[:_OWN_AGENTS]:
        agent = EphemeralAgent("own", config)
        for t in held:
            agent.process_trajectory(t.embedding, t.embedding, t.quality, t.route)
        own += _decide(agent, future, routes)
        valued += future
    rows.append(_row("agent with only its own experience", own, valued))
    rows.append(_row("warm-started agent", _decide(warm, future, routes), future))
    title = f"quality on the last {len(future)} requests"
    print(table([title, "estimate", "matching requests"], rows))


def _decide(agent: EphemeralAgent, requests: Sequence[Trajectory], routes: list[str]) -> list[str]:
    return [agent.route(request.embedding, routes).route for request in requests]


def _row(title: str, decided: Sequence[str], requests: Sequence[Trajectory]) -> list[str]:
    quality, matching = value_decisions(decided, requests)
    return [title, "-" if quality is None else f"{quality:.4f}", str(matching)]
