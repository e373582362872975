"""Several specialised engines side by side, each made from a template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sona.config import SonaConfig
from sona.errors import ConfigError
from sona.training.pipeline import TrainingPipeline, TrainingResult
from sona.training.templates import TEMPLATES, TrainingTemplate
from sona.types import Record, Trajectory

__all__ = ["AgentFactory", "AgentStats"]


class AgentStats(Record, frozen=True, eq=False):
    """One agent of a factory.

    Attributes
    ----------
    name, template : str
        Its name, and the template it was made from.
    training_sessions, total_examples, patterns_learned : int
    avg_quality : float
        Mean quality of its newest examples.
    """

    name: str
    template: str
    training_sessions: int
    total_examples: int
    patterns_learned: int
    avg_quality: float


class AgentFactory(Mapping[str, TrainingPipeline]):
    """Makes agents from templates and trains them; a mapping from name to pipeline.

    Parameters
    ----------
    base : SonaConfig, optional
        Gives every agent its dimensions and its seed; the rest comes from the template.

    Notes
    -----
    Agents share nothing. Not thread-safe.

    Examples
    --------
    >>> import numpy as np
    >>> from sona import SonaConfig, Trajectory
    >>> from sona.training import AgentFactory
    >>> factory = AgentFactory(SonaConfig(hidden_dim=2))
    >>> coder = factory.create("coder", "code-agent")
    >>> _ = factory.create("bot", "chat-agent")
    >>> _ = factory.train("coder", [Trajectory(np.float32([1, 0]), 0.9, "large")])
    >>> [(stats.name, stats.total_examples) for stats in factory.stats()]
    [('coder', 1), ('bot', 0)]
    """

    def __init__(self, base: SonaConfig | None = None) -> None:
        self._base = SonaConfig() if base is None else base
        self._agents: dict[str, tuple[str, TrainingPipeline]] = {}

    def create(self, name: str, template: str | TrainingTemplate) -> TrainingPipeline:
        """Make an agent.

        Parameters
        ----------
        name : str
            Not used by another agent of this factory.
        template : str or TrainingTemplate
            One of :data:`~sona.training.TEMPLATES`, by name, or your own.

        Raises
        ------
        ConfigError
            If the name is taken or there is no such template.
        """
        if name in self._agents:
            raise ConfigError(f"`name` must be new to the factory; got {name!r} a second time")
        if isinstance(template, str):
            if template not in TEMPLATES:
                raise ConfigError(f"`template` must be one of {list(TEMPLATES)}; got {template!r}")
            template = TEMPLATES[template]
        config = template.config.replace(
            hidden_dim=self._base.hidden_dim,
            embedding_dim=self._base.embedding_dim,
            seed=self._base.seed,
        )
        pipeline = TrainingPipeline(name, config, template.batch)
        self._agents[name] = (template.name, pipeline)
        return pipeline

    def train(
        self, name: str, examples: Iterable[Trajectory], validation: Sequence[Trajectory] = ()
    ) -> TrainingResult:
        """Train one agent; see :meth:`TrainingPipeline.train`. KeyError if there is none."""
        return self[name].train(examples, validation)

    def remove(self, name: str) -> TrainingPipeline:
        """Take an agent out and return it; KeyError if there is none."""
        return self._agents.pop(name)[1]

    def stats(self) -> list[AgentStats]:
        """Return the figures of every agent, in order of creation."""
        return [
            AgentStats(
                name,
                template,
                pipeline.metrics.training_sessions,
                pipeline.metrics.total_examples,
                pipeline.metrics.patterns_learned,
                pipeline.metrics.avg_quality,
            )
            for name, (template, pipeline) in self._agents.items()
        ]

    def __getitem__(self, name: str) -> TrainingPipeline:
        return self._agents[name][1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._agents)

    def __len__(self) -> int:
        return len(self._agents)
