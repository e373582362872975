"""`sona backup STORE TARGET`: copy a service's folder, also while it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from sona.service.folder import backup

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("store", help="folder of the service")
    parser.add_argument("target", help="folder to make; must not exist")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    names = backup(Path(args.store), Path(args.target))
    print(f"{args.target}: {len(names)} tenants {' '.join(names)}".rstrip())
    return 0
