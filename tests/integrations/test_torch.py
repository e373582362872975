"""Adapters inside a real model, by forward hooks."""

import collections

import numpy as np
import pytest
import torch
from tests.integrations.conftest import DIM, LAYERS
from torch import nn

from sona import SonaConfig, SonaEngine
from sona.errors import (
    BuilderError,
    ConfigError,
    DTypeError,
    NonFiniteError,
    RangeError,
    ShapeError,
)
from sona.integrations.torch import attach


def expected(engine, layer, x):
    """What the engine itself makes of hidden states."""
    rows = x.detach().numpy().reshape(-1, DIM)
    return torch.from_numpy(engine.apply_micro_lora(engine.apply_base_lora(layer, rows))).view(
        x.shape
    )


class Put(nn.Module):
    """Puts out whatever it is given."""

    def forward(self, x):
        return x


def hooked(engine, layer=LAYERS[0], **options):
    """A module of the name that the engine's layer has."""
    root = nn.Module()
    here = root
    for part in layer.split(".")[:-1]:
        child = nn.Module()
        here.add_module(part, child)
        here = child
    here.add_module(layer.split(".")[-1], Put())
    return root.get_submodule(layer), attach(root, engine, [layer], **options)


@pytest.mark.parametrize("shape", [(DIM,), (1, DIM), (3, DIM), (1, 1, DIM), (2, 5, DIM)])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_hook_does_what_the_engine_does(engine, layer, shape):
    module, _ = hooked(engine, layer)
    x = torch.randn(shape)
    before = x.clone()
    for _ in range(2):  # the first pass is recorded, the second is not
        torch.testing.assert_close(module(x), expected(engine, layer, x))
    assert torch.equal(x, before)


