"""The records that travel between sona's parts: plain, frozen, without behaviour.

Records are compared by identity, because most of them hold arrays. Arrays inside a record are
float32 and belong to the record: nobody writes to them after it was made.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ArrayLike",
    "EngineStats",
    "FloatArray",
    "LayerKey",
    "LearnResult",
    "LearnedPattern",
    "RouteDecision",
    "RouteStats",
    "Step",
    "Trajectory",
]

FloatArray: TypeAlias = NDArray[np.float32]

#: A layer is named by its index or by its name; layer 0 is the one that queries pass through.
LayerKey: TypeAlias = int | str


class Record(msgspec.Struct, frozen=True, eq=False):
    """Base of the records: immutable, built in well under a microsecond."""


class Step(Record, frozen=True, eq=False):
    """One step of a trajectory.

    Attributes
    ----------
    activations : ndarray of shape (hidden_dim,), float32
        Hidden state of the step; token activations arrive here already pooled.
    reward : float
        Outcome of the step in [0, 1].
    layer : int or str
        Layer that the activations enter.
    """

    activations: FloatArray
    reward: float
    layer: LayerKey = 0


class Trajectory(Record, frozen=True, eq=False):
    """One finished request.

    Attributes
    ----------
    embedding : ndarray of shape (embedding_dim,), float32
        The query, as the caller gave it.
    quality : float
        Outcome in [0, 1]; higher is better.
    route : str or None
        The choice that was made, if there was one.
    context : tuple of str
        Free tags, for example ``"file:main.py"``.
    steps : tuple of Step
        What happened on the way.
    timestamp : int
        End of the request, milliseconds since the epoch.
    """

    embedding: FloatArray
    quality: float
    route: str | None = None
    context: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    timestamp: int = 0


class RouteStats(Record, frozen=True, eq=False):
    """What one route achieved among the members of one pattern.

    Attributes
    ----------
    count : float
        Number of outcomes; fractional where old outcomes have faded.
    mean, variance : float
        Mean and population variance of the observed quality, not shrunk.
    """

    count: float
    mean: float
    variance: float


class LearnedPattern(Record, frozen=True, eq=False):
    """A cluster of similar trajectories.

    Attributes
    ----------
    id : int
        Stays with the pattern for as long as it exists.
    centroid : ndarray of shape (embedding_dim,), float32
        Unit length; all zero only if every member was the zero vector.
    cluster_size : int
        Trajectories that shaped the centroid.
    total_weight : float
        Sum of their weights.
    avg_quality : float
        Mean quality of all outcomes that fell in the pattern, failures included.
    routes : dict of str to RouteStats
        Outcomes by route.
    created_at, last_accessed : int
        Seconds since the epoch.
    access_count : int
        How often a decision or a search used the pattern.
    similarity : float or None
        Cosine similarity to the query of a search; None outside one.
    """

    id: int
    centroid: FloatArray
    cluster_size: int
    total_weight: float
    avg_quality: float
    routes: dict[str, RouteStats]
    created_at: int = 0
    last_accessed: int = 0
    access_count: int = 0
    similarity: float | None = None


class RouteDecision(Record, frozen=True, eq=False):
    """What the router chose for one query, and why.

    Attributes
    ----------
    route : str
        The choice.
    expected : dict of str to float
        Expected quality in [0, 1] of every candidate route, before costs.
    uncertainty : dict of str to float
        Standard deviation of each expectation: how far the estimate may be off, not how much
        single outcomes scatter.
    explored : bool
        True when the choice differs from the best expected utility in order to learn.
    patterns : list of LearnedPattern
        Nearest patterns of the adapted query, best first.
    """

    route: str
    expected: dict[str, float]
    uncertainty: dict[str, float]
    explored: bool
    patterns: list[LearnedPattern]


class LearnResult(Record, frozen=True, eq=False):
    """What one background cycle did; zeros where it did nothing.

    Attributes
    ----------
    trajectories_processed : int
        Trajectories that had arrived since the last cycle.
    trajectories_accepted : int
        Those among them whose quality let them shape patterns and adapters.
    patterns_before, patterns_after : int
        Size of the bank around the cycle.
    patterns_created, patterns_merged, patterns_pruned : int
        Where the difference comes from.
    base_lora_updated : bool
        True when base-LoRA weights changed.
    ewc_updated : bool
        True when the Fisher information or its anchor changed.
    loss_before, loss_after : float or None
        Mean decision loss on the trajectories that the adapters learned from.
    elapsed_ms : float
        Wall-clock time.
    """

    trajectories_processed: int = 0
    trajectories_accepted: int = 0
    patterns_before: int = 0
    patterns_after: int = 0
    patterns_created: int = 0
    patterns_merged: int = 0
    patterns_pruned: int = 0
    base_lora_updated: bool = False
    ewc_updated: bool = False
    loss_before: float | None = None
    loss_after: float | None = None
    elapsed_ms: float = 0.0


class EngineStats(Record, frozen=True, eq=False):
    """Counters of an engine at one moment.

    Attributes
    ----------
    trajectories_seen : int
        All that ended on this engine while it was enabled.
    trajectories_accepted : int
        Those at or above the quality threshold.
    trajectories_buffered, trajectories_pending, trajectories_dropped : int
        Held now; held and not yet seen by the background loop; pushed out by newer ones
        (their outcomes stay counted in the route statistics).
    patterns_stored : int
        Patterns in the bank.
    avg_quality : float
        Mean quality of everything seen; 0.0 before the first.
    instant_updates, background_cycles : int
        Micro-LoRA steps taken; completed background cycles.
    routes : dict of str to RouteStats
        Outcomes by route over everything seen.
    """

    trajectories_seen: int
    trajectories_accepted: int
    trajectories_buffered: int
    trajectories_pending: int
    trajectories_dropped: int
    patterns_stored: int
    avg_quality: float
    instant_updates: int
    background_cycles: int
    routes: dict[str, RouteStats]

    def to_dict(self) -> dict[str, Any]:
        """Return the counters as builtins, ready for JSON."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built
