"""What a coordinator has learned: an engine, which sessions it knows, and who backs a pattern.

:func:`learn` is a function of the set of sessions: it replays all outcomes in order of time, of
one time in canonical order, so the order of arrival does not matter. Between two of its runs
:meth:`Knowledge.take` lets the engine learn what arrives.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from sona import wire
from sona.config import SonaConfig
from sona.engine import SonaEngine
from sona.federated.evidence import Evidence, Places, Sample
from sona.federated.export import AgentExport
from sona.federated.merge import Session
from sona.federated.records import Standing
from sona.federated.reputation import Verdict, judge
from sona.federated.trust import MAX_ROUTES
from sona.learning.sketch import Sketch
from sona.types import FloatArray, LearnResult, Trajectory

__all__ = ["Knowledge", "Reading", "learn"]

_KIND = "sona.knowledge"
_VERSION = 1


class Reading(NamedTuple):
    """An export and which of its rows may be learned from.

    Attributes
    ----------
    export : AgentExport
    rows : ndarray of int64
        In order of time; of a compact export the single row 0, its sketch.
    times : ndarray of int64
        When they happened, milliseconds since the epoch.
    sketch : Sketch, optional
        What a compact export teaches.
    """

    export: AgentExport
    rows: NDArray[np.int64]
    times: NDArray[np.int64]
    sketch: Sketch | None = None

    @classmethod
    def of(cls, export: AgentExport, valid: NDArray[np.bool_]) -> Reading:
        """Take the well-formed rows."""
        if export.sketch is not None:
            times = np.array([export.timestamp])
            return cls(export, np.zeros(1, np.int64), times, export.sketch)
        rows = np.flatnonzero(valid)
        times = export.trajectories.timestamps[rows]
        order = np.argsort(times, kind="stable")
        return cls(export, rows[order], times[order])


class _Known(NamedTuple):
    rows: int
    prefix: str


class _Facts(msgspec.Struct):
    sequence: int
    known: list[tuple[str, int, int, str]]
    backing: dict[str, dict[str, int]]
    standings: dict[str, Standing]
    routes: dict[str, list[str]] = {}


class Knowledge:
    """An engine, the sessions that it has learned from, and which agents back its patterns.

    Attributes
    ----------
    engine : SonaEngine
    sequence : int
        Last change of the store that it knows.
    standings : dict of str to Standing
        How the last consolidation judged the agents.

    Notes
    -----
    One thread lets it take exports; meanwhile others may decide with it and ask who backs what.
    """

    def __init__(self, config: SonaConfig) -> None:
        self.engine = SonaEngine(config)
        self.sequence = 0
        self.standings: dict[str, Standing] = {}
        self._known: dict[Session, _Known] = {}
        self._routes: dict[str, set[str]] = {}
        self._backing: dict[int, dict[str, int]] = {}
        self._lock = threading.Lock()  # of the line above

    def backing(self, pattern: int) -> dict[str, int]:
        """Agents that back a pattern, and with how many accepted outcomes."""
        with self._lock:
            return dict(self._backing.get(pattern, {}))

    def backed(self, min_agents: int) -> frozenset[int]:
        """Patterns that at least `min_agents` agents back."""
        with self._lock:
            return frozenset(p for p, agents in self._backing.items() if len(agents) >= min_agents)

    def take(self, export: AgentExport, valid: NDArray[np.bool_]) -> bool:
        """Learn from an export that has just arrived.

        Returns
        -------
        bool
            False where it has to wait for the next consolidation: because its agent was dropped
            or names more routes than one agent may, or because it rewrites what an earlier export
            of its session said, which cannot be taken back singly. One that only adds rows
            teaches those rows.
        """
        standing = self.standings.get(export.agent_id)
        if standing is not None and standing.dropped:
            return False
        if len(self._routes.get(export.agent_id, set()) | _named(export)) > MAX_ROUTES:
            return False
        known = self._known.get(export.session)
        fresh = valid.copy()
        if known is not None:
            if export.sketch is not None or export.rows < known.rows:
                return known.prefix == export.export_id
            if export.trajectories.digest(known.rows) != known.prefix:
                return False
            fresh[: known.rows] = False
        self.note(export)
        self.replay([Reading.of(export, fresh)])
        self.count_backing(export, fresh)
        return True

    def note(self, export: AgentExport) -> None:
        """Remember that a session was learned, up to which row."""
        whole = export.export_id if export.sketch is not None else None
        prefix = whole or export.trajectories.digest(export.rows)
        self._known[export.session] = _Known(export.rows, prefix)
        self._routes.setdefault(export.agent_id, set()).update(_named(export))

    def replay(self, chunks: Iterable[Reading]) -> None:
        """Let the engine learn rows, in the order given."""
        for export, rows, times, sketch in chunks:
            if sketch is not None:
                self.engine.submit_sketch(sketch)
                continue
            table = export.trajectories
            for row, timestamp in zip(rows.tolist(), times.tolist(), strict=True):
                self.engine.submit_trajectory(
                    Trajectory(
                        table.embeddings[row],
                        float(table.quality[row]),
                        table.routes[row],
                        table.contexts[row],
                        (),
                        timestamp,
                    )
                )

    def count_backing(self, export: AgentExport, rows: NDArray[np.bool_]) -> None:
        """Count which patterns the accepted rows of an export fall in."""
        places, times = _places(export, rows, self.engine.config.quality_threshold)
        if not len(places):
            return
        ids = self.engine.pattern_ids(places)
        counts = {int(p): int(times[ids == p].sum()) for p in np.unique(ids)}
        with self._lock:
            for pattern, count in counts.items():
                agents = self._backing.setdefault(pattern, {})
                agents[export.agent_id] = agents.get(export.agent_id, 0) + count

    def to_bytes(self) -> tuple[bytes, bytes]:
        """Return the facts and the engine, each as one message."""
        facts = _Facts(
            self.sequence,
            [(*session, *known) for session, known in sorted(self._known.items())],
            {str(pattern): agents for pattern, agents in self._backing.items()},
            self.standings,
            {agent: sorted(named) for agent, named in sorted(self._routes.items())},
        )
        return wire.pack(_KIND, _VERSION, facts, {}), self.engine.to_bytes()

    @classmethod
    def from_bytes(cls, facts: bytes, engine: bytes) -> Knowledge:
        """Read what :meth:`to_bytes` wrote.

        Raises
        ------
        FormatError
            If either is damaged.
        """
        header, _ = wire.unpack(facts, _KIND, _VERSION, _Facts)
        made = SonaEngine.from_bytes(engine)
        knowledge = cls(made.config)
        knowledge.engine = made
        knowledge.sequence = header.sequence
        knowledge.standings = header.standings
        knowledge._known = {
            (agent, start): _Known(rows, prefix) for agent, start, rows, prefix in header.known
        }
        knowledge._routes = {agent: set(named) for agent, named in header.routes.items()}
        knowledge._backing = {int(pattern): agents for pattern, agents in header.backing.items()}
        return knowledge


def learn(
    config: SonaConfig,
    starts: Mapping[Session, int],
    read: Callable[[Session], tuple[AgentExport, NDArray[np.bool_]] | None],
) -> tuple[Knowledge, LearnResult]:
    """Learn from all sessions afresh.

    Parameters
    ----------
    config : SonaConfig
    starts : mapping of session to int
        All sessions and the earliest time in each.
    read : callable
        Returns a session's export and its well-formed rows; None where it is gone.

    Notes
    -----
    Cost: linear in the outcomes, each export is read twice. Holds the exports of sessions that
    overlap in time, never all.
    """
    knowledge = Knowledge(config)
    sessions = sorted(starts)
    verdict = _verdict(config, sessions, read)
    knowledge.standings = verdict.standings

    def load(number: int) -> Reading | None:
        found = read(sessions[number])
        if found is None or verdict.dropped(found[0].agent_id):
            return None
        export, valid = found
        knowledge.note(export)
        if export.sketch is not None:
            return Reading.of(export, valid)._replace(sketch=verdict.thinned(export))
        return Reading.of(export, valid & verdict.kept(export))

    queue = sorted((starts[session], number) for number, session in enumerate(sessions))
    knowledge.replay(_in_time(queue, load))
    result = knowledge.engine.force_learn()
    for session in sessions:
        found = read(session)
        if found is not None and not verdict.dropped(session[0]):
            knowledge.count_backing(*found)
    return knowledge, result


def _verdict(
    config: SonaConfig,
    sessions: Sequence[Session],
    read: Callable[[Session], tuple[AgentExport, NDArray[np.bool_]] | None],
) -> Verdict:
    """Let the agents judge each other."""
    sample = Sample(config.embedding_dim_)
    for found in filter(None, map(read, sessions)):
        sample.add(found[0].agent_id, Places.of(*found))
    verbose, cells = sample.verbose, sample.cells(config.seed)
    evidence = None if cells is None else Evidence(cells)
    if evidence is not None:
        for found in filter(None, map(read, sessions)):
            if found[0].agent_id not in verbose:
                evidence.add(found[0].agent_id, Places.of(*found))
    return judge(evidence, verbose)


def _in_time(
    queue: list[tuple[int, int]], load: Callable[[int], Reading | None]
) -> Iterator[Reading]:
    """Merge readings by (time, number), opening each when its time has come."""
    waiting = deque(queue)
    heap: list[tuple[int, int, int, Reading]] = []
    while waiting or heap:
        while waiting and (not heap or waiting[0] <= heap[0][:2]):
            _, number = waiting.popleft()
            reading = load(number)
            if reading is not None and len(reading.rows):
                heappush(heap, (int(reading.times[0]), number, 0, reading))
        if not heap:
            continue
        _, number, at, reading = heappop(heap)
        end = len(reading.rows)
        rivals = [rival[:2] for rival in heap[:1]]
        if waiting:
            rivals.append(waiting[0])
        if rivals:
            time, rival = min(rivals)
            end = int(np.searchsorted(reading.times, time, "right" if number < rival else "left"))
        yield reading._replace(rows=reading.rows[at:end], times=reading.times[at:end])
        if end < len(reading.rows):
            heappush(heap, (int(reading.times[end]), number, end, reading))


def _named(export: AgentExport) -> set[str]:
    """Routes that an export speaks of."""
    routes = export.trajectories.routes if export.sketch is None else export.sketch.routes
    return {route for route in routes if route is not None}


def _places(
    export: AgentExport, rows: NDArray[np.bool_], threshold: float
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Where accepted outcomes are, and how many each place stands for."""
    if export.sketch is None:
        table = export.trajectories
        accepted = np.flatnonzero(rows & (table.quality >= threshold))
        return table.embeddings[accepted], np.ones(len(accepted), np.int64)
    centres = export.sketch.centres()
    found = [(cell, n) for cell, _, quality, n in export.sketch.outcomes() if quality >= threshold]
    cells = np.array([cell for cell, _ in found], np.int64)
    return centres[cells], np.array([n for _, n in found], np.int64)
