"""An engine's adapters as PEFT adapter directories, and back; merged into dense weights.

sona adapts what a module puts out: y' = y + s B (A y). For a linear module, y = W x + b, that is

    y' = (W + s B (A W)) x + b + s B (A b)

so LoRA on W with ``lora_A = A W`` and ``lora_B = B`` says the same, at the same rank, and a bias
on ``lora_B`` where the module has one. Micro-LoRA on top of base-LoRA is one such map of the sum
of the ranks: its A is A_micro (1 + s_base B_base A_base) W. Outputs of modules that are not linear
(attention blocks, norms, whole decoder layers) cannot be written as LoRA and are refused; hook
the last linear module inside them instead, for example ``mlp.down_proj`` for ``mlp``.

Serving with vLLM, which loads an adapter while it runs::

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora --max-lora-rank 16
    curl -X POST localhost:8000/v1/load_lora_adapter -H 'Content-Type: application/json' \\
         -d '{"lora_name": "sona", "lora_path": "/path/of/the/directory"}'

``max-lora-rank`` must reach the exported rank. To bring in what was learned since, post
``/v1/unload_lora_adapter`` with the name, export and load again. vLLM takes no ``lora_bias``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sona import SonaEngine
from sona.errors import FormatError, MissingExtraError, RangeError, ShapeError
from sona.types import FloatArray

try:
    import torch
    from peft import LoraConfig
    from safetensors.torch import load_file, save_file
except ImportError:
    raise MissingExtraError(
        "adapter directories need peft; install it with: pip install 'sona[peft]'"
    ) from None

__all__ = ["export_adapter", "import_adapter", "merge"]

_PREFIX = "base_model.model."
# How far, in relative terms, an imported effect may be from what it came from.
_TOLERANCE = 1e-4


def export_adapter(
    model: torch.nn.Module,
    engine: SonaEngine,
    layers: Sequence[str],
    path: str | PathLike[str],
    micro: bool = True,
) -> None:
    """Write the adapters of linear modules as a directory that ``peft`` loads.

    Parameters
    ----------
    model : torch.nn.Module
        The model that the adapters belong to; not changed.
    engine : SonaEngine
    layers : sequence of str
        Names of ``torch.nn.Linear`` modules with ``hidden_dim`` outputs, as given to
        :func:`sona.integrations.torch.attach`.
    path : str or path
        Directory; made if missing. Its two files are replaced.
    micro : bool, default True
        Stack micro-LoRA on base-LoRA, as the hooks do.

    Raises
    ------
    RangeError, ShapeError
        If a layer is not there, not linear or of another width; nothing is written.

    Notes
    -----
    Written in float32, with the rank of base-LoRA plus that of micro-LoRA and a scaling of 1.
    A layer without base-LoRA has zeros there. Costs 2 * rank * in * out operations per layer.
    """
    modules = _linear_modules(model, engine, layers)
    biased = all(module.bias is not None for module in modules.values())
    if not biased and any(module.bias is not None for module in modules.values()):
        raise RangeError("`layers` must all have a bias or none, as PEFT has it; export them apart")
    tensors = {}
    bases = [engine.base_lora(name) for name in modules]
    base_rank = max((base.rank for base in bases if base is not None), default=0)
    rank = base_rank + (engine.micro_lora.rank if micro else 0)
    if rank == 0:
        raise RangeError("`layers` must have learned something or `micro` be True; got neither")
    for name, module in modules.items():
        A, B = _stacked(engine, name, base_rank, micro)
        key = f"{_PREFIX}{name}."
        tensors[key + "lora_A.weight"] = (A @ _wide(module.weight)).float().contiguous()
        tensors[key + "lora_B.weight"] = B.float().contiguous()
        if biased:
            tensors[key + "lora_B.bias"] = (B @ (A @ _wide(module.bias))).float()
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_bias=biased,
        target_modules=_targets(model, list(modules)),
        base_model_name_or_path=getattr(model, "name_or_path", None) or None,
        inference_mode=True,
    )
    Path(path).mkdir(parents=True, exist_ok=True)
    save_file(tensors, Path(path) / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(path))


def import_adapter(model: torch.nn.Module, engine: SonaEngine, path: str | PathLike[str]) -> None:
    """Take the LoRA of a PEFT directory as the base-LoRA of an engine.

    Parameters
    ----------
    model : torch.nn.Module
        The model that the directory was made for, without the adapter.
    engine : SonaEngine
        Its ``base_lora_rank`` must reach the directory's rank; directions without effect do not
        count. Micro-LoRA stays as it is.
    path : str or path

    Raises
    ------
    FormatError
        If the directory is not plain LoRA on linear modules.
    RangeError
        If the rank is too high, or if a module's LoRA is no map of its output: where W has fewer
        outputs than inputs, only what lies in its row space is one; where it has a bias, the
        adapter must treat the bias as part of the output. The engine is as it was.

    Notes
    -----
    Solves A W = lora_A by least squares, in double precision: seconds for a width of 4096.
    """
    config, tensors = _read(Path(path))
    names = sorted(key.removesuffix("lora_A.weight") for key in tensors if "lora_A" in key)
    modules = _linear_modules(model, engine, [_layer(name) for name in names])
    found: dict[str, tuple[FloatArray, FloatArray]] = {}
    for key, (name, module) in zip(names, modules.items(), strict=True):
        try:
            A, B = _wide(tensors[key + "lora_A.weight"]), _wide(tensors[key + "lora_B.weight"])
        except KeyError as error:
            raise FormatError(f"`path` lacks the tensor {error}") from None
        if A.shape != (len(A), module.in_features) or B.shape != (module.out_features, len(A)):
            raise FormatError(f"`path` does not fit {name!r}: {tuple(A.shape)}, {tuple(B.shape)}")
        scaling = config["lora_alpha"] / (len(A) ** 0.5 if config["use_rslora"] else len(A))
        bias = tensors.get(key + "lora_B.bias", torch.zeros(len(B)))
        B, bias = B * scaling, _wide(bias) * scaling
        used = (A != 0).any(dim=1) & (B != 0).any(dim=0)
        A, B = A[used], B[:, used]
        if len(A) > engine.config.base_lora_rank:
            raise RangeError(
                f"`path` has rank {len(A)} for {name!r}; the engine's `base_lora_rank` is "
                f"{engine.config.base_lora_rank}"
            )
        own = _on_the_output(A, B, bias, module)
        if own is None:
            raise RangeError(f"`path`: the LoRA of {name!r} is no map of the module's output")
        found[name] = (own.float().numpy(), B.float().numpy())
    for name, (lora_A, lora_B) in found.items():
        engine.set_base_lora(name, lora_A, lora_B)


def merge(
    model: torch.nn.Module, engine: SonaEngine, layers: Sequence[str], micro: bool = True
) -> None:
    """Write the adapters of linear modules into their weights and biases, in place.

    The model then does without hooks what it did with them. Parameters and errors are those of
    :func:`export_adapter`; nothing is changed if a layer is refused.
    """
    for name, module in _linear_modules(model, engine, layers).items():
        base = engine.base_lora(name)
        A, B = _stacked(engine, name, 0 if base is None else base.rank, micro)
        with torch.no_grad():
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    old = _wide(parameter)
                    parameter.copy_(old + B @ (A @ old))


def _linear_modules(
    model: torch.nn.Module, engine: SonaEngine, layers: Sequence[str]
) -> dict[str, torch.nn.Linear]:
    if isinstance(layers, str) or not layers:
        raise RangeError(f"`layers` must name at least one module; got {layers!r}")
    dim = engine.config.hidden_dim
    modules: dict[str, torch.nn.Linear] = {}
    for name in layers:
        try:
            module = model.get_submodule(name)
        except AttributeError:
            raise RangeError(f"`layers`: the model has no module {name!r}") from None
        if type(module) is not torch.nn.Linear:
            raise RangeError(
                f"`layers`: {name!r} must be a torch.nn.Linear to be written as LoRA; "
                f"got {type(module).__name__}"
            )
        if module.out_features != dim:
            raise ShapeError(
                f"`layers`: {name!r} must have {dim} outputs; got {module.out_features}"
            )
        modules[name] = module
    return modules


def _stacked(
    engine: SonaEngine, layer: str, base_rank: int, micro: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A and B, scaling folded into B, of the map that base and then micro make."""
    dim = engine.config.hidden_dim
    A: NDArray[np.float64] = np.zeros((base_rank, dim))
    B: NDArray[np.float64] = np.zeros((dim, base_rank))
    base = engine.base_lora(layer)
    if base is not None:
        A, B = _double(base.lora_A), _double(base.lora_B) * base.scaling
    if micro:
        top = engine.micro_lora
        seen = _double(top.lora_A)
        A = np.concatenate([A, seen + (seen @ B) @ A])
        B = np.concatenate([B, _double(top.lora_B) * top.scaling], axis=1)
    return torch.from_numpy(A), torch.from_numpy(B)


