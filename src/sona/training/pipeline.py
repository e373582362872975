"""Training in batches and epochs, judged by decisions on requests that were held out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from sona.checks import check_count, check_number, check_text
from sona.config import SonaConfig
from sona.engine import SonaEngine
from sona.errors import RangeError
from sona.training.metrics import TrainingMetrics
from sona.training.validation import Validation, validate
from sona.types import LearnResult, Record, Trajectory

__all__ = ["BatchConfig", "EpochStats", "TrainingCallback", "TrainingPipeline", "TrainingResult"]


class BatchConfig(msgspec.Struct, frozen=True):
    """How a pipeline goes through its examples; checked when made.

    Parameters
    ----------
    batch_size : int, default 1024
        Examples between two background cycles. A cycle takes time that grows with all that is
        remembered: many small batches cost more and adapt in smaller steps.
    epochs : int, default 1
        Passes over the examples. Every pass counts the outcomes once more, so that the engine
        trusts them more than it should: give a validation set to have the best epoch kept.
    shuffle : bool, default True
        Whether each pass takes the examples in another, seeded order.
    patience : int or None, default None
        Epochs without improvement of the validation error after which training ends.
    min_improvement : float, default 0.0
        How much smaller the error must get to count as an improvement.

    Raises
    ------
    RangeError, DTypeError
        If a value has no meaning; the message names the field.
    """

    batch_size: int = 1024
    epochs: int = 1
    shuffle: bool = True
    patience: int | None = None
    min_improvement: float = 0.0

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size)
        check_count("epochs", self.epochs)
        if self.patience is not None:
            check_count("patience", self.patience)
        check_number("min_improvement", self.min_improvement, 0.0, 1.0)


class EpochStats(Record, frozen=True, eq=False):
    """One pass over the examples.

    Attributes
    ----------
    epoch : int
        Counted from 0.
    examples_processed : int
    avg_quality : float
        Mean quality of the examples.
    duration_secs : float
        Validation left out.
    validation : Validation or None
        What the engine's decisions were worth after the pass.
    """

    epoch: int
    examples_processed: int
    avg_quality: float
    duration_secs: float
    validation: Validation | None


class TrainingResult(Record, frozen=True, eq=False):
    """What a training session did.

    Attributes
    ----------
    pipeline_name : str
    epochs_completed : int
    best_epoch : int
        The epoch whose engine was kept, counted from 0.
    total_examples : int
        Examples that were learned from, repeats included.
    patterns_learned : int
        Patterns of the engine that was kept.
    total_duration_secs : float
    epoch_stats : list of EpochStats
    before, after : Validation or None
        What decisions were worth before the session, and with the engine that was kept.
    """

    pipeline_name: str
    epochs_completed: int
    best_epoch: int
    total_examples: int
    patterns_learned: int
    total_duration_secs: float
    epoch_stats: list[EpochStats]
    before: Validation | None
    after: Validation | None

    def __str__(self) -> str:
        quality = None if self.after is None else self.after.quality
        return (
            f"TrainingResult(pipeline={self.pipeline_name}, epochs={self.epochs_completed},"
            f" examples={self.total_examples}, patterns={self.patterns_learned},"
            f" validation_quality={'-' if quality is None else f'{quality:.4f}'},"
            f" duration={self.total_duration_secs:.2f}s)"
        )


class TrainingCallback:
    """What happens while a pipeline trains; override what you want to hear of.

    An exception that a callback raises ends the session; the engine keeps what it has learned.
    """

    def on_batch(self, batch: int, batches: int, learned: LearnResult) -> None:
        """After batch `batch` of `batches`, counted from 0, and its background cycle."""

    def on_epoch(self, stats: EpochStats) -> None:
        """After each epoch and its validation."""

    def on_complete(self, result: TrainingResult) -> None:
        """After the session."""


class TrainingPipeline:
    """Trains an engine on finished trajectories.

    Parameters
    ----------
    name : str
    config : SonaConfig, optional
        Settings of the engine; the batch preset if not given.
    batch : BatchConfig, optional
    callbacks : sequence of TrainingCallback, optional

    Notes
    -----
    Not thread-safe. A second session goes on with the engine of the first.

    Examples
    --------
    >>> import numpy as np
    >>> from sona import SonaConfig, Trajectory
    >>> from sona.training import TrainingPipeline
    >>> log = [
    ...     Trajectory(np.float32(query), float(route == best), route)
    ...     for query, best in (([1, 0.1], "small"), ([0.1, 1], "large"))
    ...     for route in ("small", "large")
    ... ] * 10
    >>> pipeline = TrainingPipeline("demo", SonaConfig(hidden_dim=2))
    >>> result = pipeline.train(log, validation=log[:4])
    >>> result.before.quality, result.after.quality
    (0.5, 1.0)
    >>> pipeline.engine.route([1.0, 0.0]).route
    'small'
    """

    def __init__(
        self,
        name: str,
        config: SonaConfig | None = None,
        batch: BatchConfig | None = None,
        callbacks: Sequence[TrainingCallback] = (),
    ) -> None:
        self._name = check_text("name", name)
        self._engine = SonaEngine(SonaConfig.batch_processing() if config is None else config)
        self._batch = BatchConfig() if batch is None else batch
        self._callbacks = tuple(callbacks)
        self._metrics = TrainingMetrics(name)
        self._order = np.random.default_rng(self._engine.config.seed)

    @property
    def name(self) -> str:
        """Name of the pipeline."""
        return self._name

    @property
    def engine(self) -> SonaEngine:
        """The engine; after a session with validation, the one of the best epoch."""
        return self._engine

    @property
    def metrics(self) -> TrainingMetrics:
        """What was measured so far."""
        return self._metrics

    def train(
        self, examples: Iterable[Trajectory], validation: Sequence[Trajectory] = ()
    ) -> TrainingResult:
        """Learn from examples.

        Parameters
        ----------
        examples : iterable of Trajectory
            At least one.
        validation : sequence of Trajectory, optional
            Held out: the engine decides them after every epoch and never learns from them. With
            them, the engine of the epoch with the smallest error is kept.

        Raises
        ------
        RangeError
            If there is no example, if a validation request has no route, or if `patience` is set
            and there is nothing to judge by.
        ShapeError, DTypeError, NonFiniteError
            If an example is refused by the engine, which keeps what came before it.
        """
        rows = list(examples)
        if not rows:
            raise RangeError("`examples` must hold at least one trajectory; got none")
        if self._batch.patience is not None and not validation:
            raise RangeError("`validation` must hold requests when `patience` is set; got none")
        start = time.perf_counter()
        before = validate(self._engine, validation) if validation else None
        epochs: list[EpochStats] = []
        best, best_epoch, waited = _Best(), 0, 0
        for epoch in range(self._batch.epochs):
            stats = self._run_epoch(epoch, rows, validation)
            epochs.append(stats)
            for callback in self._callbacks:
                callback.on_epoch(stats)
            if stats.validation is None:
                best_epoch = epoch
                continue
            if best.improved_by(stats.validation.error, self._batch.min_improvement):
                best = _Best(stats.validation.error, self._engine.to_bytes())
                best_epoch, waited = epoch, 0
            else:
                waited += 1
                if waited == self._batch.patience:
                    break
        if best_epoch != len(epochs) - 1:
            self._engine = SonaEngine.from_bytes(best.state)
        after = epochs[best_epoch].validation
        self._metrics.training_sessions += 1
        self._metrics.patterns_learned = self._engine.stats().patterns_stored
        if after is not None:
            self._metrics.validation_quality = after.quality
        result = TrainingResult(
            self._name,
            len(epochs),
            best_epoch,
            sum(stats.examples_processed for stats in epochs),
            self._metrics.patterns_learned,
            time.perf_counter() - start,
            epochs,
            before,
            after,
        )
        for callback in self._callbacks:
            callback.on_complete(result)
        return result

    def _run_epoch(
        self, epoch: int, rows: list[Trajectory], validation: Sequence[Trajectory]
    ) -> EpochStats:
        start = time.perf_counter()
        order = self._order.permutation(len(rows)) if self._batch.shuffle else np.arange(len(rows))
        size = self._batch.batch_size
        batches = -(-len(rows) // size)
        for batch in range(batches):
            begun = time.perf_counter()
            for row in order[batch * size : (batch + 1) * size].tolist():
                self._engine.submit_trajectory(rows[row])
                self._metrics.add_quality_sample(rows[row].quality)
                self._metrics.total_examples += 1
            learned = self._engine.force_learn()
            self._metrics.add_batch(time.perf_counter() - begun, learned.elapsed_ms)
            for callback in self._callbacks:
                callback.on_batch(batch, batches, learned)
        return EpochStats(
            epoch,
            len(rows),
            float(np.mean([row.quality for row in rows])),
            time.perf_counter() - start,
            validate(self._engine, validation) if validation else None,
        )


class _Best(msgspec.Struct):
    """The smallest validation error so far, and the engine that had it."""

    error: float = np.inf
    state: bytes = b""

    def improved_by(self, error: float, least: float) -> bool:
        # The first epoch always counts: there must be an engine to keep.
        return not self.state or error < self.error - least
