"""Agents in their steady state: a bank of a hundred patterns, a full memory, everything learned."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sona import SonaConfig
from sona.federated import EphemeralAgent
from sona.types import FloatArray

__all__ = ["DIM", "Requests", "agent", "traffic"]

DIM = 384
_PATTERNS = 100
_ROUTES = 10


@dataclass(frozen=True)
class Requests:
    """Queries around a hundred topics, the routes that they took, and how good that was."""

    queries: list[FloatArray]
    states: list[FloatArray]
    routes: list[str]
    quality: list[float]

    def forever(self) -> Iterator[tuple[FloatArray, FloatArray, float, str]]:
        """Arguments of `process_trajectory`, over and over."""
        return itertools.cycle(
            zip(self.queries, self.states, self.quality, self.routes, strict=True)
        )


def traffic(n: int, *, informed: bool, own_states: bool = False, seed: int = 0) -> Requests:
    """Draw requests.

    Parameters
    ----------
    n : int
    informed : bool
        Whether routes were mostly chosen for the query, as intents and tools are; else at random.
    own_states : bool, default False
        Whether activations are vectors of their own; else the queries themselves.
    seed : int, default 0
    """
    world = np.random.default_rng(0)
    topics = _unit(world.standard_normal((_PATTERNS, DIM)))
    skill = world.random((_PATTERNS, _ROUTES))
    rng = np.random.default_rng([seed, n])
    topic = rng.integers(_PATTERNS, size=n)
    queries = _unit(topics[topic] + rng.standard_normal((n, DIM)) / np.sqrt(DIM))
    route = rng.integers(_ROUTES, size=n)
    if informed:
        route = np.where(rng.random(n) < 0.9, skill[topic].argmax(axis=1), route)
    quality = np.clip(skill[topic, route] + 0.2 * rng.standard_normal(n), 0.0, 1.0)
    states = (
        _unit(queries + rng.standard_normal((n, DIM)) / np.sqrt(DIM)) if own_states else queries
    )
    return Requests(list(queries), list(states), [f"route-{r}" for r in route], quality.tolist())


def agent(requests: Requests, capacity: int = 10_000) -> EphemeralAgent:
    """An agent that has seen all of `requests`, with a background cycle after a fifth of them."""
    made = EphemeralAgent("bench", SonaConfig(hidden_dim=DIM, trajectory_capacity=capacity))
    stream = requests.forever()
    for number in range(len(requests.queries)):
        made.process_trajectory(*next(stream))
        if number == len(requests.queries) // 5:
            made.force_learn()
    return made


def _unit(x: NDArray[np.float64]) -> FloatArray:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), np.float32)
