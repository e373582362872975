"""What leaves an agent: its trajectories, in one self-contained, checked message.

Two forms. The binary one is an envelope of :mod:`sona.wire` with one tensor per column, exact
and about as large as the raw float32 embeddings. The JSON one has the layout that the Rust crate
`ruvector-sona` reads and writes; it carries the same facts in some three times the bytes.

A *compact* export carries a :class:`~sona.learning.sketch.Sketch` instead of rows: what the
session amounts to, in at most 8 kB and without a single query. It has the binary form only.

An export says which *session* it comes from. An agent may export again and again: a later export
of a session holds everything the earlier ones held and supersedes them. Both forms derive the
session from what the JSON layout carries anyway, agent and start time, so that an export keeps
its identity whichever way it travelled.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from sona import wire
from sona.checks import check_text, check_time
from sona.errors import NonFiniteError, RangeError
from sona.federated.table import TrajectoryExport, TrajectoryTable
from sona.learning.sketch import Sketch
from sona.types import Record

__all__ = ["AgentExport", "AgentExportStats", "TrajectoryExport", "TrajectoryTable"]

_KIND = "sona.export"
_COMPACT_KIND = "sona.export.compact"
_VERSION = 1


class AgentExportStats(Record, frozen=True, eq=False):
    """What the agent says of itself; shown, never relied on.

    Attributes
    ----------
    total_trajectories : int
        Trajectories of the session.
    avg_quality : float
        Their mean quality.
    patterns_learned : int
        Patterns in the agent's bank.
    """

    total_trajectories: int = 0
    avg_quality: float = 0.0
    patterns_learned: int = 0


class _Header(msgspec.Struct):
    agent_id: str
    stats: AgentExportStats
    session_duration_ms: int
    timestamp: int
    texts: list[str]


class _JsonRow(msgspec.Struct):
    embedding: list[float]
    quality: float
    route: str | None
    context: list[str]
    timestamp: int


class _JsonExport(msgspec.Struct):
    agent_id: str
    trajectories: list[_JsonRow]
    stats: AgentExportStats
    session_duration_ms: int
    timestamp: int


class AgentExport:
    """Everything that one agent session learned from, ready to travel.

    Parameters
    ----------
    agent_id : str
        Who exports; 1 to 1024 characters.
    trajectories : TrajectoryTable or iterable of TrajectoryExport
        The session's requests, oldest first.
    stats : AgentExportStats, optional
        The agent's own figures; computed from the trajectories if not given.
    session_duration_ms : int, default 0
        Time from the start of the session to the export.
    timestamp : int, default 0
        Time of the export, milliseconds since the epoch.
    sketch : Sketch, optional
        What the trajectories amount to, instead of them.

    Raises
    ------
    ShapeError
        If the embeddings differ in length; the message names the row.
    RangeError
        If both trajectories and a sketch are given.

    Notes
    -----
    Immutable and safe to share between threads. Two exports are equal when their content is.

    Examples
    --------
    >>> from sona.federated import AgentExport, TrajectoryExport
    >>> export = AgentExport("agent-1", [TrajectoryExport([0.5, 1.0], 0.8, route="small")])
    >>> again = AgentExport.from_bytes(export.to_bytes())
    >>> again == export, again.export_id == export.export_id
    (True, True)
    >>> again.trajectories[0].route
    'small'
    """

    __slots__ = (
        "_data",
        "_export_id",
        "agent_id",
        "session_duration_ms",
        "sketch",
        "stats",
        "timestamp",
        "trajectories",
    )

    agent_id: str
    trajectories: TrajectoryTable
    stats: AgentExportStats
    session_duration_ms: int
    timestamp: int
    sketch: Sketch | None
    _data: bytes | None  # what it was read from, if that is what it is written as

    def __init__(
        self,
        agent_id: str,
        trajectories: TrajectoryTable | Iterable[TrajectoryExport] = (),
        stats: AgentExportStats | None = None,
        session_duration_ms: int = 0,
        timestamp: int = 0,
        sketch: Sketch | None = None,
    ) -> None:
        check_text("agent_id", agent_id)
        session_duration_ms = check_time("session_duration_ms", session_duration_ms)
        timestamp = check_time("timestamp", timestamp)
        if not isinstance(trajectories, TrajectoryTable):
            trajectories = TrajectoryTable.from_rows(trajectories)
        if sketch is not None and len(trajectories):
            raise RangeError(
                f"`trajectories` must be empty beside a sketch; got {len(trajectories)} rows"
            )
        if stats is None:
            mean = float(trajectories.quality.mean()) if len(trajectories) else 0.0
            stats = AgentExportStats(len(trajectories), mean)
        for name, value in (
            ("agent_id", agent_id),
            ("trajectories", trajectories),
            ("stats", stats),
            ("session_duration_ms", session_duration_ms),
            ("timestamp", timestamp),
            ("sketch", sketch),
            ("_data", None),
            ("_export_id", None),
        ):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"AgentExport is immutable; cannot set {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AgentExport):
            return NotImplemented
        return self.export_id == other.export_id

    def __hash__(self) -> int:
        return hash(self.export_id)

    def __repr__(self) -> str:
        return (
            f"AgentExport(agent_id={self.agent_id!r}, trajectories={self.rows},"
            f" export_id={self.export_id[:12]!r})"
        )

    @property
    def dim(self) -> int:
        """Dimension of the embeddings; 0 when there are none."""
        if self.sketch is not None:
            return self.sketch.dim
        return int(self.trajectories.embeddings.shape[1])

    @property
    def rows(self) -> int:
        """Outcomes that the export speaks of, singly or in a sketch."""
        return len(self.trajectories) if self.sketch is None else self.sketch.rows

    @property
    def session(self) -> tuple[str, int]:
        """Agent and start of its session (milliseconds): what superseding goes by."""
        return (self.agent_id, self.timestamp - self.session_duration_ms)

    @property
    def order(self) -> tuple[int, int, str]:
        """Of two exports of one session, the one with the larger order supersedes."""
        return (self.timestamp, self.rows, self.export_id)

    @property
    def export_id(self) -> str:
        """Name derived from the content: equal content, equal name; computed once."""
        known: str | None = self._export_id  # type: ignore[attr-defined]
        if known is None:
            known = wire.digest(*self._message(np.float32)[1:])
            object.__setattr__(self, "_export_id", known)
        return known

    def to_bytes(self, *, embedding_dtype: Literal["float32", "float16"] = "float32") -> bytes:
        """Write the binary form.

        Parameters
        ----------
        embedding_dtype : {"float32", "float16"}, default "float32"
            float16 halves the message and rounds each component to 11 significant bits; the
            rounded export is another content and so has another ``export_id``.

        Returns
        -------
        bytes
            The message; with float32 it round-trips exactly. Of an export that was read from
            bytes these are the same bytes, and nothing is written anew.

        Raises
        ------
        RangeError
            If a component does not fit float16.
        """
        if embedding_dtype not in ("float32", "float16"):
            raise RangeError(
                f"`embedding_dtype` must be 'float32' or 'float16'; got {embedding_dtype!r}"
            )
        if self._data is not None and embedding_dtype == "float32":
            return self._data
        kind, header, tensors = self._message(np.dtype(embedding_dtype))
        return wire.pack(kind, _VERSION, header, tensors)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> AgentExport:
        """Read the binary form.

        Raises
        ------
        FormatError
            If the bytes are not an export (:class:`~sona.errors.IntegrityError` if they were
            damaged). Values are not judged here; a coordinator does that.
        """
        data = bytes(data)
        compact = wire.kind_of(data) == _COMPACT_KIND
        kind = _COMPACT_KIND if compact else _KIND
        header, tensors = wire.unpack(data, kind, _VERSION, _Header)
        export = cls(
            header.agent_id,
            () if compact else TrajectoryTable.from_columns(header.texts, tensors),
            header.stats,
            header.session_duration_ms,
            header.timestamp,
            Sketch.from_arrays(header.texts, tensors) if compact else None,
        )
        if export.trajectories.as_written and not compact:
            object.__setattr__(export, "_data", data)
        return export

    def to_json(self) -> str:
        """Write the Rust crate's JSON layout, floats in their shortest exact form.

        Raises
        ------
        NonFiniteError
            If an embedding or a quality is NaN or infinite: JSON cannot say so.
        RangeError
            If the export is compact: it has no rows to write.
        """
        if self.sketch is not None:
            raise RangeError("a compact export has no rows to write as JSON; use to_bytes()")
        table = self.trajectories
        if not (np.isfinite(table.embeddings).all() and np.isfinite(table.quality).all()):
            raise NonFiniteError("`trajectories` must be finite to be written as JSON")
        # NumPy prints the shortest text that reads back as the same float32, as serde does.
        embeddings = table.embeddings.astype("U32").tolist()
        rows = [
            msgspec.json.encode(
                {
                    "embedding": msgspec.Raw(f"[{','.join(vector)}]".encode()),
                    "quality": quality,
                    "route": route,
                    "context": context,
                    "timestamp": timestamp,
                }
            )
            for vector, quality, route, context, timestamp in zip(
                embeddings,
                table.quality.tolist(),
                table.routes,
                table.contexts,
                table.timestamps.tolist(),
                strict=True,
            )
        ]
        return msgspec.json.encode(
            {
                "agent_id": self.agent_id,
                "trajectories": msgspec.Raw(b"[" + b",".join(rows) + b"]"),
                "stats": self.stats,
                "session_duration_ms": self.session_duration_ms,
                "timestamp": self.timestamp,
            }
        ).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> AgentExport:
        """Read the Rust crate's JSON layout; unknown fields are ignored, as serde does.

        Raises
        ------
        FormatError
            If a field is missing or of the wrong type; the message names its place, as in
            ``$.trajectories[3].quality``.
        """
        read = wire.decode_json(text, _JsonExport)
        rows = (
            TrajectoryExport(row.embedding, row.quality, row.route, row.context, row.timestamp)
            for row in read.trajectories
        )
        return cls(read.agent_id, rows, read.stats, read.session_duration_ms, read.timestamp)

    def _message(self, dtype: Any) -> tuple[str, _Header, dict[str, NDArray[Any]]]:
        if self.sketch is None:
            kind, (texts, tensors) = _KIND, self.trajectories.columns(dtype)
        else:
            kind, (texts, tensors) = _COMPACT_KIND, self.sketch.columns()
        header = _Header(self.agent_id, self.stats, self.session_duration_ms, self.timestamp, texts)
        return kind, header, tensors
