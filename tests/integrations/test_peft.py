"""Adapter directories, with PEFT itself at the other end."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file, save_file
from tests.integrations.conftest import DIM, LAYERS
from torch import nn

from sona import SonaConfig, SonaEngine
from sona.errors import FormatError, RangeError, ShapeError
from sona.integrations.peft import export_adapter, import_adapter, merge
from sona.integrations.torch import attach


@torch.no_grad()
def with_hooks(model, engine, tokens, micro=True, layers=LAYERS):
    with attach(model, engine, layers, micro=micro):
        return model(tokens).logits


@torch.no_grad()
@pytest.mark.parametrize("micro", [True, False])
def test_peft_loads_the_effect_of_the_hooks(llama, engine, tokens, tmp_path, micro):
    wanted = with_hooks(llama, engine, tokens, micro)
    plain = llama(tokens).logits
    export_adapter(llama, engine, LAYERS, tmp_path, micro=micro)
    adapted = PeftModel.from_pretrained(llama, tmp_path)
    torch.testing.assert_close(adapted(tokens).logits, wanted, rtol=0, atol=1e-5)
    assert not torch.allclose(plain, wanted, atol=1e-3)
    with adapted.disable_adapter():
        torch.testing.assert_close(adapted(tokens).logits, plain)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(tokens).logits, wanted, rtol=0, atol=1e-5)


def test_peft_saves_again_what_it_loaded(llama, engine, tmp_path):
    export_adapter(llama, engine, LAYERS, tmp_path / "ours")
    PeftModel.from_pretrained(llama, tmp_path / "ours").save_pretrained(tmp_path / "again")
    ours, again = (load_file(tmp_path / d / "adapter_model.safetensors") for d in ("ours", "again"))
    assert ours.keys() == again.keys()
    assert all(torch.equal(ours[key], again[key]) for key in ours)
    first, second = (
        json.loads((tmp_path / d / "adapter_config.json").read_text()) for d in ("ours", "again")
    )
    for config in (first, second):  # a set and a name that PEFT fills in
        config["target_modules"] = sorted(config["target_modules"])
        config.pop("base_model_name_or_path")
        config.pop("auto_mapping")
        config.pop("task_type")
    assert first == second


@torch.no_grad()
def test_peft_swaps_it_in_place(llama, engine, tokens, tmp_path):
    export_adapter(llama, engine, LAYERS, tmp_path / "before")
    engine.micro_lora.lora_B = -engine.micro_lora.lora_B
    engine.set_base_lora(LAYERS[1], np.eye(4, DIM), np.eye(DIM, 4) * 0.2)
    wanted = with_hooks(llama, engine, tokens)
    export_adapter(llama, engine, LAYERS, tmp_path / "after")
    adapted = PeftModel.from_pretrained(llama, tmp_path / "before")
    assert not torch.allclose(adapted(tokens).logits, wanted, atol=1e-3)
    hotswap_adapter(adapted, str(tmp_path / "after"), adapter_name="default")
    torch.testing.assert_close(adapted(tokens).logits, wanted, rtol=0, atol=1e-5)
    adapted.load_adapter(str(tmp_path / "before"), adapter_name="old")
    adapted.set_adapter("old")
    assert not torch.allclose(adapted(tokens).logits, wanted, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("micro", [True, False])
def test_merging_replaces_the_hooks(llama, engine, tokens, micro):
    wanted = with_hooks(llama, engine, tokens, micro)
    merge(llama, engine, LAYERS, micro=micro)
    torch.testing.assert_close(llama(tokens).logits, wanted, rtol=0, atol=1e-5)


class Biased(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, DIM)
        self.out = nn.Linear(DIM, DIM)
        self.last = nn.Linear(DIM, DIM, bias=False)

    def forward(self, x):
        return self.last(self.out(torch.tanh(self.inner(x))))


@torch.no_grad()
def test_a_bias_is_part_of_the_output(engine, tmp_path):
    torch.manual_seed(0)
    model, x = Biased(), torch.randn(5, 8)
    with attach(model, engine, ["inner", "out"]):
        wanted = model(x)
    export_adapter(model, engine, ["inner", "out"], tmp_path)
    adapted = PeftModel.from_pretrained(model, tmp_path)
    torch.testing.assert_close(adapted(x), wanted, rtol=0, atol=1e-5)
    model = adapted.unload()
    other = SonaEngine(SonaConfig(hidden_dim=DIM, base_lora_rank=8))
    import_adapter(model, other, tmp_path)
    with attach(model, other, ["inner", "out"], micro=False):
        torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-5)
    merge(model, engine, ["inner", "out"])
    torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-5)
    with pytest.raises(RangeError, match="all have a bias or none"):
        export_adapter(model, engine, ["inner", "last"], tmp_path / "none")


@torch.no_grad()
def test_a_name_that_ends_another_is_adapted_alone(engine, tmp_path):
    model = nn.ModuleDict({"proj": nn.Linear(DIM, DIM), "deep": nn.ModuleDict()})
    model["deep"]["proj"] = nn.Linear(DIM, DIM)
    export_adapter(model, engine, ["proj"], tmp_path)
    adapted = PeftModel.from_pretrained(model, tmp_path)
    assert {n for n, _ in adapted.named_parameters() if "lora_A" in n} == {
        "base_model.model.proj.lora_A.default.weight"
    }


# Import


@torch.no_grad()
def test_what_was_exported_comes_back(llama, engine, tokens, tmp_path):
    wanted = with_hooks(llama, engine, tokens)
    export_adapter(llama, engine, LAYERS, tmp_path)
    other = SonaEngine(SonaConfig(hidden_dim=DIM, base_lora_rank=8))
    import_adapter(llama, other, tmp_path)
    found = with_hooks(llama, other, tokens, micro=False)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    again = SonaEngine.from_bytes(other.to_bytes())
    assert torch.equal(with_hooks(llama, again, tokens, micro=False), found)


@torch.no_grad()
def test_what_peft_trained_comes_in_and_goes_on_learning(llama, tokens, tmp_path):
    config = LoraConfig(r=3, lora_alpha=7, use_rslora=True, target_modules=["o_proj"])
    config.init_lora_weights = False
    tuned = get_peft_model(llama, config)
    wanted = tuned(tokens).logits
    tuned.save_pretrained(tmp_path)
    llama = tuned.unload()
    engine = SonaEngine(SonaConfig(hidden_dim=DIM, base_lora_rank=5))
    import_adapter(llama, engine, tmp_path)
    layers = ["model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"]
    torch.testing.assert_close(
        with_hooks(llama, engine, tokens, layers=layers, micro=False), wanted, rtol=0, atol=1e-4
    )
    assert engine.base_lora(layers[0]).lora_A[3:].any()  # directions that can still learn


def rewrite(path, **changes):
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [{"peft_type": "LOHA"}, {"use_dora": True}, {"rank_pattern": {"a": 1}}, {"lora_alpha": None}],
)
def test_other_kinds_of_adapters_are_refused(llama, engine, tmp_path, changes):
    export_adapter(llama, engine, LAYERS, tmp_path, micro=False)
    rewrite(tmp_path, **changes)
    before = engine.to_bytes()
    with pytest.raises(FormatError, match="`path`"):
        import_adapter(llama, engine, tmp_path)
    assert engine.to_bytes() == before


def test_a_rank_that_does_not_fit_is_refused(llama, engine, tmp_path):
    export_adapter(llama, engine, LAYERS, tmp_path)
    before = engine.to_bytes()
    with pytest.raises(RangeError, match=r"rank 6 .* `base_lora_rank` is 4"):
        import_adapter(llama, engine, tmp_path)
    assert engine.to_bytes() == before


def test_damage_is_refused(llama, engine, tmp_path):
    with pytest.raises(FormatError):
        import_adapter(llama, engine, tmp_path)
    export_adapter(llama, engine, LAYERS, tmp_path, micro=False)
    file = tmp_path / "adapter_model.safetensors"
    whole = load_file(file)
    save_file({k: v for k, v in whole.items() if "lora_B" not in k}, file)
    with pytest.raises(FormatError, match="lacks the tensor"):
        import_adapter(llama, engine, tmp_path)
    save_file({**whole, "base_model.model.lm_head.weight": torch.zeros(2)}, file)
    with pytest.raises(FormatError, match="not plain LoRA"):
        import_adapter(llama, engine, tmp_path)
    file.write_bytes(b"\xff" * 100)
    with pytest.raises(FormatError, match="damaged"):
        import_adapter(llama, engine, tmp_path)


def test_lora_that_is_no_map_of_the_output_is_refused(tmp_path):
    """Fewer outputs than inputs: most of what LoRA can say lies outside the row space."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3 * DIM, DIM, bias=False))
    config = LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
    tuned = get_peft_model(model, config)
    tuned.save_pretrained(tmp_path)
    engine = SonaEngine(SonaConfig(hidden_dim=DIM))
    with pytest.raises(RangeError, match="no map of the module's output"):
        import_adapter(tuned.unload(), engine, tmp_path)


def test_what_cannot_be_written_is_refused(llama, engine, tmp_path):
    target = tmp_path / "none"
    for layers, error, match in [
        (["model.layers.0.mlp"], RangeError, r"must be a torch\.nn\.Linear"),
        (["model.layers.0.mlp.up_proj"], ShapeError, "must have 32 outputs; got 48"),
        (["nowhere"], RangeError, "no module 'nowhere'"),
        ([], RangeError, "at least one module"),
    ]:
        for write in (export_adapter, merge):
            arguments = (target,) if write is export_adapter else ()
            with pytest.raises(error, match=match):
                write(llama, engine, layers, *arguments)
    with pytest.raises(RangeError, match="must have learned something"):
        export_adapter(llama, engine, LAYERS[1:], target, micro=False)
    assert not target.exists()
