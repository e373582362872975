"""Adapters inside a torch model, by forward hooks, and learning from what passed through them.

    request --> module --> hook: micro(base(y)) --> rest of the model
                             |
                             +-- first pass of the request: y, averaged over its tokens
    session.feedback(quality) --> one trajectory, one step per layer

On the CPU the hook hands the module's output to sona's kernels as it lies in memory. Where a
gradient is wanted, and on other devices, it does the same in torch operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np

from sona import SonaEngine
from sona.checks import check_quality, check_text
from sona.errors import (
    BuilderError,
    ConfigError,
    RangeError,
    ShapeError,
)
from sona.integrations.hook import Hook, torch
from sona.types import ArrayLike, FloatArray

__all__ = ["Session", "attach"]


def attach(
    model: torch.nn.Module, engine: SonaEngine, layers: Sequence[str], micro: bool = True
) -> Session:
    """Adapt the outputs of named modules until the session ends.

    Parameters
    ----------
    model : torch.nn.Module
        Not compiled yet; ``torch.compile`` may follow.
    engine : SonaEngine
        Whose adapters are applied, live: what it learns shows in the next forward pass.
    layers : sequence of str
        Names as in ``model.named_modules()``. Each module must return a tensor whose last
        dimension is ``hidden_dim``, or a tuple that starts with one.
    micro : bool, default True
        Apply micro-LoRA on top of each layer's base-LoRA.

    Returns
    -------
    Session
        Use it in a ``with`` block, or call :meth:`Session.detach`.

    Raises
    ------
    RangeError
        If no layer is named, one is named twice, or the model has no module of that name.
    ConfigError
        If the model was compiled already, or a module has a session.
    ShapeError, DTypeError, NonFiniteError
        In the forward pass, if what a module returns is not as said above.

    Notes
    -----
    float32, float16 and bfloat16 on the CPU pass through sona's kernels without a copy of the
    input; 16-bit states are adapted in float32 and rounded once per adapter. Gradients flow
    through the adapters to what came before; the adapters themselves learn from feedback only.
    Gradient checkpointing works. Under ``torch.compile`` the hooks break the graph and work;
    with ``fullgraph=True`` torch refuses them.

    Examples
    --------
    >>> import torch
    >>> from sona import SonaConfig, SonaEngine
    >>> from sona.integrations.torch import attach
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
    >>> engine = SonaEngine(SonaConfig(hidden_dim=4))
    >>> with torch.no_grad(), attach(model, engine, layers=["0"]) as session:
    ...     y = model(torch.ones(1, 8))
    ...     session.feedback(0.9)
    >>> engine.stats().trajectories_seen
    1
    """
    if isinstance(layers, str) or not layers:
        raise RangeError(f"`layers` must name at least one module; got {layers!r}")
    if len(set(layers)) != len(layers):
        raise RangeError(f"`layers` must not name a module twice; got {list(layers)}")
    if any(hasattr(part, "_orig_mod") for part in model.modules()):
        raise ConfigError("`model` is compiled and would ignore hooks; attach before torch.compile")
    modules = {name: _module(model, name) for name in layers}
    for name, module in modules.items():
        hooks = module._forward_hooks.values()
        if any(isinstance(getattr(hook, "__self__", None), Hook) for hook in hooks):
            raise ConfigError(f"`layers`: {name!r} has a session already; detach it first")
    return Session(engine, modules, micro)


class Session:
    """Hooks on a model, and what passed through them since the last feedback.

    Made by :func:`attach`. A request's first forward pass is what it is remembered by: the mean
    over the tokens of its prompt, as each layer put it out before adaptation. Later passes, which
    generate tokens, are adapted but not recorded.

    Notes
    -----
    Requests of one session come one after another, or as one batch. The model may be used from
    several threads only if none of them gives feedback.
    """

    def __init__(
        self, engine: SonaEngine, modules: dict[str, torch.nn.Module], micro: bool
    ) -> None:
        self._engine = engine
        self._hooks = {name: Hook(engine, name, micro) for name in modules}
        self._handles = [
            module.register_forward_hook(self._hooks[name].adapt)
            for name, module in modules.items()
        ]

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    @property
    def layers(self) -> list[str]:
        """Names of the adapted modules."""
        return list(self._hooks)

    def feedback(
        self,
        quality: float | Sequence[float],
        route: str | None = None,
        embedding: ArrayLike | None = None,
    ) -> None:
        """Learn how good the outcome of the recorded request was, and forget the request.

        Parameters
        ----------
        quality : float or sequence of float
            In [0, 1]. One number is the outcome of everything in the recorded pass; a sequence
            has one number per row of the batch, and each row becomes a trajectory.
        route : str, optional
            The choice that was made for the request.
        embedding : array_like of shape (embedding_dim,) or (rows, embedding_dim), optional
            The query; the state of the first layer if not given, which needs ``embedding_dim``
            to be ``hidden_dim``.

        Raises
        ------
        BuilderError
            If there was no forward pass since the last feedback.
        ConfigError, RangeError, ShapeError, DTypeError, NonFiniteError
            If an argument is refused; nothing was learned or forgotten.

        Notes
        -----
        Micro-LoRA learns at once, base-LoRA when the engine's background loop runs: call
        :meth:`~sona.SonaEngine.tick` after it.
        """
        hooks = self._hooks.items()
        states = {name: hook.state.cpu().numpy() for name, hook in hooks if hook.state is not None}
        if not states:
            raise BuilderError("`feedback` needs a forward pass since the last one; there was none")
        if isinstance(quality, Sequence):
            qualities = [check_quality("quality", each) for each in quality]
            for name, state in states.items():
                if len(state) != len(qualities):
                    raise ShapeError(
                        f"`quality` must have one number per row of {name!r}, {len(state)}; "
                        f"got {len(qualities)}"
                    )
        else:
            qualities = [check_quality("quality", quality)]
            states = {name: state.mean(axis=0, keepdims=True) for name, state in states.items()}
        if route is not None:
            check_text("route", route)
        queries = self._queries(embedding, states, len(qualities))
        builders = [self._engine.begin_trajectory(query) for query in queries]
        for row, builder in enumerate(builders):
            for name, state in states.items():
                builder.add_step(state[row], qualities[row], layer=name)
            if route is not None:
                builder.set_model_route(route)
        for builder, each in zip(builders, qualities, strict=True):
            self._engine.end_trajectory(builder, each)
        self.discard()

    def discard(self) -> None:
        """Forget the recorded request without learning from it."""
        for hook in self._hooks.values():
            hook.forget()

    def detach(self) -> None:
        """Take the hooks off; the model is as it was. May be called again."""
        for handle in self._handles:
            handle.remove()
        for hook in self._hooks.values():
            # A graph that was compiled meanwhile may still call it.
            hook.live = False
        self.discard()

    def _queries(
        self, embedding: ArrayLike | None, states: dict[str, FloatArray], rows: int
    ) -> FloatArray:
        config = self._engine.config
        if embedding is not None:
            queries = np.atleast_2d(np.asarray(embedding))
            if len(queries) != rows:
                raise ShapeError(f"`embedding` must have {rows} rows; got {len(queries)}")
            return queries
        if config.embedding_dim_ != config.hidden_dim:
            raise ConfigError(
                "`embedding` must be given where `embedding_dim` differs from `hidden_dim`"
            )
        return next(iter(states.values()))


def _module(model: torch.nn.Module, name: str) -> torch.nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        near = get_close_matches(name, (other for other, _ in model.named_modules()), n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise RangeError(f"`layers`: the model has no module {name!r}{hint}") from None
