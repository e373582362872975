"""Overhead of a hook on one token, beside an empty hook and beside torch operations.

    python -m bench.integrations.hooks

The module is `torch.nn.Identity`, which hides nothing. Rank 2, hidden size 4096, float32, one
thread. Bounds: at most 1.3 times an empty hook plus one apply; at most half of torch operations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from bench.kernels.timing import Case, Contestant, measure

from sona import SonaConfig, SonaEngine
from sona.integrations.torch import attach

DIM = 4096


def case() -> Case:
    rng = np.random.default_rng(0)
    engine = SonaEngine(SonaConfig(hidden_dim=DIM, micro_lora_rank=2))
    engine.micro_lora.lora_B = rng.standard_normal((DIM, 2)) / DIM**0.5
    x = rng.standard_normal(DIM).astype(np.float32)
    token = torch.from_numpy(x).reshape(1, 1, DIM).clone()
    wanted = torch.from_numpy(engine.apply_micro_lora(x)).reshape(1, 1, DIM)
    A = torch.from_numpy(engine.micro_lora.lora_A.copy()).T
    B = torch.from_numpy(np.ascontiguousarray(engine.micro_lora.lora_B)).T

    empty, ours, theirs = (torch.nn.Identity() for _ in range(3))
    empty.register_forward_hook(lambda module, args, output: None)
    theirs.register_forward_hook(lambda module, args, output: output + (output @ A) @ B)
    attach(torch.nn.ModuleDict({"out": ours}), engine, ["out"])

    def check(result: Any) -> None:
        adapted = torch.as_tensor(result).reshape(token.shape)
        if not torch.equal(adapted, token):
            torch.testing.assert_close(adapted, wanted)

    return Case(
        "hook on one token",
        [
            Contestant("empty hook", lambda: empty(token), torch.inference_mode),
            Contestant("one apply", lambda: engine.apply_micro_lora(x)),
            Contestant("sona hook", lambda: ours(token), torch.inference_mode),
            Contestant("torch operations", lambda: theirs(token), torch.inference_mode),
        ],
        check,
    )


def main() -> None:
    torch.set_num_threads(1)
    results = {result.name: result for result in measure(case(), rounds=40, budget=6.0)}
    for column in ("seconds", "median_seconds"):
        t = {name: 1e6 * getattr(result, column) for name, result in results.items()}
        bound = t["sona hook"] / (t["empty hook"] + t["one apply"])
        print(
            "min   " if column == "seconds" else "median",
            "  ".join(f"{name} {value:.2f} us" for name, value in t.items()),
            f"| {bound:.2f} of empty hook + apply, "
            f"{t['sona hook'] / t['torch operations']:.2f} of torch operations",
        )


if __name__ == "__main__":
    main()