@pytest.mark.parametrize(("dtype", "ulp"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_16_bits_are_adapted_in_32(engine, dtype, ulp):
    module, _ = hooked(engine)
    x = torch.randn(2, 5, DIM).to(dtype)
    for _ in range(2):
        y = module(x)
        assert y.dtype is dtype
        torch.testing.assert_close(
            y.float(), expected(engine, LAYERS[0], x.float()), rtol=ulp, atol=ulp
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_torch_operations_do_what_the_kernels_do(engine, dtype):
    module, _ = hooked(engine)
    x = torch.randn(2, 5, DIM).to(dtype)
    wanted = x.clone().requires_grad_()  # needs a gradient: torch's operations
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-5)
    y = module(wanted)
    torch.testing.assert_close(module(x), y.detach(), rtol=tolerance, atol=tolerance)
    y.float().sum().backward()
    assert wanted.grad is not None


def test_other_ways_of_lying_in_memory(engine):
    module, _ = hooked(engine)
    x = torch.randn(DIM, 6).T
    assert not x.is_contiguous()
    for _ in range(2):
        torch.testing.assert_close(module(x), expected(engine, LAYERS[0], x))
        torch.testing.assert_close(
            module(x.half().float()), module(x.half()).float(), atol=4e-3, rtol=4e-3
        )
    assert module(torch.empty(0, DIM)).shape == (0, DIM)


def test_the_gradient_is_that_of_the_whole_map(engine):
    module, _ = hooked(engine)
    x = torch.randn(3, DIM, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,))


def test_what_is_learned_shows_in_the_next_pass(engine):
    module, _ = hooked(engine)
    for x in (torch.randn(2, DIM), torch.randn(2, DIM, requires_grad=True)):
        for _ in range(2):
            before = module(x)
            engine.micro_lora.lora_B = engine.micro_lora.lora_B * 2
            torch.testing.assert_close(module(x), expected(engine, LAYERS[0], x))
            assert not torch.equal(module(x), before)


def test_micro_lora_may_be_left_out(engine):
    module, _ = hooked(engine, micro=False)
    x = torch.randn(4, DIM)
    alone = torch.from_numpy(engine.apply_base_lora(LAYERS[0], x.numpy()))
    torch.testing.assert_close(module(x), alone)
    unknown, _ = hooked(engine, LAYERS[1], micro=False)
    assert torch.equal(unknown(x), x)


def test_tuples_keep_their_other_parts(engine):
    module, _ = hooked(engine)
    pair = collections.namedtuple("Pair", "states cache")
    x, cache = torch.randn(1, 2, DIM), object()
    y = module(pair(x, cache))
    assert type(y) is pair
    assert y.cache is cache
    torch.testing.assert_close(y.states, expected(engine, LAYERS[0], x))
    first, second = module((x, cache))
    assert second is cache
    torch.testing.assert_close(first, y.states)


def test_what_cannot_be_adapted_is_refused(engine):
    module, session = hooked(engine)
    with pytest.raises(DTypeError, match="must return a tensor or a tuple"):
        module({"states": torch.zeros(DIM)})
    for _ in range(2):
        with pytest.raises(ShapeError, match=rf"must return \(..., {DIM}\); got \(2, 7\)"):
            module(torch.zeros(2, 7))
        module(torch.zeros(2, DIM))
    with pytest.raises(NonFiniteError, match=r"down_proj' must put out finite numbers"):
        module(torch.tensor([[0.0] * DIM, [float("nan")] * DIM]))
    session.detach()
    assert torch.isnan(module(torch.full((DIM,), float("nan")))).all()


@pytest.mark.parametrize("layers", [[], "model", ["nowhere"], [LAYERS[0], LAYERS[0]]])
def test_layers_must_be_there(llama, engine, layers):
    with pytest.raises(RangeError, match="`layers`"):
        attach(llama, engine, layers)
    assert not any(module._forward_hooks for module in llama.modules())


def test_a_wrong_name_is_answered_with_near_ones(llama, engine):
    with pytest.raises(RangeError, match=r"did you mean .*'model\.layers\.0\.mlp"):
        attach(llama, engine, ["model.layer.0.mlp"])


def test_a_module_has_one_session(llama, engine):
    with attach(llama, engine, LAYERS), pytest.raises(ConfigError, match="has a session already"):
        attach(llama, engine, LAYERS[:1])
    with attach(llama, engine, LAYERS) as session:
        assert session.layers == LAYERS


# In a whole model


@torch.no_grad()
def test_detaching_leaves_the_model_as_it_was(llama, engine, tokens):
    before = llama(tokens).logits
    with attach(llama, engine, LAYERS) as session:
        during = llama(tokens).logits
        session.detach()
        assert torch.equal(llama(tokens).logits, before)
    assert not torch.allclose(during, before, atol=1e-4)
    assert torch.equal(llama(tokens).logits, before)
    assert not any(module._forward_hooks for module in llama.modules())


def test_an_error_detaches_too(llama, engine, tokens):
    with pytest.raises(KeyError), attach(llama, engine, LAYERS):
        raise KeyError
    assert not any(module._forward_hooks for module in llama.modules())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_it_generates(llama, engine, tokens, dtype):
    llama = llama.to(dtype)
    with attach(llama, engine, LAYERS) as session:
        new = llama.generate(tokens, max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert new.shape == (2, 9)
        session.feedback([0.9, 0.1])
    assert engine.stats().trajectories_seen == 2


@torch.no_grad()
def test_a_request_is_remembered_by_its_prompt(llama, engine, tokens):
    seen = []
    handle = llama.get_submodule(LAYERS[1]).register_forward_hook(
        lambda module, args, output: seen.append(output.clone())
    )
    with attach(llama, engine, LAYERS) as session:
        llama.generate(tokens, max_new_tokens=3, do_sample=False, pad_token_id=0)
        engine.force_learn()
        session.feedback([0.9, 0.2], route="small")
    handle.remove()
    prompt = seen[0].mean(dim=1).numpy()
    # The layer's patterns are its states, so they are found where they are looked for.
    memory = engine._layers["layer " + repr(LAYERS[1])]
    stored = memory._inputs[:2]
    np.testing.assert_allclose(
        stored, prompt / np.linalg.norm(prompt, axis=1, keepdims=True), atol=1e-5
    )
    assert engine.stats().routes["small"].count == 2


@torch.no_grad()
def test_one_number_judges_everything(llama, engine, tokens):
    with attach(llama, engine, LAYERS) as session:
        llama(tokens)
        session.feedback(0.7)
        assert engine.stats().trajectories_seen == 1
        with pytest.raises(BuilderError, match="needs a forward pass"):
            session.feedback(0.7)
        llama(tokens)
        session.discard()
        with pytest.raises(BuilderError):
            session.feedback(0.7)


@torch.no_grad()
def test_refused_feedback_changes_nothing(llama, engine, tokens):
    with attach(llama, engine, LAYERS) as session:
        llama(tokens)
        before = engine.to_bytes()
        for wrong in (1.5, [0.5], [0.5, 2.0], "good"):
            with pytest.raises((RangeError, ShapeError, DTypeError)):
                session.feedback(wrong)
        with pytest.raises(ShapeError, match="`embedding` must have 2 rows; got 1"):
            session.feedback([0.1, 0.2], embedding=np.ones(DIM))
        assert engine.to_bytes() == before
        session.feedback([0.1, 0.2], embedding=np.ones((2, DIM)))
    assert engine.stats().trajectories_seen == 2


@torch.no_grad()
def test_embeddings_of_another_width_must_be_given(llama, tokens):
    engine = SonaEngine(SonaConfig(hidden_dim=DIM, embedding_dim=8))
    with attach(llama, engine, LAYERS) as session:
        llama(tokens)
        with pytest.raises(ConfigError, match="`embedding` must be given"):
            session.feedback(0.5)
        session.feedback(0.5, embedding=np.ones(8))
    assert engine.stats().trajectories_seen == 1


@torch.no_grad()
def test_feedback_teaches_both_adapters():
    """Two kinds of request, one route good for each: the adapters must move."""
    torch.manual_seed(0)
    engine = SonaEngine(SonaConfig(hidden_dim=16))
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh())
    kinds = torch.randn(2, 8)
    with attach(model, engine, ["0"]) as session:
        plain = model(kinds)
        session.discard()
        for turn in range(120):
            kind = turn % 2
            route = "ab"[(turn // 2) % 2]
            model(kinds[kind] + 0.7 * torch.randn(1, 8))
            session.feedback(0.9 if route == "ab"[kind] else 0.1, route=route)
            if turn == 60:
                engine.force_learn()
        result = engine.force_learn()
        assert result.base_lora_updated
        assert engine.base_lora("0").lora_B.any()
        assert engine.micro_lora.lora_B.any()
        assert not torch.allclose(model(kinds), plain, atol=1e-3)


# What torch does around hooks


def run(model, tokens):
    model.train()
    loss = model(tokens, labels=tokens).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_works(llama, engine, tokens, reentrant):
    with attach(llama, engine, LAYERS) as session:
        loss, gradients = run(llama, tokens)
        llama.zero_grad()
        llama.enable_input_require_grads()
        llama.activation_checkpointing_enable({"use_reentrant": reentrant})
        session.discard()
        again, same = run(llama, tokens)
        session.feedback([0.5, 0.5])
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(same, gradients)


def test_a_pass_computed_again_is_not_a_request(llama, engine, tokens):
    llama.activation_checkpointing_enable({"use_reentrant": False})
    llama.train()
    with attach(llama, engine, LAYERS) as session:
        loss = llama(tokens, labels=tokens).loss
        session.feedback(0.5)
        loss.backward()
        with pytest.raises(BuilderError):
            session.feedback(0.5)


def test_compiling_after_attaching_works(engine):
    model = nn.Sequential(nn.Linear(8, DIM), nn.ReLU())
    x = torch.randn(2, 8)
    with torch.no_grad():
        bare = model(x)
        with attach(model, engine, ["0"]) as session:
            eager = model(x)
            session.discard()
            compiled = torch.compile(model, backend="eager")
            for _ in range(3):
                torch.testing.assert_close(compiled(x), eager)
            session.feedback([0.5, 0.5])
            assert engine.stats().trajectories_seen == 2
            torch.testing.assert_close(compiled(x), model(x))
        torch.testing.assert_close(compiled(x), bare)
    torch._dynamo.reset()


def test_a_compiled_model_is_refused(engine):
    model = torch.compile(nn.Sequential(nn.Linear(8, DIM)), backend="eager")
    with pytest.raises(ConfigError, match="attach before"):
        attach(model, engine, ["0"])
