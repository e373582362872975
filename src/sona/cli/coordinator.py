"""`sona coordinator`: a coordinator on the network, of a star, of a region, or above regions."""

from __future__ import annotations

import argparse

from sona.cli.node import add_node_arguments, serve
from sona.errors import ConfigError
from sona.federated.network import Forwarding, Security

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_node_arguments(parser)
    parser.add_argument("--name", default="global", help="its name where it is no region's")
    parser.add_argument("--region", metavar="NAME", help="makes it the coordinator of a region")
    parser.add_argument(
        "--upstream",
        action="append",
        metavar="ENDPOINT",
        help="of the coordinator above the region; repeated: stand-ins for each other",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if (args.region is None) != (args.upstream is None):
        raise ConfigError("--region and --upstream go together")

    def exchange(security: Security) -> Forwarding | None:
        if args.region is None:
            return None
        return Forwarding(args.upstream, args.region, security=security)

    return serve(args, args.name if args.region is None else args.region, exchange)
