"""What leaves an agent: its trajectories, in one self-contained, checked message.

Two forms. The binary one is an envelope of :mod:`sona.wire` with one tensor per column, exact
and about as large as the raw float32 embeddings. The JSON one has the layout that the Rust crate
`ruvector-sona` reads and writes; it carries the same facts in some three times the bytes.

An export says which *session* it comes from. An agent may export again and again: a later export
of a session holds everything the earlier ones held and supersedes them. Both forms derive the
session from what the JSON layout carries anyway, agent and start time, so that an export keeps
its identity whichever way it travelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from sona import wire
from sona.checks import check_text
from sona.errors import FormatError, NonFiniteError, RangeError, ShapeError
from sona.types import ArrayLike, FloatArray, Record

__all__ = ["AgentExport", "AgentExportStats", "TrajectoryExport", "TrajectoryTable"]

_KIND = "sona.export"
_VERSION = 1


class TrajectoryExport(Record, frozen=True, eq=False):
    """One request as it leaves the agent.

    Attributes
    ----------
    embedding : array_like of shape (dim,)
        The query; read back as float32.
    quality : float
        Outcome in [0, 1].
    route : str or None
        The choice that was made.
    context : sequence of str
        Free tags; read back as a tuple.
    timestamp : int
        Milliseconds since the epoch.
    """

    embedding: ArrayLike
    quality: float
    route: str | None = None
    context: Sequence[str] = ()
    timestamp: int = 0


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


class TrajectoryTable(Sequence[TrajectoryExport]):
    """Trajectories by column; indexing makes a :class:`TrajectoryExport` of one row.

    Parameters
    ----------
    embeddings : ndarray of shape (n, dim), float32
    quality : ndarray of shape (n,), float64
    timestamps : ndarray of shape (n,), int64
        Milliseconds since the epoch.
    routes : sequence of n str or None
    contexts : sequence of n tuples of str

    Notes
    -----
    The table keeps the arrays it is given and makes them read-only. Rows may hold values that a
    coordinator will refuse; a table says only what was sent.
    """

    __slots__ = ("contexts", "embeddings", "quality", "routes", "timestamps")

    def __init__(
        self,
        embeddings: FloatArray,
        quality: NDArray[np.float64],
        timestamps: NDArray[np.int64],
        routes: Sequence[str | None],
        contexts: Sequence[tuple[str, ...]],
    ) -> None:
        for array in (embeddings, quality, timestamps):
            array.flags.writeable = False
        self.embeddings = embeddings
        self.quality = quality
        self.timestamps = timestamps
        self.routes = routes
        self.contexts = contexts

    @classmethod
    def from_rows(cls, rows: Iterable[TrajectoryExport]) -> TrajectoryTable:
        """Collect rows; every embedding must have the length of the first."""
        rows = list(rows)
        vectors = [np.asarray(row.embedding, np.float32) for row in rows]
        dim = vectors[0].size if vectors else 0
        for index, vector in enumerate(vectors):
            if vector.ndim != 1 or vector.size != dim:
                raise ShapeError(
                    f"`trajectories[{index}].embedding` must have shape ({dim},), as the first"
                    f" row; got {vector.shape}"
                )
        for index, row in enumerate(rows):
            if row.route is not None:
                check_text(f"trajectories[{index}].route", row.route)
            for tag in row.context:
                check_text(f"trajectories[{index}].context", tag)
        return cls(
            np.stack(vectors) if vectors else np.empty((0, 0), np.float32),
            np.array([row.quality for row in rows], np.float64),
            np.array([row.timestamp for row in rows], np.int64),
            [row.route for row in rows],
            [tuple(row.context) for row in rows],
        )

    def __len__(self) -> int:
        return len(self.quality)

    @overload
    def __getitem__(self, index: int) -> TrajectoryExport: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrajectoryExport]: ...
    def __getitem__(self, index: int | slice) -> TrajectoryExport | list[TrajectoryExport]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return TrajectoryExport(
            self.embeddings[index],
            float(self.quality[index]),
            self.routes[index],
            self.contexts[index],
            int(self.timestamps[index]),
        )

    def __iter__(self) -> Iterator[TrajectoryExport]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TrajectoryTable):
            return NotImplemented
        return (
            list(self.routes) == list(other.routes)
            and list(self.contexts) == list(other.contexts)
            and all(
                mine.shape == theirs.shape and mine.tobytes() == theirs.tobytes()
                for mine, theirs in (
                    (self.embeddings, other.embeddings),
                    (self.quality, other.quality),
                    (self.timestamps, other.timestamps),
                )
            )
        )

    __hash__ = None  # type: ignore[assignment]


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

    Raises
    ------
    ShapeError
        If the embeddings differ in length; the message names the row.

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
        "_export_id",
        "agent_id",
        "session_duration_ms",
        "stats",
        "timestamp",
        "trajectories",
    )

    agent_id: str
    trajectories: TrajectoryTable
    stats: AgentExportStats
    session_duration_ms: int
    timestamp: int

    def __init__(
        self,
        agent_id: str,
        trajectories: TrajectoryTable | Iterable[TrajectoryExport],
        stats: AgentExportStats | None = None,
        session_duration_ms: int = 0,
        timestamp: int = 0,
    ) -> None:
        check_text("agent_id", agent_id)
        if not isinstance(trajectories, TrajectoryTable):
            trajectories = TrajectoryTable.from_rows(trajectories)
        if stats is None:
            mean = float(trajectories.quality.mean()) if len(trajectories) else 0.0
            stats = AgentExportStats(len(trajectories), mean)
        for name, value in (
            ("agent_id", agent_id),
            ("trajectories", trajectories),
            ("stats", stats),
            ("session_duration_ms", session_duration_ms),
            ("timestamp", timestamp),
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
            f"AgentExport(agent_id={self.agent_id!r}, trajectories={len(self.trajectories)},"
            f" export_id={self.export_id[:12]!r})"
        )

    @property
    def dim(self) -> int:
        """Dimension of the embeddings; 0 when there are none."""
        return int(self.trajectories.embeddings.shape[1])

    @property
    def session(self) -> tuple[str, int]:
        """Agent and start of its session (milliseconds): what superseding goes by."""
        return (self.agent_id, self.timestamp - self.session_duration_ms)

    @property
    def order(self) -> tuple[int, int, str]:
        """Of two exports of one session, the one with the larger order supersedes."""
        return (self.timestamp, len(self.trajectories), self.export_id)

    @property
    def export_id(self) -> str:
        """Name derived from the content: equal content, equal name; computed once."""
        known: str | None = self._export_id  # type: ignore[attr-defined]
        if known is None:
            known = wire.digest(*self._columns(np.float32))
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
            The message; with float32 it round-trips exactly.

        Raises
        ------
        RangeError
            If a component does not fit float16.
        """
        if embedding_dtype not in ("float32", "float16"):
            raise RangeError(
                f"`embedding_dtype` must be 'float32' or 'float16'; got {embedding_dtype!r}"
            )
        header, tensors = self._columns(np.dtype(embedding_dtype))
        return wire.pack(_KIND, _VERSION, header, tensors)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> AgentExport:
        """Read the binary form.

        Raises
        ------
        FormatError
            If the bytes are not an export (:class:`~sona.errors.IntegrityError` if they were
            damaged). Values are not judged here; a coordinator does that.
        """
        header, tensors = wire.unpack(data, _KIND, _VERSION, _Header)
        table = _read_table(header.texts, tensors)
        return cls(
            header.agent_id, table, header.stats, header.session_duration_ms, header.timestamp
        )

    def to_json(self) -> str:
        """Write the Rust crate's JSON layout, floats in their shortest exact form.

        Raises
        ------
        NonFiniteError
            If an embedding or a quality is NaN or infinite: JSON cannot say so.
        """
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

    def _columns(self, dtype: Any) -> tuple[_Header, dict[str, NDArray[Any]]]:
        table = self.trajectories
        # Texts are written once each, in order of first appearance: same rows, same bytes.
        index: dict[str, int] = {}
        routes = [
            -1 if route is None else index.setdefault(route, len(index)) for route in table.routes
        ]
        tags = [index.setdefault(tag, len(index)) for context in table.contexts for tag in context]
        ends = np.cumsum([len(context) for context in table.contexts], dtype=np.int64)
        with np.errstate(over="ignore"):
            embeddings = table.embeddings.astype(dtype, copy=False)
        if dtype != np.float32 and np.isinf(embeddings).any():
            raise RangeError("`trajectories` must fit float16 (at most 65504); use float32")
        header = _Header(
            self.agent_id, self.stats, self.session_duration_ms, self.timestamp, list(index)
        )
        return header, {
            "embeddings": embeddings,
            "quality": table.quality,
            "timestamps": table.timestamps,
            "routes": np.array(routes, np.int32),
            "context_ends": ends,
            "context_tags": np.array(tags, np.int32),
        }


