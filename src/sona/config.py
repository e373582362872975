"""Settings of an engine, and presets that are only values."""

from __future__ import annotations

from typing import Any

import msgspec

from sona.errors import ConfigError

__all__ = ["SonaConfig"]


class _Named(msgspec.StructMeta):
    """Refuses fields that are none with sona's own error."""

    def __call__(self, *args: Any, **fields: Any) -> Any:
        known = self.__struct_fields__
        for name in fields:
            if name not in known:
                raise ConfigError(f"`{name}` is not a field of SonaConfig; fields: {sorted(known)}")
        return super().__call__(*args, **fields)


class SonaConfig(msgspec.Struct, metaclass=_Named, frozen=True, forbid_unknown_fields=True):
    """Settings of a :class:`~sona.SonaEngine`; immutable and checked when made.

    Parameters
    ----------
    hidden_dim : int, default 384
        Dimension of the hidden states that the adapters act on.
    embedding_dim : int or None, default None
        Dimension of query embeddings; None means ``hidden_dim``. When the two differ, queries
        are routed unadapted and the adapters serve hidden states only.
    micro_lora_rank : {1, 2}, default 2
        Rank of the adapter that learns from every request.
    base_lora_rank : int, default 8
        Rank, 1 to 64, of the per-layer adapters that the background loop trains.
    micro_lora_lr, base_lora_lr : float
        Learning rates; 0 switches the adapter's learning off.
    ewc_lambda : float
        Strength, at least 0, with which earlier tasks hold base-LoRA weights in place.
    pattern_clusters : int, default 100
        Upper bound on the number of patterns.
    trajectory_capacity : int, default 10000
        Trajectories that the engine remembers singly; the oldest leave first.
    background_interval_ms : int, default 3600000
        Time between two cycles of :meth:`~sona.SonaEngine.tick`, in milliseconds.
    quality_threshold : float, default 0.3
        In [0, 1]. Trajectories below it do not shape patterns and adapters; their outcomes are
        counted all the same.
    seed : int, default 0
        Seed of everything random: same seed, same order of calls, same bits.

    Raises
    ------
    ConfigError
        If a value has no meaning; the message names the field.

    Examples
    --------
    >>> from sona import SonaConfig
    >>> SonaConfig(hidden_dim=64).embedding_dim_
    64
    >>> SonaConfig.edge_deployment(hidden_dim=64, seed=7).micro_lora_rank
    1
    >>> SonaConfig(micro_lora_rank=3)
    Traceback (most recent call last):
        ...
    sona.errors.ConfigError: `micro_lora_rank` must be an integer in [1, 2]; got 3
    """

    hidden_dim: int = 384
    embedding_dim: int | None = None
    micro_lora_rank: int = 2
    base_lora_rank: int = 8
    micro_lora_lr: float = 0.1
    base_lora_lr: float = 0.003
    ewc_lambda: float = 1.0
    pattern_clusters: int = 100
    trajectory_capacity: int = 10_000
    background_interval_ms: int = 3_600_000
    quality_threshold: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        _check_int("hidden_dim", self.hidden_dim, 1, 65_536)
        if self.embedding_dim is not None:
            _check_int("embedding_dim", self.embedding_dim, 1, 65_536)
        _check_int("micro_lora_rank", self.micro_lora_rank, 1, 2)
        _check_int("base_lora_rank", self.base_lora_rank, 1, 64)
        _check_float("micro_lora_lr", self.micro_lora_lr, 0.0, 100.0)
        _check_float("base_lora_lr", self.base_lora_lr, 0.0, 100.0)
        _check_float("ewc_lambda", self.ewc_lambda, 0.0, 1e9)
        _check_int("pattern_clusters", self.pattern_clusters, 1, 1_000_000)
        _check_int("trajectory_capacity", self.trajectory_capacity, 1, 100_000_000)
        _check_int("background_interval_ms", self.background_interval_ms, 1, 2**53)
        _check_float("quality_threshold", self.quality_threshold, 0.0, 1.0)
        _check_int("seed", self.seed, 0, 2**63 - 1)

    @property
    def embedding_dim_(self) -> int:
        """Dimension of query embeddings, with None resolved."""
        return self.hidden_dim if self.embedding_dim is None else self.embedding_dim

    def replace(self, **overrides: Any) -> SonaConfig:
        """Return a checked copy with some fields changed."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return SonaConfig(**{**fields, **overrides})

    @classmethod
    def max_throughput(cls, **overrides: Any) -> SonaConfig:
        """Preset for real-time traffic: small adapters, few and late background cycles."""
        return _MAX_THROUGHPUT.replace(**overrides)

    @classmethod
    def max_quality(cls, **overrides: Any) -> SonaConfig:
        """Preset for the best decisions: larger adapters, more patterns, frequent cycles."""
        return _MAX_QUALITY.replace(**overrides)

    @classmethod
    def edge_deployment(cls, **overrides: Any) -> SonaConfig:
        """Preset for little memory: rank 1, few patterns, a short memory."""
        return _EDGE_DEPLOYMENT.replace(**overrides)

    @classmethod
    def batch_processing(cls, **overrides: Any) -> SonaConfig:
        """Preset for offline replays: everything is remembered, cycles are far apart."""
        return _BATCH_PROCESSING.replace(**overrides)

    @classmethod
    def for_ephemeral(cls, **overrides: Any) -> SonaConfig:
        """Preset for a short-lived agent: a small buffer and a quick background loop."""
        return _FOR_EPHEMERAL.replace(**overrides)

    @classmethod
    def for_coordinator(cls, **overrides: Any) -> SonaConfig:
        """Preset for the long-lived side of a fleet: many patterns, a large memory."""
        return _FOR_COORDINATOR.replace(**overrides)


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"`{name}` must be an integer in [{low}, {high}]; got {value!r}")


def _check_float(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"`{name}` must be a number in [{low:g}, {high:g}]; got {value!r}")


_DEFAULT = SonaConfig()
_MAX_THROUGHPUT = _DEFAULT.replace(
    base_lora_rank=4, trajectory_capacity=5_000, background_interval_ms=7_200_000
)
_MAX_QUALITY = _DEFAULT.replace(
    base_lora_rank=16,
    pattern_clusters=200,
    trajectory_capacity=20_000,
    background_interval_ms=1_800_000,
    quality_threshold=0.2,
)
_EDGE_DEPLOYMENT = _DEFAULT.replace(
    micro_lora_rank=1,
    base_lora_rank=4,
    pattern_clusters=50,
    trajectory_capacity=200,
    quality_threshold=0.5,
)
_BATCH_PROCESSING = _DEFAULT.replace(trajectory_capacity=100_000)
_FOR_EPHEMERAL = _DEFAULT.replace(
    base_lora_rank=4,
    pattern_clusters=50,
    trajectory_capacity=500,
    background_interval_ms=60_000,
)
_FOR_COORDINATOR = _DEFAULT.replace(
    base_lora_rank=16,
    pattern_clusters=200,
    trajectory_capacity=50_000,
    background_interval_ms=300_000,
    quality_threshold=0.4,
)
