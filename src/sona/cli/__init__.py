"""The `sona` command: one module per subcommand, each imported only when it is asked for."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from sona import __version__
from sona.errors import SonaError

__all__ = ["main"]

_COMMANDS = {
    "demo": "watch a fleet learn to route handwritten digits",
    "replay": "learn from a log of requests (JSON lines or Parquet) and leave a state file",
    "inspect": "show what a state file holds",
    "route": "decide with a state file",
    "serve": "run the coordinator as an HTTP service",
    "token": "make, list and revoke tokens of a service",
    "backup": "copy a service's folder, also while it runs",
    "restore": "make a service's folder from a backup",
    "doctor": "read a store or a service's folder and say what is wrong",
    "coordinator": "take exports in over the network: a star's, a region's or the one above",
    "peer": "take exports in and gossip with other peers",
    "simulate": "watch a thousand agents under a topology that fails",
    "config": "show version, backend and instruction sets",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        Arguments without the program name; those of the process if not given.

    Returns
    -------
    int
        Exit status: 0 done, 1 refused with a message, 2 wrong usage.
    """
    parser = argparse.ArgumentParser(prog="sona", description="Agents that learn and hand it on.")
    parser.add_argument("--version", action="version", version=f"sona {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    asked = sys.argv[1:] if argv is None else argv
    for name, purpose in _COMMANDS.items():
        subparser = commands.add_parser(name, help=purpose, description=purpose)
        # Only the command that is run is imported: `sona route` needs no plotting library.
        if name in asked[:1]:
            import_module(f"sona.cli.{name}").add_arguments(subparser)
    args = parser.parse_args(asked)
    try:
        status: int = args.run(args)
    except (SonaError, OSError) as error:
        print(f"sona {args.command}: {error}", file=sys.stderr)
        return 1
    return status
