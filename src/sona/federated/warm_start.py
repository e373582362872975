"""What a new agent receives: patterns, a fitted router, adapters, and where they are from."""

from __future__ import annotations

from collections.abc import Collection

from sona.engine import SonaEngine
from sona.errors import ShapeError
from sona.state import EngineState
from sona.types import LearnedPattern

__all__ = ["WarmStart"]


class WarmStart:
    """The knowledge of a coordinator, ready to travel to a new agent.

    Made by :meth:`FederatedCoordinator.warm_start`; immutable.

    Examples
    --------
    >>> from sona import SonaConfig
    >>> from sona.federated import EphemeralAgent, FederatedCoordinator, WarmStart
    >>> coord = FederatedCoordinator.default_coordinator("coord-1", hidden_dim=4)
    >>> data = coord.warm_start().to_bytes()
    >>> agent = EphemeralAgent.default_federated("a", 4, WarmStart.from_bytes(data))
    """

    __slots__ = ("_knowledge",)

    def __init__(self, knowledge: EngineState) -> None:
        self._knowledge = knowledge

    @classmethod
    def of(
        cls,
        engine: SonaEngine,
        source: str,
        k: int | None = None,
        backed: Collection[int] | None = None,
    ) -> WarmStart:
        """Take what `engine` knows; `k` limits it to the largest patterns, `backed` to these ids.

        Raises
        ------
        RangeError
            If `k` is below 1.
        """
        return cls(engine.knowledge(source, k, backed))

    @property
    def source(self) -> str:
        """Who made it."""
        return str(self._knowledge.facts_of("origin")["source"])

    @property
    def version(self) -> int:
        """Trajectories that stand behind it: of two from one source, the larger knows more."""
        return int(self._knowledge.facts_of("origin")["seen"])

    @property
    def embedding_dim(self) -> int:
        """Dimension of the embeddings that it was learned from."""
        return self._knowledge.config.embedding_dim_

    @property
    def patterns(self) -> list[LearnedPattern]:
        """The patterns that it hands out."""
        engine = SonaEngine(self._knowledge.config)
        engine.adopt(self._knowledge)
        return engine.patterns

    def apply_to(self, engine: SonaEngine) -> None:
        """Give a fresh engine this knowledge.

        Raises
        ------
        ShapeError
            If the engine has other dimensions or ranks; it is as it was.
        """
        theirs, own = self._knowledge.config, engine.config
        for name in ("hidden_dim", "embedding_dim_", "micro_lora_rank"):
            if getattr(theirs, name) != getattr(own, name):
                raise ShapeError(
                    f"`warm_start` must fit the agent: {name.rstrip('_')} is"
                    f" {getattr(theirs, name)} there and {getattr(own, name)} here"
                )
        engine.adopt(self._knowledge)

    def to_bytes(self) -> bytes:
        """Write it as one message."""
        return self._knowledge.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> WarmStart:
        """Read what :meth:`to_bytes` wrote.

        Raises
        ------
        FormatError
            If the bytes are not a warm start, or damaged.
        """
        knowledge = EngineState.from_bytes(data)
        knowledge.facts_of("origin")
        return cls(knowledge)

    def __repr__(self) -> str:
        return f"WarmStart(source={self.source!r}, trajectories={self.version})"
