"""`sona peer`: one of several that gossip, with nobody above them."""

from __future__ import annotations

import argparse

from sona.cli.node import add_node_arguments, serve
from sona.federated.network import Gossip

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_node_arguments(parser)
    parser.add_argument("--name", required=True, help="of this peer, unlike any other's")
    parser.add_argument(
        "--neighbour",
        action="append",
        required=True,
        metavar="ENDPOINT",
        help="another peer to ask for news; repeated: each of them",
    )
    parser.add_argument(
        "--interval", type=float, default=2.0, help="seconds between two rounds (default 2)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    return serve(
        args,
        args.name,
        lambda security: Gossip(
            args.neighbour, args.name, security=security, interval_s=args.interval
        ),
    )
