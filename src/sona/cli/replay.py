"""`sona replay LOG.jsonl`: the fleet's learning, run on a user's own log.

One JSON object per request: ``embedding`` (or ``vector``), ``route``, ``quality``, and optionally
``agent`` and ``timestamp`` (milliseconds). The last share of the requests is held out: decisions
on it are valued by the outcomes of those requests whose logged route is the one decided for,
each weighted by how rare its route is in the log. Then everything is learned and saved.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from sona import _core
from sona.checks import check_quality, check_text
from sona.cli.progress import progress
from sona.cli.table import table
from sona.config import SonaConfig
from sona.errors import FormatError, SonaError
from sona.federated import AgentExport, EphemeralAgent, FederatedCoordinator, TrajectoryExport
from sona.types import FloatArray

__all__ = ["add_arguments", "read_log", "run"]

_SHOWN_FAULTS = 10
_OWN_AGENTS = 20  # agents whose own experience is valued; the mean settles long before


class Request(NamedTuple):
    """One line of the log."""

    embedding: FloatArray
    route: str
    quality: float
    agent: str
    timestamp: int


class _Line(msgspec.Struct):
    route: str
    quality: float
    embedding: list[float] | None = None
    vector: list[float] | None = None
    agent: str = "agent"
    timestamp: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("log", help="JSON lines, one request each")
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
        print(f"... and {len(faults) - _SHOWN_FAULTS} more", file=sys.stderr)
    print(f"{len(requests)} requests read, {len(faults)} bad lines left out")
    if not requests:
        raise FormatError(f"`log`: {args.log!r} holds no usable request")
    cut = len(requests) - round(held_out * len(requests))
    past, future = requests[:cut], requests[cut:]
    agents = len({request.agent for request in requests})
    with progress((2 if future and past else 1) * agents, "agents") as advance:
        if past and future:
            _report(past, future, args.seed, advance)
        coordinator = _learn(requests, args.seed, advance)
    coordinator.master_engine.save(args.state)
    print(coordinator.stats())
    print(f"state: {args.state}")
    return 0


def read_log(path: str) -> tuple[list[Request], list[tuple[int, str]]]:
    """Read a log.

    Returns
    -------
    requests : list of Request
        In order of timestamp; requests without one keep the order of the lines.
    faults : list of (int, str)
        Number of each bad line, counted from 1, and what is wrong with it.
    """
    requests: list[Request] = []
    faults: list[tuple[int, str]] = []
    decoder = msgspec.json.Decoder(_Line)
    dim: int | None = None
    with open(path, "rb") as lines:
        for number, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            try:
                line = decoder.decode(text)
                vector = line.vector if line.embedding is None else line.embedding
                if vector is None:
                    raise FormatError("`embedding` or `vector` is missing")
                embedding = _core.as_vector(vector, dim, "embedding")
                request = Request(
                    embedding,
                    check_text("route", line.route),
                    check_quality("quality", line.quality),
                    check_text("agent", line.agent),
                    line.timestamp,
                )
            except (msgspec.DecodeError, UnicodeError, SonaError) as error:
                faults.append((number, str(error)))
                continue
            dim = len(embedding)
            requests.append(request)
    requests.sort(key=lambda request: request.timestamp)
    return requests, faults


def _by_agent(requests: Sequence[Request]) -> dict[str, list[Request]]:
    grouped: dict[str, list[Request]] = {}
    for request in requests:
        grouped.setdefault(request.agent, []).append(request)
    return grouped


def _learn(
    requests: Sequence[Request], seed: int, advance: Callable[[], object]
) -> FederatedCoordinator:
    dim = len(requests[0].embedding)
    config = SonaConfig.for_coordinator(hidden_dim=dim, seed=seed)
    coordinator = FederatedCoordinator("replay", config)
    for agent, held in _by_agent(requests).items():
        rows = [TrajectoryExport(r.embedding, r.quality, r.route, (), r.timestamp) for r in held]
        coordinator.aggregate(AgentExport(agent, rows, timestamp=held[-1].timestamp))
        advance()
    coordinator.force_consolidate()
    return coordinator


def _report(
    past: Sequence[Request], future: Sequence[Request], seed: int, advance: Callable[[], object]
) -> None:
    coordinator = _learn(past, seed, advance)
    config = SonaConfig.for_ephemeral(hidden_dim=len(past[0].embedding), seed=seed)
    seen = Counter(request.route for request in past)
    mean = {r: float(np.mean([p.quality for p in past if p.route == r])) for r in seen}
    best = max(mean, key=lambda route: mean[route])
    usual = max(seen, key=lambda route: seen[route])
    routes = sorted(seen)
    warm = EphemeralAgent("warm", config, coordinator.warm_start())
    rows = [
        _row("as logged", [r.route for r in future], future),
        _row(f"most used route ({usual})", [usual] * len(future), future),
        _row(f"best single route so far ({best})", [best] * len(future), future),
        _row("cold agent", _decide(EphemeralAgent("cold", config), future, routes), future),
    ]
    own: list[str] = []
    valued: list[Request] = []
    for held in list(_by_agent(past).values())[:_OWN_AGENTS]:
        agent = EphemeralAgent("own", config)
        for r in held:
            agent.process_trajectory(r.embedding, r.embedding, r.quality, r.route)
        own += _decide(agent, future, routes)
        valued += future
    rows.append(_row("agent with only its own experience", own, valued))
    rows.append(_row("warm-started agent", _decide(warm, future, routes), future))
    title = f"quality on the last {len(future)} requests"
    print(table([title, "estimate", "matching requests"], rows))


def _decide(agent: EphemeralAgent, requests: Sequence[Request], routes: list[str]) -> list[str]:
    return [agent.route(request.embedding, routes).route for request in requests]


def _row(title: str, decided: Sequence[str], requests: Sequence[Request]) -> list[str]:
    # The logged route stands for the decision where both agree. A route that is logged often
    # agrees often, so every match is weighted by the inverse of its route's share.
    share = Counter(request.route for request in requests)
    matches = [
        (request.quality, 1.0 / share[request.route])
        for request, route in zip(requests, decided, strict=True)
        if request.route == route
    ]
    if not matches:
        return [title, "-", "0"]
    quality, weights = np.array(matches).T
    if title == "as logged":
        weights = np.ones_like(weights)
    return [title, f"{np.average(quality, weights=weights):.4f}", str(len(matches))]
