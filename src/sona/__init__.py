"""sona: agents that learn from their own outcomes, and hand on what they learned."""

__version__ = "0.1.0"

from sona.config import SonaConfig
from sona.engine import SonaEngine
from sona.errors import SonaError
from sona.installation import show_config
from sona.learning.trajectory import TrajectoryBuilder
from sona.types import (
    EngineStats,
    LearnedPattern,
    LearnResult,
    RouteDecision,
    RouteStats,
    Step,
    Trajectory,
)

__all__ = [
    "EngineStats",
    "LearnResult",
    "LearnedPattern",
    "RouteDecision",
    "RouteStats",
    "SonaConfig",
    "SonaEngine",
    "SonaError",
    "Step",
    "Trajectory",
    "TrajectoryBuilder",
    "__version__",
    "show_config",
]
