"""`sona inspect STATE`: what an engine has learned, in one screen."""

from __future__ import annotations

import argparse

from sona.cli.table import table
from sona.engine import SonaEngine
from sona.types import LearnedPattern

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("state", help="state file, from `sona replay` or SonaEngine.save")
    parser.add_argument("--patterns", type=int, default=20, help="patterns to list (default 20)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    engine = SonaEngine.load(args.state)
    stats = engine.stats()
    print(f"{args.state}: embeddings of {engine.config.embedding_dim_} dimensions")
    print(
        f"{stats.trajectories_seen} trajectories seen, {stats.trajectories_accepted} accepted,"
        f" average quality {stats.avg_quality:.4f}; {stats.patterns_stored} patterns;"
        f" {stats.background_cycles} background cycles"
    )
    by_mean = sorted(stats.routes.items(), key=lambda item: -item[1].mean)
    routes = [[name, f"{s.count:.0f}", f"{s.mean:.4f}"] for name, s in by_mean]
    print("\n" + table(["route", "outcomes", "mean quality"], routes))
    largest = sorted(engine.patterns, key=lambda pattern: -pattern.cluster_size)
    shown = largest[: max(0, args.patterns)]
    rows = [[f"#{p.id}", str(p.cluster_size), f"{p.avg_quality:.4f}", _best(p)] for p in shown]
    print("\n" + table(["pattern", "size", "mean quality", "best route (mean of outcomes)"], rows))
    if len(largest) > len(shown):
        print(f"... and {len(largest) - len(shown)} more; see --patterns")
    return 0


def _best(pattern: LearnedPattern) -> str:
    if not pattern.routes:
        return "-"
    name, stats = max(pattern.routes.items(), key=lambda item: item[1].mean)
    return f"{name} ({stats.mean:.2f} of {stats.count:.0f})"
