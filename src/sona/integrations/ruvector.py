"""What users of the Rust crate `ruvector-sona` and of its npm package bring with them.

Agent exports are read by :meth:`sona.federated.AgentExport.from_json`. Here are the crate's
patterns, in the three layouts it writes, and its micro-LoRA. Its base-LoRA is not read: it is
zero whatever was trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike, fspath
from typing import TypeAlias

import msgspec
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from sona import _core, state, wire
from sona.checks import check_count, check_quality
from sona.errors import FormatError, ShapeError
from sona.learning import MicroLoRA
from sona.types import LearnedPattern, Trajectory

__all__ = ["as_trajectories", "read_micro_lora", "read_patterns"]

_MICRO_A = "base_model.model.layers.0.self_attn.micro_lora_A.weight"
_MICRO_B = "base_model.model.layers.0.self_attn.micro_lora_B.weight"


class _Pattern(msgspec.Struct):
    """A pattern in the crate's own words: `LoopCoordinator::serialize_state`."""

    id: int
    centroid: list[float]
    cluster_size: int
    total_weight: float
    avg_quality: float
    created_at: int = 0
    last_accessed: int = 0
    access_count: int = 0


class _State(msgspec.Struct):
    version: int
    patterns: list[_Pattern]


class _NodePattern(msgspec.Struct, rename="camel"):
    """The same through npm: `JSON.stringify(engine.findPatterns(...))`, whole numbers as texts."""

    id: str
    centroid: list[float]
    cluster_size: int
    total_weight: float
    avg_quality: float
    created_at: str = "0"
    last_accessed: str = "0"
    access_count: int = 0


class _DatasetPattern(msgspec.Struct):
    """A line of `HuggingFaceExporter::export_patterns_jsonl`."""

    id: str
    embedding: list[float]
    cluster_size: int
    avg_quality: float
    access_count: int = 0


_AnyPattern: TypeAlias = _Pattern | _NodePattern | _DatasetPattern


def read_patterns(path: str | PathLike[str]) -> list[LearnedPattern]:
    """Read patterns that the crate or the npm package wrote.

    Parameters
    ----------
    path : path_like
        ``serialize_state`` JSON, ``export_patterns_jsonl`` lines, or the JSON of what the npm
        package's ``findPatterns`` returned; told apart by what is in the file.

    Returns
    -------
    list of LearnedPattern
        Centroids at unit length, without routes: the crate does not keep the outcomes of routes
        with its patterns.

    Raises
    ------
    FormatError
        If the file has none of the three layouts; the message names the place.
    ShapeError, NonFiniteError, RangeError
        If centroids differ in length or a value has no meaning.
    OSError
        If the file cannot be read.
    """
    patterns: list[LearnedPattern] = []
    dim: int | None = None
    for read in _read(state.read(path)):
        pattern = _pattern(read, dim)
        dim = len(pattern.centroid)
        patterns.append(pattern)
    return patterns


def as_trajectories(patterns: Iterable[LearnedPattern]) -> Iterator[Trajectory]:
    """Say patterns again as the trajectories that stand behind them.

    Parameters
    ----------
    patterns : iterable of LearnedPattern

    Yields
    ------
    Trajectory
        As many per pattern as its ``cluster_size`` says, each at the centroid and of the mean
        quality, for :meth:`SonaEngine.submit_trajectory` or
        :meth:`~sona.training.TrainingPipeline.train`.
    """
    for pattern in patterns:
        member = Trajectory(
            pattern.centroid, pattern.avg_quality, timestamp=1000 * pattern.created_at
        )
        for _ in range(pattern.cluster_size):
            yield member


def read_micro_lora(path: str | PathLike[str]) -> MicroLoRA:
    """Read the micro-LoRA of an ``adapter_model.safetensors`` that the crate wrote.

    Parameters
    ----------
    path : path_like
        The file of ``HuggingFaceExporter::export_lora_safetensors``.

    Returns
    -------
    MicroLoRA
        It adapts as the crate does. The crate writes its up-projection row by row of the rank
        under the shape (dim, rank); here it is read by what the numbers mean.

    Raises
    ------
    FormatError
        If the file holds no micro-LoRA.
    ShapeError
        If its two factors do not fit.
    """
    try:
        tensors = safetensors.numpy.load(state.read(path))
        a, b = (np.asarray(tensors[name], np.float32) for name in (_MICRO_A, _MICRO_B))
    except (SafetensorError, KeyError) as error:
        raise FormatError(f"`path`: {fspath(path)!r} holds no micro-LoRA: {error}") from None
    if a.ndim != 2 or b.shape != a.shape[::-1]:
        raise ShapeError(
            f"`path`: the factors must have shapes (rank, dim) and (dim, rank); got {a.shape}"
            f" and {b.shape}"
        )
    rank, dim = a.shape
    lora = MicroLoRA(dim, rank)
    lora.lora_A = a
    lora.lora_B = b.reshape(rank, dim).T
    lora.scaling = 1.0 / np.sqrt(rank)
    return lora


def _read(data: bytes) -> list[_AnyPattern]:
    if data.lstrip()[:1] == b"[":
        return [*wire.decode_json(data, list[_NodePattern])]
    lines = [line for line in data.splitlines() if line.strip()]
    if lines and b'"embedding"' in lines[0]:
        return [wire.decode_json(line, _DatasetPattern) for line in lines]
    return [*wire.decode_json(data, _State).patterns]


def _pattern(read: _AnyPattern, dim: int | None) -> LearnedPattern:
    if isinstance(read, _DatasetPattern):
        vector, weight, created, accessed = read.embedding, float(read.cluster_size), 0, 0
    else:
        vector, weight = read.centroid, read.total_weight
        created, accessed = _whole(read.created_at), _whole(read.last_accessed)
    centroid = _core.as_vector(vector, dim, "centroid").astype(np.float64)
    norm = float(np.linalg.norm(centroid))
    return LearnedPattern(
        _whole(read.id),
        np.asarray(centroid / norm if norm > 0.0 else centroid, np.float32),
        check_count("cluster_size", read.cluster_size),
        weight,
        check_quality("avg_quality", read.avg_quality),
        {},
        created,
        accessed,
        read.access_count,
    )


def _whole(number: int | str) -> int:
    try:
        return int(number)
    except ValueError:
        raise FormatError(f"a whole number is expected; got {number!r}") from None
