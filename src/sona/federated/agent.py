"""The short-lived side of a fleet: learns while it works, exports before it ends."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sona import _core
from sona.checks import check_quality, check_text
from sona.config import SonaConfig
from sona.engine import SonaEngine
from sona.errors import RangeError, ShapeError
from sona.federated.export import AgentExport, AgentExportStats
from sona.federated.privacy import Privacy
from sona.federated.table import TrajectoryTable
from sona.federated.warm_start import WarmStart
from sona.learning.sketch import sketch
from sona.learning.trajectory import pooled
from sona.types import (
    ArrayLike,
    FloatArray,
    LearnResult,
    RouteDecision,
    Step,
)

__all__ = ["EphemeralAgent"]

_COMPACT_BYTES = 8_000
_BLOCK = 256


class EphemeralAgent:
    """An agent that lives for a session and leaves its experience behind.

    Parameters
    ----------
    agent_id : str
        Name of the agent; two agents that live at the same time must not share one.
    config : SonaConfig, optional
        Settings of its engine; the ephemeral preset if not given.
    warm_start : WarmStart, optional
        What the fleet has learned, from :meth:`FederatedCoordinator.warm_start`.
    privacy : Privacy, optional
        How much its exports may tell; everything if not given.

    Raises
    ------
    ShapeError
        If the warm start or the cells of `privacy` were made for other dimensions.

    Notes
    -----
    Safe to use from several threads. Everything the agent processes is kept until it ends,
    because a later export of the session supersedes the earlier ones: 4 bytes per dimension and
    request.

    Examples
    --------
    >>> from sona.federated import EphemeralAgent
    >>> agent = EphemeralAgent.default_federated("agent-1", hidden_dim=4)
    >>> agent.process_trajectory([1, 0, 0, 0], [0, 1, 0, 0], quality=0.8, route="small-model")
    >>> agent.trajectory_count, agent.avg_quality
    (1, 0.8)
    >>> agent.export_state().trajectories[0].route
    'small-model'
    """

    def __init__(
        self,
        agent_id: str,
        config: SonaConfig | None = None,
        warm_start: WarmStart | None = None,
        *,
        privacy: Privacy | None = None,
    ) -> None:
        self._agent_id = check_text("agent_id", agent_id)
        config = SonaConfig.for_ephemeral() if config is None else config
        if privacy is not None and privacy.dim != config.embedding_dim_:
            raise ShapeError(
                f"`privacy` must have cells of shape (n, {config.embedding_dim_});"
                f" got (n, {privacy.dim})"
            )
        self._privacy, self._releases = privacy, 0
        self._engine = SonaEngine(config)
        if warm_start is not None:
            warm_start.apply_to(self._engine)
        self._lock = threading.Lock()
        # The wall clock says when the session began; a monotonic one measures it from there, so
        # that every export of the session agrees on its start whatever the wall clock does.
        self._started_ms = time.time_ns() // 1_000_000
        self._started_ns = time.monotonic_ns()
        # Embeddings in blocks: what was written once is never copied to make room for more.
        self._blocks: list[FloatArray] = []
        self._dims = config.embedding_dim_, config.hidden_dim
        # Quality, time, route and context of each request.
        self._log: list[tuple[float, int, str | None, tuple[str, ...]]] = []

    @classmethod
    def default_federated(
        cls,
        agent_id: str,
        hidden_dim: int = 384,
        warm_start: WarmStart | None = None,
        *,
        privacy: Privacy | None = None,
    ) -> EphemeralAgent:
        """Make an agent with the ephemeral preset."""
        config = SonaConfig.for_ephemeral(hidden_dim=hidden_dim)
        return cls(agent_id, config, warm_start, privacy=privacy)

    @property
    def agent_id(self) -> str:
        """Name of the agent."""
        return self._agent_id

    @property
    def engine(self) -> SonaEngine:
        """The agent's engine; what is recorded on it directly is learned but not exported."""
        return self._engine

    @property
    def trajectory_count(self) -> int:
        """Requests processed in this session."""
        return len(self._log)

    @property
    def avg_quality(self) -> float:
        """Mean quality of the session; 0.0 before the first request."""
        log = self._log
        return sum(quality for quality, *_ in log) / len(log) if log else 0.0

    @property
    def privacy_spent(self) -> tuple[float, float]:
        """Epsilon and delta of all exports so far together; (0.0, 0.0) before the first.

        (inf, 0.0) for an agent that is not private and has exported. Stating it needs the extra
        ``sona[privacy]``; see :meth:`Privacy.epsilon`.
        """
        if not self._releases:
            return 0.0, 0.0
        if self._privacy is None:
            return math.inf, 0.0
        return self._privacy.epsilon(self._releases), self._privacy.delta

    def process_trajectory(
        self,
        embedding: ArrayLike,
        activations: ArrayLike,
        quality: float,
        route: str | None = None,
        context: Sequence[str] = (),
    ) -> None:
        """Learn from one finished request and keep it for the export.

        Parameters
        ----------
        embedding : array_like of shape (embedding_dim,)
            The query.
        activations : array_like of shape (hidden_dim,)
            Hidden state that the request produced; the embedding itself will do.
        quality : float
            Outcome in [0, 1].
        route : str, optional
            The choice that was made; a private agent needs one of ``privacy.routes``.
        context : sequence of str, optional
            Free tags.

        Raises
        ------
        ShapeError, DTypeError, NonFiniteError, RangeError
            If an argument is refused; agent and engine are as they were.
        """
        embedding_dim, hidden_dim = self._dims
        x = _core.as_vector(embedding, embedding_dim, "embedding")
        state = pooled(activations, None, hidden_dim)
        quality = check_quality("quality", quality)
        if route is not None:
            check_text("route", route)
        if self._privacy is not None and route not in self._privacy.routes:
            raise RangeError(
                f"`route` must be one that `privacy` names, {list(self._privacy.routes)};"
                f" got {route!r}"
            )
        tags = tuple([check_text("context", tag) for tag in context]) if context else ()
        with self._lock:
            now = time.time_ns() // 1_000_000
            if not self._engine.absorb(x, quality, route, (Step(state, quality),)):
                return  # switched off: nothing is recorded
            row = len(self._log) % _BLOCK
            if row == 0:
                self._blocks.append(np.empty((_BLOCK, embedding_dim), np.float32))
            _core.store_row(self._blocks[-1], row, x)
            self._log.append((quality, now, route, tags))

    def apply_micro_lora(self, x: ArrayLike, out: FloatArray | None = None) -> FloatArray:
        """Adapt hidden states; see :meth:`SonaEngine.apply_micro_lora`."""
        return self._engine.apply_micro_lora(x, out)

    def route(
        self,
        embedding: ArrayLike,
        routes: Sequence[str] | None = None,
        costs: Mapping[str, float] | None = None,
        cost_weight: float = 0.0,
        explore: bool = False,
    ) -> RouteDecision:
        """Choose a route; see :meth:`SonaEngine.route`."""
        return self._engine.route(embedding, routes, costs, cost_weight, explore)

    def force_learn(self) -> LearnResult:
        """Run a background cycle now; see :meth:`SonaEngine.force_learn`."""
        return self._engine.force_learn()

    def export_state(self, *, compact: bool | None = None) -> AgentExport:
        """Return everything this session learned from.

        May be called again: a later export supersedes the earlier ones at the coordinator.

        Parameters
        ----------
        compact : bool, optional
            Send what the outcomes amount to instead of each: at most 8,000 bytes without a
            single query. Contexts and times stay behind, and adapters learn nothing from it.
            If not given, a private agent does and others do not.

        Raises
        ------
        RangeError
            If there are so many routes that not even one cell of a sketch fits, or each outcome
            of a private agent is asked for.

        Notes
        -----
        Every export of a private agent is a release of its own: :attr:`privacy_spent` grows.
        """
        if self._privacy is not None and compact is False:
            raise RangeError("`compact` must not be False for a private agent; its rows stay here")
        with self._lock:
            self._releases += 1
            log, blocks = self._log.copy(), self._blocks.copy()
        count = len(log)
        embeddings = np.concatenate([np.empty((0, self._dims[0]), np.float32), *blocks])[:count]
        qualities, times, routes, contexts = zip(*log, strict=True) if log else ((), (), (), ())
        table = TrajectoryTable(
            embeddings,
            np.array(qualities, np.float64),
            np.array(times, np.int64),
            routes,
            contexts,
        )
        duration = (time.monotonic_ns() - self._started_ns) // 1_000_000
        now = self._started_ms + duration
        if self._privacy is not None:
            # All that is said follows from the noised counts, the agent's own figures too.
            summary = self._privacy.release(
                table.embeddings, [str(route) for route in table.routes], table.quality
            )
            counts = summary.counts.astype(np.float64)
            mean = float((counts * summary.means).sum() / max(counts.sum(), 1.0))
            stats = AgentExportStats(summary.rows, mean)
            return AgentExport(self._agent_id, (), stats, duration, now, summary)
        stats = AgentExportStats(
            count,
            float(table.quality.mean()) if count else 0.0,
            self._engine.stats().patterns_stored,
        )
        if not compact or not count:
            return AgentExport(self._agent_id, table, stats, duration, now)
        units = _core.unit_rows(table.embeddings)
        room = _COMPACT_BYTES
        while True:
            summary = sketch(units, table.routes, table.quality, room)
            export = AgentExport(self._agent_id, (), stats, duration, now, summary)
            excess = len(export.to_bytes()) - _COMPACT_BYTES  # what surrounds the sketch, at first
            if excess <= 0:
                return export
            room = min(room, summary.nbytes) - excess

    def __repr__(self) -> str:
        return f"EphemeralAgent({self._agent_id!r}, trajectories={self.trajectory_count})"

    def __reduce__(self) -> Any:
        raise TypeError("an agent is not pickled; send agent.export_state().to_bytes() instead")
