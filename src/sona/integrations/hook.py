"""The forward hook that adapts what one module puts out, and records a request's first pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from sona import SonaEngine
from sona._core import LowRankAdapter, adapt_tensor
from sona.errors import DTypeError, MissingExtraError, NonFiniteError, ShapeError

try:
    import torch
except ImportError:
    raise MissingExtraError(
        "a model's hooks need torch; install it with: pip install 'sona[torch]'"
    ) from None

__all__ = ["Hook", "torch"]

_BITS = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


class Hook:
    """Adapts the output of one module.

    Attributes
    ----------
    engine : SonaEngine
        Where the adapters come from. Which there are is looked up once per request.
    layer : str
        The module's name, and the engine's name of the layer.
    micro : bool
        Whether micro-LoRA follows base-LoRA.
    state : torch.Tensor of shape (rows, dim) or None
        What was recorded of the current request: one mean over tokens per row of the batch.
    live : bool
        A hook that is not passes everything on as it is.
    """

    __slots__ = (
        "_adapters",
        "_armed",
        "_copies",
        "_generation",
        "_traced",
        "engine",
        "layer",
        "live",
        "micro",
        "state",
    )

    def __init__(self, engine: SonaEngine, layer: str, micro: bool) -> None:
        self.engine, self.layer, self.micro = engine, layer, micro
        self.state: torch.Tensor | None = None
        self.live = True
        self._generation = -1
        self._adapters: tuple[LowRankAdapter, ...] = ()
        self._copies: list[_Copy] = []
        # Whether the last pass that came here left a graph, for which the copies stand.
        self._traced = False
        # What the kernels may apply at once: nothing while there is something else to do first.
        self._armed: tuple[LowRankAdapter, ...] = ()

    def adapt(self, module: torch.nn.Module, args: object, output: Any) -> Any:
        """Return what goes on in place of a module's output.

        The method is registered, not the object: torch calls it without a detour over
        ``__call__``, which costs as much as an empty hook.
        """
        try:
            adapted = adapt_tensor(output, self._armed)
            return self._whatever_comes(output) if adapted is None else adapted
        except NonFiniteError as error:
            raise NonFiniteError(f"{self.layer!r} must put out finite numbers: {error}") from None

    def forget(self) -> None:
        """Record the next pass."""
        self.state, self._armed = None, ()

    @torch.compiler.disable  # a compiled graph is left for it and continues after it
    def _whatever_comes(self, output: Any) -> Any:
        if isinstance(output, torch.Tensor):
            return self._adapt(output)
        if not isinstance(output, tuple) or not output or not isinstance(output[0], torch.Tensor):
            raise DTypeError(
                f"{self.layer!r} must return a tensor or a tuple that starts with one; "
                f"got {type(output).__name__}"
            )
        parts = (self._adapt(output[0]), *output[1:])
        return type(output)(*parts) if hasattr(output, "_fields") else parts

    def _adapt(self, y: torch.Tensor) -> torch.Tensor:
        if not self.live:
            return y
        # In a backward pass, checkpointing computes an earlier pass again: as it was then.
        again = torch._C._current_graph_task_id() != -1
        dim = self.engine.config.hidden_dim
        if y.shape[-1:] != (dim,):
            raise ShapeError(f"{self.layer!r} must return (..., {dim}); got {tuple(y.shape)}")
        if not again:
            if self._generation != self.engine.generation:
                self._look_up()
            if self.state is None and y.numel():
                # (dim,) is one request, (n, dim) are n, (n, tokens, dim) are n with their tokens.
                rows = y.detach().reshape(len(y) if y.ndim > 1 else 1, -1, dim)
                self.state = rows.to(torch.float32).mean(dim=1)
            self._armed = () if self.state is None else self._adapters
        if not self._adapters or not y.numel():
            return y
        if y.requires_grad and torch.is_grad_enabled():
            return self._in_torch(y, keep=again and self._traced)
        self._traced = self._traced and again
        adapted: torch.Tensor | None = adapt_tensor(y, self._adapters)
        if adapted is not None:
            return adapted
        if y.is_cpu and (y.dtype is torch.float32 or y.dtype in _BITS):
            return self._through_arrays(y)
        return self._in_torch(y)

    def _look_up(self) -> None:
        generation = self.engine.generation
        base = self.engine.base_lora(self.layer)
        micro = self.engine.micro_lora if self.micro else None
        self._adapters = tuple(adapter for adapter in (base, micro) if adapter is not None)
        self._copies = [_Copy(adapter) for adapter in self._adapters]
        self._generation = generation

    def _through_arrays(self, y: torch.Tensor) -> torch.Tensor:
        """Without the C exchange of tensors, and where a tensor is not dense: as NumPy arrays."""
        dense = y.detach().contiguous()
        shape = (-1, y.shape[-1])
        if y.dtype is torch.float32:
            wide = dense.numpy().reshape(shape)
            for adapter in self._adapters:
                wide = adapter.apply(wide)
            return torch.from_numpy(wide).view(y.shape)
        bits = dense.view(torch.int16).numpy().view(np.uint16).reshape(shape)
        for adapter in self._adapters:
            bits = adapter.apply_bits(bits, _BITS[y.dtype])
        return torch.from_numpy(bits.view(np.int16)).view(y.dtype).view(y.shape)

    def _in_torch(self, y: torch.Tensor, keep: bool = False) -> torch.Tensor:
        """In torch operations: for gradients, and on other devices."""
        for copy in self._copies:
            wide = y.to(torch.float32) if y.dtype in _BITS else y
            if not keep:
                copy.refresh()
            A, B = copy.on(wide)
            y = (wide + (wide @ A) @ B).to(y.dtype)
        self._traced = True
        return y


class _Copy:
    """An adapter's factors as tensors, made anew when the adapter has learned."""

    def __init__(self, adapter: LowRankAdapter) -> None:
        self._adapter = adapter
        self._weights, self._scaling = adapter.weights.copy(), adapter.scaling
        self._tensors: dict[tuple[torch.device, torch.dtype], tuple[torch.Tensor, torch.Tensor]]
        self._tensors = {}

    def refresh(self) -> None:
        # Learning writes into the adapter; a graph that waits for its backward pass keeps its own.
        adapter = self._adapter
        if self._scaling != adapter.scaling or not np.array_equal(self._weights, adapter.weights):
            self._weights, self._scaling = adapter.weights.copy(), adapter.scaling
            self._tensors = {}

    def on(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return A of shape (dim, rank) and B of shape (rank, dim), scaling folded into B."""
        key = (like.device, like.dtype)
        if key not in self._tensors:
            weights = torch.from_numpy(self._weights).to(*key)
            rank = self._adapter.rank
            self._tensors[key] = (weights[:rank].T, weights[rank:] * self._scaling)
        return self._tensors[key]