def _double(factor: FloatArray) -> NDArray[np.float64]:
    return factor.astype(np.float64)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _targets(model: torch.nn.Module, names: list[str]) -> list[str] | str:
    """Name the modules so that PEFT, which matches endings, finds these and no others."""
    every = [name for name, _ in model.named_modules()]
    others = set(every) - set(names)
    if not any(other.endswith("." + name) for other in others for name in names):
        return names
    return "|".join(name.replace(".", r"\.") for name in names)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        config = json.loads((path / "adapter_config.json").read_text())
        tensors = load_file(path / "adapter_model.safetensors")
    except (OSError, ValueError) as error:
        raise FormatError(f"`path` is not an adapter directory: {error}") from error
    except Exception as error:  # safetensors has an error of its own that is no ValueError
        raise FormatError(f"`path` holds a damaged adapter: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise FormatError("`path` must hold an adapter of type LORA")
    unknown = [key for key in _UNSUPPORTED if config.get(key)]
    unknown += [key for key in tensors if not key.startswith(_PREFIX) or ".lora_" not in key]
    if unknown:
        raise FormatError(f"`path` has what is not plain LoRA on linear modules: {unknown[:5]}")
    config.setdefault("use_rslora", False)
    if not isinstance(config.get("lora_alpha"), int | float):
        raise FormatError("`path` must say `lora_alpha` as a number")
    return config, tensors


_UNSUPPORTED = ["use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "modules_to_save"]


def _layer(key: str) -> str:
    return key.removeprefix(_PREFIX).removesuffix(".")


def _on_the_output(
    A: torch.Tensor, B: torch.Tensor, bias: torch.Tensor, module: torch.nn.Linear
) -> torch.Tensor | None:
    """Solve own @ W = A and B @ own @ b = bias, where b is the module's; None if there is none."""
    inputs, wanted = _wide(module.weight).T, A.T
    if module.bias is not None:
        seen = torch.linalg.lstsq(B, bias[:, None], driver="gelsy").solution
        inputs = torch.cat([inputs, _wide(module.bias)[None]])
        wanted = torch.cat([wanted, seen.T])
    own = torch.linalg.lstsq(inputs, wanted, driver="gelsy").solution.T
    as_output = 0.0 if module.bias is None else B @ (own @ _wide(module.bias))
    off = torch.linalg.norm(inputs @ own.T - wanted) + torch.linalg.norm(bias - as_output)
    return own if off <= _TOLERANCE * torch.linalg.norm(wanted) else None
