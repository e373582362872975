"""Training on outcomes that are known already: pipelines, templates, a factory, measurements."""

from sona.training.factory import AgentFactory, AgentStats
from sona.training.metrics import PerformanceMetrics, QualityMetrics, TrainingMetrics
from sona.training.pipeline import (
    BatchConfig,
    EpochStats,
    TrainingCallback,
    TrainingPipeline,
    TrainingResult,
)
from sona.training.templates import TEMPLATES, TrainingTemplate
from sona.training.validation import Validation, validate, value_decisions

__all__ = [
    "TEMPLATES",
    "AgentFactory",
    "AgentStats",
    "BatchConfig",
    "EpochStats",
    "PerformanceMetrics",
    "QualityMetrics",
    "TrainingCallback",
    "TrainingMetrics",
    "TrainingPipeline",
    "TrainingResult",
    "TrainingTemplate",
    "Validation",
    "validate",
    "value_decisions",
]
