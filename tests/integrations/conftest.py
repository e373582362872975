"""A small Llama, and engines whose adapters have learned something."""

from __future__ import annotations

import os

import numpy as np
import pytest

# What these libraries would fetch from a hub or a price list while they are imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

from sona import SonaConfig, SonaEngine

DIM = 32
LAYERS = ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.o_proj"]


@pytest.fixture
def llama():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=DIM,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def engine():
    """Micro-LoRA and one layer with base-LoRA that both move a state visibly."""
    engine = SonaEngine(SonaConfig(hidden_dim=DIM, base_lora_rank=4))
    rng = np.random.default_rng(1)
    engine.micro_lora.lora_B = rng.normal(size=(DIM, 2)) * 0.5
    engine.set_base_lora(
        LAYERS[0], rng.normal(size=(4, DIM)) * 0.3, rng.normal(size=(DIM, 4)) * 0.3, scaling=0.5
    )
    return engine


@pytest.fixture
def tokens():
    import torch

    return torch.randint(0, 50, (2, 5), generator=torch.Generator().manual_seed(2))
