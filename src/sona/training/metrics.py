"""What is measured while an engine is trained."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
import numpy as np

from sona.checks import check_number, check_quality
from sona.types import Record

__all__ = ["PerformanceMetrics", "QualityMetrics", "TrainingMetrics"]


class QualityMetrics(Record, frozen=True, eq=False):
    """Spread of quality over the newest outcomes; zeros while there are none.

    Attributes
    ----------
    avg, min, max, std_dev : float
        Mean, extremes and population standard deviation.
    p25, p50, p75, p95 : float
        Percentiles, interpolated.
    sample_count : int
        Outcomes that they are computed from.
    """

    avg: float = 0.0
    min: float = 0.0
    max: float = 0.0
    std_dev: float = 0.0
    p25: float = 0.0
    p50: float = 0.0
    p75: float = 0.0
    p95: float = 0.0
    sample_count: int = 0

    def __str__(self) -> str:
        return (
            f"avg={self.avg:.4f}, std={self.std_dev:.4f}, min={self.min:.4f}, max={self.max:.4f},"
            f" p50={self.p50:.4f}, p95={self.p95:.4f} (n={self.sample_count})"
        )


class PerformanceMetrics(Record, frozen=True, eq=False):
    """Time that training took, all sessions together; zeros before the first.

    Attributes
    ----------
    total_training_secs : float
        Wall-clock time, validation left out.
    avg_batch_time_ms, avg_example_time_us : float
        Its share of a batch and of an example.
    examples_per_sec : float
    pattern_extraction_ms : float
        Time in background cycles.
    """

    total_training_secs: float = 0.0
    avg_batch_time_ms: float = 0.0
    avg_example_time_us: float = 0.0
    examples_per_sec: float = 0.0
    pattern_extraction_ms: float = 0.0


class TrainingMetrics:
    """Figures of one pipeline over all its training sessions.

    Parameters
    ----------
    name : str
        Name of the pipeline.

    Attributes
    ----------
    total_examples, training_sessions, patterns_learned : int
        Outcomes learned from, repeats included; calls of ``train``; patterns in the bank now.
    validation_quality : float or None
        Of the last validation; see :class:`~sona.training.Validation`.

    Notes
    -----
    Quality is kept singly for the newest 10,000 outcomes. Not thread-safe.

    Examples
    --------
    >>> from sona.training import TrainingMetrics
    >>> metrics = TrainingMetrics("demo")
    >>> for quality in (0.5, 0.7, 0.9):
    ...     metrics.add_quality_sample(quality)
    >>> metrics.quality_percentile(50), round(metrics.quality_stats().avg, 3)
    (0.7, 0.7)
    """

    #: Outcomes whose quality is kept singly.
    CAPACITY = 10_000

    def __init__(self, name: str) -> None:
        self.name = name
        self.reset()

    def reset(self) -> None:
        """Forget everything but the name."""
        self.total_examples = 0
        self.training_sessions = 0
        self.patterns_learned = 0
        self.validation_quality: float | None = None
        self._samples: deque[float] = deque(maxlen=self.CAPACITY)
        self._seconds = self._extraction_ms = 0.0
        self._batches = 0

    def add_quality_sample(self, quality: float) -> None:
        """Count the quality of one outcome, in [0, 1]."""
        self._samples.append(check_quality("quality", quality))

    def add_batch(self, seconds: float, extraction_ms: float) -> None:
        """Count the time of one batch, background cycle included, and of that cycle alone."""
        self._seconds += check_number("seconds", seconds, 0.0, 1e12)
        self._extraction_ms += check_number("extraction_ms", extraction_ms, 0.0, 1e15)
        self._batches += 1

    @property
    def avg_quality(self) -> float:
        """Mean of the kept samples; 0.0 while there are none."""
        return self.quality_stats().avg

    def quality_percentile(self, percentile: float) -> float:
        """Percentile in [0, 100] of the kept samples; 0.0 while there are none."""
        percentile = check_number("percentile", percentile, 0.0, 100.0)
        return float(np.percentile(self._samples, percentile)) if self._samples else 0.0

    def quality_stats(self) -> QualityMetrics:
        """Return the spread of the kept samples."""
        if not self._samples:
            return QualityMetrics()
        samples = np.array(self._samples)
        p25, p50, p75, p95 = np.percentile(samples, [25, 50, 75, 95]).tolist()
        return QualityMetrics(
            avg=float(samples.mean()),
            min=float(samples.min()),
            max=float(samples.max()),
            std_dev=float(samples.std()),
            p25=p25,
            p50=p50,
            p75=p75,
            p95=p95,
            sample_count=len(samples),
        )

    @property
    def performance(self) -> PerformanceMetrics:
        """Time taken so far."""
        if not self._batches or not self.total_examples:
            return PerformanceMetrics()
        return PerformanceMetrics(
            self._seconds,
            1e3 * self._seconds / self._batches,
            1e6 * self._seconds / self.total_examples,
            self.total_examples / self._seconds if self._seconds else 0.0,
            self._extraction_ms,
        )

    def merge(self, other: TrainingMetrics) -> None:
        """Count in what another pipeline measured after this one; its state counts as newer."""
        self.total_examples += other.total_examples
        self.training_sessions += other.training_sessions
        self.patterns_learned = other.patterns_learned
        self.validation_quality = other.validation_quality
        self._samples.extend(other._samples)
        self._seconds += other._seconds
        self._extraction_ms += other._extraction_ms
        self._batches += other._batches

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as builtins, ready for JSON."""
        built: dict[str, Any] = {
            "name": self.name,
            "total_examples": self.total_examples,
            "training_sessions": self.training_sessions,
            "patterns_learned": self.patterns_learned,
            "validation_quality": self.validation_quality,
            "quality": msgspec.to_builtins(self.quality_stats()),
            "performance": msgspec.to_builtins(self.performance),
        }
        return built
