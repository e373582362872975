"""`sona route STATE VECTOR.npy`: one decision per vector, as JSON lines."""

from __future__ import annotations

import argparse

import msgspec
import numpy as np

from sona.engine import SonaEngine
from sona.errors import FormatError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("state", help="state file, from `sona replay` or SonaEngine.save")
    parser.add_argument("vector", help=".npy file of shape (dim,) or (n, dim)")
    parser.add_argument("--routes", nargs="+", metavar="ROUTE", help="candidates (default: all)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    engine = SonaEngine.load(args.state)
    try:
        vectors = np.load(args.vector, allow_pickle=False)
    except ValueError as error:
        raise FormatError(f"`vector`: {args.vector!r} is not a .npy file: {error}") from None
    tried = engine.stats().routes
    for vector in np.atleast_2d(vectors):
        decision = engine.route(vector, args.routes)
        line = {
            "route": decision.route,
            # A candidate of which nothing is known may be the best guess, and is one.
            "tried": decision.route in tried,
            "expected": {route: round(q, 4) for route, q in decision.expected.items()},
            "uncertainty": {route: round(u, 4) for route, u in decision.uncertainty.items()},
            "patterns": [pattern.id for pattern in decision.patterns],
        }
        print(msgspec.json.encode(line).decode())
    return 0
