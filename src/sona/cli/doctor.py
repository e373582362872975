"""`sona doctor STORE`: read everything and say what is wrong; exit status 1 if anything is."""

from __future__ import annotations

import argparse
from pathlib import Path

from sona.errors import StoreError
from sona.service.folder import check, store_faults

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("store", help="folder of a service, store of a coordinator, or its address")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    path = Path(args.store)
    if "://" not in args.store and not path.exists():
        raise StoreError(f"`store`: there is nothing at {args.store!r}")
    faults = check(path) if path.is_dir() else store_faults(args.store)
    for fault in faults:
        print(fault)
    if not faults:
        print(f"{args.store}: sound")
    return 1 if faults else 0
