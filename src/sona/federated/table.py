"""Trajectories as they travel: one row each, kept by column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from sona import wire
from sona.checks import check_text, check_time
from sona.errors import DTypeError, FormatError, RangeError, ShapeError
from sona.types import ArrayLike, FloatArray, Record

__all__ = ["TrajectoryExport", "TrajectoryTable"]


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

    __slots__ = ("_columns", "contexts", "embeddings", "quality", "routes", "timestamps")

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
        self._columns: tuple[list[str], dict[str, NDArray[Any]]] | None = None

    @classmethod
    def from_rows(cls, rows: Iterable[TrajectoryExport]) -> TrajectoryTable:
        """Collect rows; every embedding must have the length of the first."""
        rows = list(rows)
        vectors = [_vector(index, row.embedding) for index, row in enumerate(rows)]
        dim = vectors[0].size if vectors else 0
        for index, vector in enumerate(vectors):
            if vector.ndim != 1 or vector.size != dim:
                raise ShapeError(
                    f"`trajectories[{index}].embedding` must have shape ({dim},), as the first"
                    f" row; got {vector.shape}"
                )
        for index, row in enumerate(rows):
            check_time(f"trajectories[{index}].timestamp", row.timestamp)
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

    def columns(self, dtype: Any = np.float32) -> tuple[list[str], dict[str, NDArray[Any]]]:
        """Return texts and tensors for a message; :meth:`from_columns` reads them.

        Raises
        ------
        RangeError
            If an embedding does not fit `dtype`.
        """
        if self._columns is not None and dtype == np.float32:
            return self._columns
        # Texts are written once each, in order of first appearance: same rows, same bytes.
        index: dict[str, int] = {}
        routes = [
            -1 if route is None else index.setdefault(route, len(index)) for route in self.routes
        ]
        tags = [index.setdefault(tag, len(index)) for context in self.contexts for tag in context]
        ends = np.cumsum([len(context) for context in self.contexts], dtype=np.int64)
        with np.errstate(over="ignore"):
            embeddings = self.embeddings.astype(dtype, copy=False)
        if dtype != np.float32 and np.isinf(embeddings).any():
            raise RangeError("`trajectories` must fit float16 (at most 65504); use float32")
        columns = (
            list(index),
            {
                "embeddings": embeddings,
                "quality": self.quality,
                "timestamps": self.timestamps,
                "routes": np.array(routes, np.int32),
                "context_ends": ends,
                "context_tags": np.array(tags, np.int32),
            },
        )
        if dtype == np.float32:  # an export asks for its name and for its bytes
            self._columns = columns
        return columns

    def digest(self, rows: int) -> str:
        """Name derived from the first `rows` rows: a table that adds to another shares it."""
        first = TrajectoryTable(
            self.embeddings[:rows],
            self.quality[:rows],
            self.timestamps[:rows],
            self.routes[:rows],
            self.contexts[:rows],
        )
        return wire.digest(*first.columns())

    @classmethod
    def from_columns(cls, texts: list[str], tensors: dict[str, NDArray[Any]]) -> TrajectoryTable:
        """Read what :meth:`columns` returned.

        Raises
        ------
        FormatError
            If a tensor is missing or does not fit the others.
        """
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
                raise FormatError(f"`data`: {name!r} must have {ndim} dimension(s); got {got}")
        rows = len(tensors["quality"])
        for name in ("embeddings", "timestamps", "routes", "context_ends"):
            got_rows = len(tensors[name])
            if got_rows != rows:
                raise FormatError(f"`data`: {name!r} must have {rows} rows; got {got_rows}")
        routes, tags, ends = tensors["routes"], tensors["context_tags"], tensors["context_ends"]
        for name, array, low in (("routes", routes, -1), ("context_tags", tags, 0)):
            if array.size and (array.min() < low or array.max() >= len(texts)):
                raise FormatError(f"`data`: {name!r} must index the header's {len(texts)} texts")
        last = int(ends[-1]) if rows else 0
        rising = (ends[0] >= 0 and (ends[1:] >= ends[:-1]).all()) if rows else True
        if last != len(tags) or not rising:
            raise FormatError("`data`: 'context_ends' must rise to the number of tags")
        for text in texts:
            check_text("texts", text, FormatError)
        names: list[str | None] = [*texts, None]  # -1 is the last one
        table = cls(
            tensors["embeddings"].astype(np.float32, copy=False),
            tensors["quality"].astype(np.float64, copy=False),
            tensors["timestamps"].astype(np.int64, copy=False),
            [names[route] for route in routes.tolist()],
            _contexts([texts[tag] for tag in tags.tolist()], ends.tolist()),
        )
        if _canonical(texts, tensors):
            table._columns = (texts, tensors)
        return table

    @property
    def as_written(self) -> bool:
        """Whether it was read from the very columns that it is written as."""
        return self._columns is not None


def _contexts(words: list[str], ends: list[int]) -> list[tuple[str, ...]]:
    """Cut the tags of all rows into those of each."""
    if not words:
        return [()] * len(ends)
    return [tuple(words[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _canonical(texts: list[str], tensors: dict[str, NDArray[Any]]) -> bool:
    """Whether these are the columns that :meth:`TrajectoryTable.columns` writes."""
    dtypes = {
        "embeddings": np.float32,
        "quality": np.float64,
        "timestamps": np.int64,
        "routes": np.int32,
        "context_ends": np.int64,
        "context_tags": np.int32,
    }
    if {name: array.dtype for name, array in tensors.items()} != dtypes:
        return False
    seen = 0
    for index in [*tensors["routes"].tolist(), *tensors["context_tags"].tolist()]:
        if index > seen:
            return False
        seen += index == seen
    return seen == len(texts) == len(set(texts))


def _vector(index: int, embedding: ArrayLike) -> FloatArray:
    """Return an embedding as float32; its values are the coordinator's to judge."""
    try:
        vector = np.asarray(embedding)
    except ValueError as error:  # a ragged list
        raise ShapeError(f"`trajectories[{index}].embedding` must be a vector: {error}") from None
    converted = isinstance(embedding, list | tuple) and vector.dtype.kind in "iu"
    if vector.dtype.kind != "f" and not converted:
        raise DTypeError(
            f"`trajectories[{index}].embedding` must be float32 or convertible to it;"
            f" got {vector.dtype}"
        )
    return np.asarray(vector, np.float32)
