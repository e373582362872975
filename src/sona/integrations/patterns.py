"""Patterns as tables: Parquet for analysis, JSON lines for everything else."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike, fspath
from typing import Any

import msgspec

from sona.errors import FormatError, MissingExtraError
from sona.types import LearnedPattern

__all__ = ["write_patterns"]


def write_patterns(path: str | PathLike[str], patterns: Iterable[LearnedPattern]) -> int:
    """Write patterns, one row each.

    Parameters
    ----------
    path : path_like
        Ends in ``.parquet`` (extra ``parquet``) or in ``.jsonl``.
    patterns : iterable of LearnedPattern
        For example :attr:`SonaEngine.patterns`.

    Returns
    -------
    int
        Rows written. Columns are the fields of :class:`~sona.LearnedPattern` except
        ``similarity``, which belongs to a search; ``routes`` is a list of ``route``, ``count``,
        ``mean`` and ``variance``.

    Raises
    ------
    FormatError
        If the path has another ending.
    MissingExtraError
        If Parquet is asked for and pyarrow is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from sona import SonaConfig, SonaEngine, Trajectory
    >>> from sona.integrations.patterns import write_patterns
    >>> engine = SonaEngine(SonaConfig(hidden_dim=2))
    >>> engine.submit_trajectory(Trajectory(np.float32([1, 0]), 0.5, "small"))
    >>> write_patterns("patterns.parquet", engine.patterns)
    1
    """
    name = fspath(path)
    rows = [_row(pattern) for pattern in patterns]
    if name.endswith(".jsonl"):
        with open(path, "wb") as file:
            for row in rows:
                file.write(msgspec.json.encode(row) + b"\n")
    elif name.endswith(".parquet"):
        _write_parquet(path, rows)
    else:
        raise FormatError(f"`path` must end in .parquet or .jsonl; got {name!r}")
    return len(rows)


def _row(pattern: LearnedPattern) -> dict[str, Any]:
    return {
        "id": pattern.id,
        "centroid": pattern.centroid.tolist(),
        "cluster_size": pattern.cluster_size,
        "total_weight": pattern.total_weight,
        "avg_quality": pattern.avg_quality,
        "routes": [
            {"route": route, "count": s.count, "mean": s.mean, "variance": s.variance}
            for route, s in pattern.routes.items()
        ],
        "created_at": pattern.created_at,
        "last_accessed": pattern.last_accessed,
        "access_count": pattern.access_count,
    }


def _write_parquet(path: str | PathLike[str], rows: list[dict[str, Any]]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError(
            "Parquet needs pyarrow; install it with: pip install 'sona[parquet]'"
        ) from None
    number = pa.float64()
    route = {"route": pa.string(), "count": number, "mean": number, "variance": number}
    # The columns are said, not guessed, so that an empty bank has the same ones.
    schema = pa.schema(
        {
            "id": pa.int64(),
            "centroid": pa.list_(pa.float32()),
            "cluster_size": pa.int64(),
            "total_weight": number,
            "avg_quality": number,
            "routes": pa.list_(pa.struct(route)),
            "created_at": pa.int64(),
            "last_accessed": pa.int64(),
            "access_count": pa.int64(),
        }
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
