"""`sona serve --store PATH`: the coordinator as an HTTP service."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--store", required=True, help="folder to keep everything in")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8460, help="default 8460; 0: any free one")
    parser.add_argument("--dim", type=int, help="embedding dimension of new tenants")
    parser.add_argument("--max-body-mib", type=float, default=16.0, help="largest body (16)")
    parser.add_argument("--max-vectors", type=int, default=20_000, help="per export (20000)")
    parser.add_argument("--rate", type=float, default=200.0, help="requests/s per token (200)")
    parser.add_argument(
        "--max-unlearned", type=int, default=10_000, help="exports that wait to be learned (10000)"
    )
    parser.add_argument("--body-seconds", type=float, default=30.0, help="for a body to come (30)")
    parser.add_argument("--drain-seconds", type=float, default=1.0, help="before closing (1)")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING"])
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from sona.service.limits import Limits
    from sona.service.server import serve

    limits = Limits(
        body_bytes=int(args.max_body_mib * 2**20),
        vectors=args.max_vectors,
        rate=args.rate,
        burst=max(1, round(2 * args.rate)),
        body_seconds=args.body_seconds,
        unlearned=args.max_unlearned,
    )
    serve(
        args.store,
        args.host,
        args.port,
        limits,
        dim=args.dim,
        drain_seconds=args.drain_seconds,
        log_level=args.log_level,
    )
    return 0
