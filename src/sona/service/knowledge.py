"""What readers see: a frozen copy of what a coordinator knew at one moment.

Routes, patterns and warm starts are answered from it, so a reader never waits for a commit or a
consolidation, and all that one version says fits together. The copy decides as an agent does
that starts warm with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona.config import SonaConfig
from sona.engine import SonaEngine
from sona.federated import WarmStart
from sona.service.records import PatternView, RouteAnswer, RouteQuestion, RouteView
from sona.types import LearnedPattern

__all__ = ["Knowledge", "best_route", "pattern_view"]


class PatternPositions(NamedTuple):
    """The patterns in the two directions in which they differ most.

    Attributes
    ----------
    positions : ndarray of shape (n, 2), float32
    explained : float
        Share of the patterns' variance that the map shows, in [0, 1].
    """

    positions: NDArray[np.float32]
    explained: float


class Knowledge:
    """One published version of a coordinator's knowledge; immutable.

    Parameters
    ----------
    message : bytes
        A warm start.
    config : SonaConfig
        The coordinator's settings.

    Raises
    ------
    FormatError
        If the bytes are no warm start, or damaged.
    ShapeError
        If it was made for other dimensions.

    Attributes
    ----------
    version : int
        Trajectories that stand behind it.
    message : bytes
        The warm start, as it travels.
    etag : str
        Quoted name of `message`, derived from its content.
    patterns : list of LearnedPattern
        The largest first.
    routes : dict of str to RouteStats
        Outcomes by route over everything learned.
    """

    def __init__(self, message: bytes, config: SonaConfig) -> None:
        warm_start = WarmStart.from_bytes(message)
        self.version = warm_start.version
        self.message = message
        self.etag = f'"{hashlib.sha256(message).hexdigest()[:32]}"'
        self._engine = SonaEngine(config)
        warm_start.apply_to(self._engine)
        self.patterns = sorted(self._engine.patterns, key=lambda pattern: -pattern.cluster_size)
        self.routes = self._engine.stats().routes

    @cached_property
    def map(self) -> PatternPositions:
        """Where the patterns lie on the page's map; computed when it is first looked at."""
        return PatternPositions(*_project([pattern.centroid for pattern in self.patterns]))

    def route(self, question: RouteQuestion) -> RouteAnswer:
        """Decide; see :meth:`SonaEngine.route` for what is refused."""
        decision = self._engine.route(
            question.embedding,
            question.routes,
            question.costs,
            question.cost_weight,
            question.explore,
        )
        return RouteAnswer(
            decision.route,
            decision.expected,
            decision.uncertainty,
            decision.explored,
            [pattern_view(pattern) for pattern in decision.patterns],
            self.version,
        )


def best_route(pattern: LearnedPattern) -> str | None:
    """Return the route with the best mean quality in a pattern; None where none was named."""
    if not pattern.routes:
        return None
    return max(pattern.routes.items(), key=lambda item: (item[1].mean, item[1].count))[0]


def pattern_view(pattern: LearnedPattern) -> PatternView:
    """Return what is shown of a pattern."""
    return PatternView(
        pattern.id,
        pattern.cluster_size,
        pattern.avg_quality,
        best_route(pattern),
        {name: RouteView(s.count, s.mean, s.variance) for name, s in pattern.routes.items()},
        pattern.similarity,
    )


def _project(centroids: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], float]:
    """Project on the first two principal components.

    The Gram matrix of the shorter side is decomposed: of 10,000 patterns with 384 dimensions a
    384 x 384 one. Signs are fixed by each axis's largest entry, so that the map does not flip
    from one version to the next.
    """
    if len(centroids) < 2:
        return np.zeros((len(centroids), 2), np.float32), 1.0
    points = np.stack(centroids).astype(np.float64)
    points -= points.mean(axis=0)
    _, axes = np.linalg.eigh(points.T @ points) if points.shape[1] <= len(points) else _wide(points)
    axes = axes[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1, 1)
    positions = points @ axes
    total = float((points**2).sum())
    explained = float((positions**2).sum()) / total if total > 0.0 else 1.0
    if positions.shape[1] < 2:  # embeddings of one dimension
        positions = np.hstack([positions, np.zeros_like(positions)])
    return positions.astype(np.float32), min(1.0, explained)


def _wide(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, sides = np.linalg.eigh(points @ points.T)
    axes = points.T @ sides
    return values, axes / np.maximum(np.linalg.norm(axes, axis=0), 1e-12)
