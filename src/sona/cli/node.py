"""What `sona coordinator` and `sona peer` share: a node that runs until it is told to stop."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable

from sona.config import SonaConfig
from sona.federated import FederatedCoordinator
from sona.federated.network import Node, Security
from sona.federated.network.exchange import Exchange

__all__ = ["add_node_arguments", "read_security", "serve"]


def add_node_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where a node listens, what it stores and whom it trusts."""
    parser.add_argument(
        "--listen",
        action="append",
        required=True,
        metavar="ENDPOINT",
        help="tls/HOST:PORT, or tcp/HOST:PORT on loopback; may be repeated",
    )
    parser.add_argument("--store", required=True, help="file that keeps what was acknowledged")
    parser.add_argument("--dim", type=int, default=384, help="length of embeddings (default 384)")
    trust = parser.add_mutually_exclusive_group(required=True)
    trust.add_argument("--security", metavar="FILE", help="TOML with certificates and access")
    trust.add_argument(
        "--insecure", action="store_true", help="neither TLS nor access control; loopback only"
    )


def read_security(args: argparse.Namespace) -> Security:
    """Return what the arguments say of security."""
    return Security.off() if args.insecure else Security.from_file(args.security)


def serve(
    args: argparse.Namespace,
    name: str,
    exchange: Callable[[Security], Exchange | None],
) -> int:
    """Run a node until SIGTERM or SIGINT."""
    # Learning is Python that computes, answering is Python that waits: with the default of 5 ms
    # each step of an answer would wait longer than a whole answer takes.
    sys.setswitchinterval(0.001)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    security = read_security(args)
    config = SonaConfig.for_coordinator(hidden_dim=args.dim)
    coordinator = FederatedCoordinator(name, config, store=args.store)
    try:
        with Node(coordinator, args.listen, security=security, exchange=exchange(security)):
            # The line that scripts wait for: from here on exports are acknowledged.
            print(f"{name} listens on {', '.join(args.listen)}", flush=True)
            stop.wait()
    finally:
        coordinator.close()
    return 0