def _read_table(texts: list[str], tensors: dict[str, NDArray[Any]]) -> TrajectoryTable:
    wanted = {
        "embeddings": (2, "f"),
        "quality": (1, "f"),
        "timestamps": (1, "i"),
        "routes": (1, "i"),
        "context_ends": (1, "i"),
        "context_tags": (1, "i"),
    }
    for name, (ndim, kind) in wanted.items():
        array = tensors.get(name)
        if array is None or array.ndim != ndim or array.dtype.kind != kind:
            got = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
            raise FormatError(f"`data`: tensor {name!r} must have {ndim} dimension(s); got {got}")
    rows = len(tensors["quality"])
    for name in ("embeddings", "timestamps", "routes", "context_ends"):
        if len(tensors[name]) != rows:
            raise FormatError(f"`data`: {name!r} must have {rows} rows; got {len(tensors[name])}")
    routes, tags, ends = tensors["routes"], tensors["context_tags"], tensors["context_ends"]
    for name, array, low in (("routes", routes, -1), ("context_tags", tags, 0)):
        if array.size and (array.min() < low or array.max() >= len(texts)):
            raise FormatError(f"`data`: {name!r} must index the {len(texts)} texts of the header")
    last = int(ends[-1]) if rows else 0
    if last != len(tags) or (rows and (ends[0] < 0 or (np.diff(ends) < 0).any())):
        raise FormatError("`data`: 'context_ends' must rise to the number of tags")
    for text in texts:
        check_text("texts", text, FormatError)
    starts = np.concatenate([[0], ends[:-1]]) if rows else ends
    words = [texts[tag] for tag in tags.tolist()]
    return TrajectoryTable(
        tensors["embeddings"].astype(np.float32, copy=False),
        tensors["quality"].astype(np.float64, copy=False),
        tensors["timestamps"].astype(np.int64, copy=False),
        [None if route < 0 else texts[route] for route in routes.tolist()],
        [
            tuple(words[start:end])
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ],
    )
