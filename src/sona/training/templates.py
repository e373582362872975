"""Starting points for common kinds of agents: plain values, nothing else.

A template is a configuration and a way through the examples. Their names are those of the Rust
crate `ruvector-sona`; of its templates only what changes an engine is here. Vertical, compliance,
training method, memory budget, latency target and tags were set there and read nowhere; its
template for data analysts held the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from sona.config import SonaConfig
from sona.training.pipeline import BatchConfig

__all__ = ["TEMPLATES", "TrainingTemplate"]


class TrainingTemplate(msgspec.Struct, frozen=True):
    """A configuration and how to train with it.

    Parameters
    ----------
    name : str
    config : SonaConfig
    batch : BatchConfig, optional

    Examples
    --------
    >>> from sona.training import TEMPLATES
    >>> template = TEMPLATES["code-agent"].with_config(hidden_dim=64)
    >>> template.config.pattern_clusters, template.config.hidden_dim
    (200, 64)
    """

    name: str
    config: SonaConfig
    batch: BatchConfig = BatchConfig()

    def with_config(self, **overrides: Any) -> TrainingTemplate:
        """Return a copy with some fields of the configuration changed, and checked."""
        return TrainingTemplate(self.name, self.config.replace(**overrides), self.batch)


def _template(name: str, batch: BatchConfig | None = None, **overrides: Any) -> TrainingTemplate:
    config = SonaConfig().replace(**overrides)
    return TrainingTemplate(name, config, BatchConfig() if batch is None else batch)


_ALL = (
    # Many kinds of requests, and something to learn from nearly all of them.
    _template("code-agent", base_lora_rank=16, pattern_clusters=200, quality_threshold=0.2),
    # Few kinds of requests; half-good answers shape nothing.
    _template("chat-agent", pattern_clusters=50, quality_threshold=0.4),
    # As many patterns as a collection of documents has topics.
    _template("rag-agent", pattern_clusters=200),
    # Tasks follow one another: a larger adapter that is held in place.
    _template("task-planner", base_lora_rank=16),
    # Rare and dear outcomes: remember many, use nearly all.
    _template(
        "domain-expert", base_lora_rank=16, quality_threshold=0.1, trajectory_capacity=20_000
    ),
    # One repository, read in large batches.
    _template(
        "codebase-helper",
        BatchConfig(batch_size=4096),
        base_lora_rank=16,
        pattern_clusters=200,
        quality_threshold=0.2,
    ),
    # Only what was clearly good shapes patterns.
    _template("creative-writer", pattern_clusters=50, quality_threshold=0.5),
    # What was learned is given up reluctantly.
    _template("reasoning-agent", base_lora_rank=16, ewc_lambda=1.5, pattern_clusters=150),
)

#: Templates by name.
TEMPLATES: Mapping[str, TrainingTemplate] = MappingProxyType({each.name: each for each in _ALL})
