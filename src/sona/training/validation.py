"""What an engine's decisions are worth on requests that it has not seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from sona.engine import SonaEngine
from sona.errors import RangeError
from sona.types import Record, Trajectory

__all__ = ["Validation", "validate", "value_decisions"]


class Validation(Record, frozen=True, eq=False):
    """How well an engine decides on held-out requests.

    Attributes
    ----------
    quality : float or None
        Estimated mean quality of its decisions, see :func:`value_decisions`; None where no
        decision matches what was logged.
    matching : int
        Requests that the estimate rests on.
    error : float
        Mean squared difference between the quality that was expected of the logged route and the
        outcome; every request counts.
    count : int
        Requests that were held out.
    """

    quality: float | None
    matching: int
    error: float
    count: int


def validate(engine: SonaEngine, held_out: Sequence[Trajectory]) -> Validation:
    """Let an engine decide requests whose outcomes it does not know.

    Parameters
    ----------
    engine : SonaEngine
        It learns nothing from this.
    held_out : sequence of Trajectory
        At least one; each with the route that was taken. All their routes are candidates.

    Raises
    ------
    RangeError
        If there is no request, or one without a route.
    """
    routes = [trajectory.route for trajectory in held_out]
    names = sorted({route for route in routes if route is not None})
    if not names or None in routes:
        raise RangeError("`held_out` must hold requests, each with its route; got one without")
    decisions = [engine.route(trajectory.embedding, names) for trajectory in held_out]
    quality, matching = value_decisions([decision.route for decision in decisions], held_out)
    errors = [
        decision.expected[route] - trajectory.quality
        for decision, route, trajectory in zip(decisions, routes, held_out, strict=True)
        if route is not None
    ]
    return Validation(quality, matching, float(np.mean(np.square(errors))), len(held_out))


def value_decisions(
    decided: Sequence[str], logged: Sequence[Trajectory]
) -> tuple[float | None, int]:
    """Estimate what decisions are worth from a log that tried one route per request.

    Parameters
    ----------
    decided : sequence of n str
        The route decided for, request by request.
    logged : sequence of n Trajectory
        What was done, and how good it was.

    Returns
    -------
    quality : float or None
        Mean outcome of the requests where both agree; None if there is none.
    matching : int
        How many those are.

    Notes
    -----
    A route that is logged often agrees often, so every match is weighted by the inverse of its
    route's share in the log.

    Examples
    --------
    >>> from sona import Trajectory
    >>> from sona.training import value_decisions
    >>> log = [Trajectory([1, 0], 1.0, "a"), Trajectory([1, 0], 0.5, "a")]
    >>> log += [Trajectory([0, 1], 0.0, "b")]
    >>> value_decisions(["a", "b", "b"], log)
    (0.3333333333333333, 2)
    """
    share = Counter(trajectory.route for trajectory in logged)
    matches = [
        (trajectory.quality, 1.0 / share[route])
        for route, trajectory in zip(decided, logged, strict=True)
        if trajectory.route == route
    ]
    if not matches:
        return None, 0
    quality, weights = np.array(matches).T
    return float(np.average(quality, weights=weights)), len(matches)
