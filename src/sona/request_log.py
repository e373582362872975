"""Logs of requests as people keep them: JSON lines or Parquet, one request per row.

A row has ``embedding`` (or ``vector``), ``route`` and ``quality``, and where they are known
``agent``, ``timestamp`` (milliseconds since the epoch, or a Parquet timestamp) and ``context`` (a
list of texts). Other fields are ignored. What is wrong with a row is reported with its number;
the others are read all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike, fspath
from typing import Any, NamedTuple

import msgspec

from sona import _core
from sona.checks import check_quality, check_text
from sona.errors import FormatError, MissingExtraError, SonaError
from sona.types import Trajectory

__all__ = ["Fault", "Log", "LoggedRequest", "read_log"]


class LoggedRequest(NamedTuple):
    """One row: what happened, and the agent it happened to."""

    trajectory: Trajectory
    agent: str


class Fault(NamedTuple):
    """A row that could not be used: its number, counted from 1, and what is wrong with it."""

    number: int
    why: str


class Log(NamedTuple):
    """A log that was read.

    Attributes
    ----------
    requests : list of LoggedRequest
        In order of timestamp; requests of one time keep the order of the rows.
    faults : list of Fault
        Rows that were left out.
    """

    requests: list[LoggedRequest]
    faults: list[Fault]

    @property
    def trajectories(self) -> list[Trajectory]:
        """The requests without their agents."""
        return [request.trajectory for request in self.requests]


class _Row(msgspec.Struct):
    route: str
    quality: float
    embedding: list[float] | None = None
    vector: list[float] | None = None
    agent: str = "agent"
    timestamp: int = 0
    context: list[str] = []


def read_log(path: str | PathLike[str]) -> Log:
    """Read a log.

    Parameters
    ----------
    path : path_like
        A name that ends in ``.parquet`` is read as Parquet (extra ``parquet``), every other one
        as JSON lines; empty lines do not count as rows.

    Returns
    -------
    Log
        Every embedding has the length of the first good one.

    Raises
    ------
    FormatError
        If a Parquet file is none. Faults within rows are returned, not raised.
    MissingExtraError
        If a Parquet file is asked for and pyarrow is not installed.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> from pathlib import Path
    >>> from sona.request_log import read_log
    >>> log = Path("log.jsonl")
    >>> _ = log.write_text('''{"embedding": [1, 0], "route": "small", "quality": 0.9}
    ... {"embedding": [0, 1], "route": "small", "quality": 7}
    ... ''')
    >>> read = read_log(log)
    >>> read.trajectories[0].route
    'small'
    >>> read.faults
    [Fault(number=2, why='`quality` must be in [0, 1]; got 7.0')]
    """
    rows = _parquet_rows if fspath(path).endswith(".parquet") else _json_rows
    requests: list[LoggedRequest] = []
    faults: list[Fault] = []
    dim: int | None = None
    for number, row in rows(path):
        try:
            request = _request(row, dim)
        except (msgspec.DecodeError, UnicodeError, SonaError) as error:
            faults.append(Fault(number, str(error)))
            continue
        dim = len(request.trajectory.embedding)
        requests.append(request)
    requests.sort(key=lambda request: request.trajectory.timestamp)
    return Log(requests, faults)


def _request(raw: bytes | dict[str, Any], dim: int | None) -> LoggedRequest:
    row = _DECODER.decode(raw) if isinstance(raw, bytes) else msgspec.convert(raw, _Row)
    vector = row.vector if row.embedding is None else row.embedding
    if vector is None:
        raise FormatError("`embedding` or `vector` is missing")
    embedding = _core.as_vector(vector, dim, "embedding")
    route = check_text("route", row.route)
    quality = check_quality("quality", row.quality)
    context = tuple(check_text("context", tag) for tag in row.context)
    agent = check_text("agent", row.agent)
    return LoggedRequest(Trajectory(embedding, quality, route, context, (), row.timestamp), agent)


def _json_rows(path: str | PathLike[str]) -> Iterator[tuple[int, bytes]]:
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line


def _parquet_rows(path: str | PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError(
            "a Parquet log needs pyarrow; install it with: pip install 'sona[parquet]'"
        ) from None
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            known = [name for name in _Row.__struct_fields__ if name in file.schema_arrow.names]
            for batch in file.iter_batches(columns=known):
                table = pa.table(batch)
                index = table.schema.get_field_index("timestamp")
                if index >= 0 and pa.types.is_timestamp(table.schema.types[index]):
                    ms = table[index].cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
                    table = table.set_column(index, "timestamp", ms)
                for row in table.to_pylist():
                    number += 1
                    # A null stands for a field that is not there.
                    yield number, {name: value for name, value in row.items() if value is not None}
    except pa.ArrowInvalid as error:
        raise FormatError(f"`path`: {fspath(path)!r} is not a Parquet log: {error}") from None


_DECODER = msgspec.json.Decoder(_Row)
