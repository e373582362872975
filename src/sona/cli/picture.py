"""The pictures of the commands: what a fleet learned, and what it is worth to a new agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sona.errors import MissingExtraError
from sona.types import LearnedPattern

if TYPE_CHECKING:
    from sona.cli.demo import DemoResult
    from sona.cli.simulate import Simulation

__all__ = ["demo", "simulation"]

_COLUMNS, _ROWS = 10, 5


def demo(result: DemoResult, path: str) -> None:
    """Write the largest patterns as images with their best route, and the growth curve, as PNG."""
    figure = _figure(11, 9.5)
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.2, 1])
    upper, lower = parts
    colours = {route: f"C{index}" for index, route in enumerate(result.routes)}
    upper.suptitle("The fleet's largest patterns and the route each has found best")
    grid = upper.subplots(_ROWS, _COLUMNS, squeeze=False).ravel()
    shown = result.patterns[: len(grid)]
    for axes in grid:
        axes.axis("off")
    for axes, pattern in zip(grid, shown, strict=False):
        _draw(axes, pattern, colours)
    _grow(lower.subplots(), result)
    figure.savefig(path, dpi=110)


def simulation(result: Simulation, topology: str, path: str) -> None:
    """Write quality by agents seen, as PNG."""
    figure = _figure(8, 5)
    axes: Any = figure.subplots()
    agents, quality = zip(*result.growth, strict=True)
    axes.plot(agents, quality, marker="o", label=f"new agent, {topology}")
    _lines(
        axes,
        (result.oracle, "oracle", ":"),
        (result.single, "one coordinator that holds everything", "--"),
        (result.best_single, "best single route", "-."),
    )
    axes.set_xscale("symlog", linthresh=10)
    axes.set(xlabel="agents seen", ylabel="quality of the first decision", ylim=(0.0, 1.05))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError(
            "the picture needs matplotlib; install it with: pip install 'sona[demo]'"
        ) from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _lines(axes: Any, *levels: tuple[float, str, str]) -> None:
    for height, label, style in levels:
        axes.axhline(height, linestyle=style, color="gray", label=f"{label}: {height:.2f}")


def _draw(axes: Any, pattern: LearnedPattern, colours: dict[str, str]) -> None:
    axes.imshow(pattern.centroid.reshape(8, 8), cmap="gray_r")
    tried = {route: stats for route, stats in pattern.routes.items() if stats.count > 0}
    if not tried:
        axes.set_title("untried", fontsize=7)
        return
    # One prior failure and success each: a single lucky hit is not the best route yet.
    best = max(tried, key=lambda r: (tried[r].mean * tried[r].count + 1.0) / (tried[r].count + 2.0))
    axes.set_title(
        f"{best}\n{tried[best].mean:.2f} of {tried[best].count:.0f}",
        fontsize=7,
        color=colours.get(best, "black"),
    )


def _grow(axes: Any, result: DemoResult) -> None:
    exports, quality = zip(*result.growth, strict=True)
    axes.plot(exports, quality, marker="o", label="new agent, started warm")
    _lines(
        axes,
        (result.oracle, "oracle", ":"),
        (result.own, "agent with only its own experience", "--"),
        (result.best_single, "best single route", "-."),
    )
    axes.set(xlabel="agents merged", ylabel="quality of the first decision", ylim=(0.0, 1.05))
    axes.legend(loc="lower right")
