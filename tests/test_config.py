"""Configuration: checked when made, presets that are only values."""

import pytest

from sona import SonaConfig
from sona.errors import ConfigError, SonaError

PRESETS = [
    "max_throughput",
    "max_quality",
    "edge_deployment",
    "batch_processing",
    "for_ephemeral",
    "for_coordinator",
]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_dim", 0),
        ("hidden_dim", 2.5),
        ("hidden_dim", True),
        ("embedding_dim", -1),
        ("micro_lora_rank", 0),
        ("micro_lora_rank", 3),
        ("base_lora_rank", 0),
        ("micro_lora_lr", -0.1),
        ("base_lora_lr", float("nan")),
        ("ewc_lambda", float("inf")),
        ("pattern_clusters", 0),
        ("trajectory_capacity", 0),
        ("background_interval_ms", 0),
        ("quality_threshold", 1.5),
        ("quality_threshold", "high"),
        ("seed", -1),
    ],
)
def test_a_value_without_meaning_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=f"`{field}` must be .* got "):
        SonaConfig(**{field: value})


def test_a_field_that_is_none_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"`foo` is not a field of SonaConfig; .*seed"):
        SonaConfig(foo=1)
    with pytest.raises(ConfigError, match="`foo`"):
        SonaConfig.edge_deployment(foo=1)


def test_the_error_is_also_a_value_error():
    with pytest.raises(ValueError, match="`hidden_dim`"):
        SonaConfig(hidden_dim=-3)
    assert issubclass(ConfigError, SonaError)


def test_it_cannot_be_changed_afterwards():
    config = SonaConfig()
    with pytest.raises(AttributeError):
        config.seed = 3


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_take_overrides_and_check_them(preset):
    make = getattr(SonaConfig, preset)
    config = make(hidden_dim=48, seed=9)
    assert (config.hidden_dim, config.embedding_dim_, config.seed) == (48, 48, 9)
    with pytest.raises(ConfigError, match="hidden_dim"):
        make(hidden_dim=0)
    with pytest.raises(ConfigError, match="`enable_simd` is not a field"):
        make(enable_simd=True)


def test_presets_differ_from_each_other():
    configs = [getattr(SonaConfig, preset)() for preset in PRESETS] + [SonaConfig()]
    assert len({repr(config) for config in configs}) == len(configs)


def test_embedding_dim_follows_hidden_dim_unless_given():
    assert SonaConfig(hidden_dim=7).embedding_dim_ == 7
    assert SonaConfig(hidden_dim=7, embedding_dim=3).embedding_dim_ == 3
