"""`sona token create|list|revoke`: who may speak for whom."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from sona.cli.table import table
from sona.errors import RangeError
from sona.service.folder import TOKENS
from sona.service.tokens import TokenBook

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    create = verbs.add_parser("create", help="make a token; it is shown once")
    create.add_argument("--tenant", required=True, help="whose knowledge it opens")
    create.add_argument("--agent", help="the only agent that may use it (default: any)")
    verbs.add_parser("list", help="show all tokens without their secrets")
    revoke = verbs.add_parser("revoke", help="refuse a token from now on")
    revoke.add_argument("id", help="from `sona token list`")
    for verb in verbs.choices.values():
        verb.add_argument("--store", required=True, help="folder of the service")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    folder = Path(args.store)
    folder.mkdir(parents=True, exist_ok=True)
    book = TokenBook(folder / TOKENS)
    try:
        if args.verb == "create":
            print(book.create(args.tenant, args.agent))
            print("Keep it: nobody can show it again.", file=sys.stderr)
        elif args.verb == "list":
            _list(book)
        elif not book.revoke(args.id):
            raise RangeError(f"`id` must name a token in use; got {args.id!r}")
    finally:
        book.close()
    return 0


def _list(book: TokenBook) -> None:
    rows = [
        [
            info.token_id,
            info.tenant,
            info.agent or "any",
            _day(info.created_at),
            "" if info.revoked_at is None else _day(info.revoked_at),
        ]
        for info in book.tokens()
    ]
    print(table(["id", "tenant", "agent", "created", "revoked"], rows))


def _day(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(ms / 1e3))
