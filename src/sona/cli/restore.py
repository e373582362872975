"""`sona restore BACKUP STORE`: make a service's folder from a backup."""

from __future__ import annotations

import argparse
from pathlib import Path

from sona.service.folder import restore

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("backup", help="folder that `sona backup` made")
    parser.add_argument("store", help="folder to make; must not exist")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    names = restore(Path(args.backup), Path(args.store))
    print(f"{args.store}: {len(names)} tenants {' '.join(names)}".rstrip())
    return 0
