"""`sona config`: what is installed and what it uses."""

from __future__ import annotations

import argparse

import sona

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options: none."""
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    sona.show_config()
    return 0
