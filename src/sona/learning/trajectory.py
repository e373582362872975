"""The builder that collects one request while it runs."""

from __future__ import annotations

import time

import numpy as np

from sona import _core
from sona.checks import check_quality, check_text
from sona.errors import BuilderError, DTypeError, RangeError, ShapeError
from sona.types import ArrayLike, FloatArray, LayerKey, Step, Trajectory

__all__ = ["TrajectoryBuilder", "pooled"]


class TrajectoryBuilder:
    """Collects what happens during one request.

    Made by :meth:`sona.SonaEngine.begin_trajectory`; only the engine that made it can end it,
    once. A builder is not thread-safe; different builders are independent.

    Parameters
    ----------
    embedding : ndarray of shape (embedding_dim,), float32
        The query, already checked; the builder keeps a copy.
    hidden_dim : int
        Length of the activations.
    owner : object
        The engine that may end it.
    """

    __slots__ = ("_context", "_embedding", "_hidden_dim", "_owner", "_route", "_steps")

    def __init__(self, embedding: FloatArray, hidden_dim: int, owner: object) -> None:
        self._embedding = embedding
        self._hidden_dim = hidden_dim
        self._owner: object | None = owner
        self._steps: list[Step] = []
        self._route: str | None = None
        self._context: list[str] = []

    def add_step(
        self,
        activations: ArrayLike,
        reward: float,
        attention_weights: ArrayLike | None = None,
        layer: LayerKey | None = None,
    ) -> None:
        """Record one step.

        Parameters
        ----------
        activations : array_like of shape (hidden_dim,) or (n_tokens, hidden_dim)
            Hidden state of the step, or one per token.
        reward : float
            Outcome of the step in [0, 1].
        attention_weights : array_like, optional
            Not negative, not all zero. For token activations of shape (n_tokens,): the tokens
            are averaged with these weights, evenly without them. For a single state of shape
            (hidden_dim,): the weight of each component.
        layer : int or str, optional
            Layer that the activations enter; None means layer 0, the one that queries enter.

        Raises
        ------
        ShapeError, DTypeError, NonFiniteError, RangeError
            If an argument is refused; the builder is as it was.
        """
        self._check_open()
        state = pooled(activations, attention_weights, self._hidden_dim)
        reward = check_quality("reward", reward)
        if layer is None:
            layer = 0
        elif isinstance(layer, bool) or not isinstance(layer, int | str):
            raise DTypeError(f"`layer` must be an int, a string or None; got {layer!r}")
        elif isinstance(layer, str):
            check_text("layer", layer)
        # The caller may go on to use its array for something else.
        own = state.copy() if state is activations else state
        self._steps.append(Step(own, reward, layer))

    def set_model_route(self, route: str) -> None:
        """Say which choice was made for the request; the last call counts."""
        self._check_open()
        self._route = check_text("route", route)

    def add_context(self, tag: str) -> None:
        """Attach a free tag, for example ``"file:main.py"``."""
        self._check_open()
        self._context.append(check_text("tag", tag))

    def build(self, owner: object, quality: float) -> Trajectory:
        """Close the builder; meant for the engine that began it.

        Raises
        ------
        BuilderError
            If another engine began it or it was closed before.
        RangeError, NonFiniteError, DTypeError
            If `quality` is refused; the builder stays open.
        """
        self._check_open()
        if owner is not self._owner:
            raise BuilderError("`trajectory` must end on the engine that began it")
        quality = check_quality("quality", quality)
        self._owner = None
        return Trajectory(
            self._embedding,
            quality,
            self._route,
            tuple(self._context),
            tuple(self._steps),
            time.time_ns() // 1_000_000,
        )

    def _check_open(self) -> None:
        if self._owner is None:
            raise BuilderError("`trajectory` has already ended; begin another one")


def pooled(activations: ArrayLike, weights: ArrayLike | None, dim: int) -> FloatArray:
    """Return activations as one state of shape (dim,), which may be the caller's own array.

    Raises
    ------
    ShapeError, DTypeError, NonFiniteError, RangeError
        As :meth:`TrajectoryBuilder.add_step`.
    """
    if _core.dimensions(activations, "activations") == 2:
        states = _core.as_matrix(activations, dim, "activations")
        if not len(states):
            raise ShapeError("`activations` must hold at least one token; got shape (0, ...)")
        if weights is None:
            return np.asarray(states.mean(axis=0), np.float32)
        share = _weights(weights, len(states))
        return np.asarray(share @ states / share.sum(), np.float32)
    state = _core.as_vector(activations, dim, "activations")
    return state if weights is None else state * _weights(weights, dim)


def _weights(weights: ArrayLike, length: int) -> FloatArray:
    share = _core.as_vector(weights, length, "attention_weights")
    if share.min() < 0 or not share.any():
        raise RangeError("`attention_weights` must be at least 0 and not all 0")
    return share
