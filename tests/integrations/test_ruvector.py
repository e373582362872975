"""What the Rust crate and its npm package leave behind comes in, and has an effect here."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from sona import SonaConfig, SonaEngine
from sona.errors import FormatError, RangeError, ShapeError
from sona.integrations.ruvector import as_trajectories, read_micro_lora, read_patterns

# Written by @ruvector/sona 0.1.8 itself; npm_patterns.cjs beside it made it.
NPM = Path(__file__).parent / "data" / "npm_patterns.json"


@pytest.fixture
def layouts(tmp_path):
    """The same four patterns in the three layouts of the crate; the first is its own writing."""
    patterns = json.loads(NPM.read_text())
    snake = [
        {
            "id": int(p["id"]),
            "centroid": p["centroid"],
            "cluster_size": p["clusterSize"],
            "total_weight": p["totalWeight"],
            "avg_quality": p["avgQuality"],
            "created_at": int(p["createdAt"]),
            "last_accessed": int(p["lastAccessed"]),
            "access_count": p["accessCount"],
            "pattern_type": p["patternType"],
        }
        for p in patterns
    ]
    state = {"version": 1, "patterns": snake, "ewc_task_count": 0, "instant_enabled": True}
    (tmp_path / "state.json").write_text(json.dumps(state))
    with (tmp_path / "patterns.jsonl").open("w") as lines:
        for p in snake:
            row = {
                "id": str(p["id"]),
                "embedding": p["centroid"],
                "cluster_size": p["cluster_size"],
                "avg_quality": p["avg_quality"],
                "pattern_type": "general",
                "access_count": 0,
                "metadata": {"source": "sona", "version": "0.1.4", "target_model": "phi-4"},
            }
            lines.write(json.dumps(row) + "\n")
    return [NPM, tmp_path / "state.json", tmp_path / "patterns.jsonl"]


def test_three_layouts_are_the_same_patterns(layouts):
    for path in layouts:
        patterns = read_patterns(path)
        assert [p.id for p in patterns] == [0, 2, 1, 3]
        assert [p.cluster_size for p in patterns] == [74, 80, 70, 76]
        assert [round(p.avg_quality, 3) for p in patterns] == [0.5, 0.9, 0.9, 0.5]
        for pattern in patterns:
            assert abs(np.linalg.norm(pattern.centroid) - 1.0) < 1e-6


def test_imported_patterns_are_found_counted_and_not_doubled():
    engine = SonaEngine(SonaConfig(hidden_dim=8))
    for trajectory in as_trajectories(read_patterns(NPM)):
        engine.submit_trajectory(trajectory)
    engine.force_learn()
    assert sorted(p.cluster_size for p in engine.patterns) == [70, 74, 76, 80]
    assert engine.stats().trajectories_seen == 300
    first, second = (engine.find_patterns(query, 1)[0] for query in np.eye(8)[:2])
    assert first.similarity > 0.99
    assert second.similarity > 0.99
    assert (round(first.avg_quality, 2), round(second.avg_quality, 2)) == (0.5, 0.9)


def test_micro_lora_adapts_as_it_does_there(tmp_path, rng):
    dim, rank = 12, 2
    down, up = rng.standard_normal((2, rank, dim)).astype(np.float32)
    name = "base_model.model.layers.0.self_attn.micro_lora_{}.weight"
    path = tmp_path / "adapter_model.safetensors"
    # As the crate writes it: the up-projection's rows of the rank, under the shape (dim, rank).
    tensors = {name.format("A"): down, name.format("B"): up.reshape(dim, rank)}
    safetensors.numpy.save_file(tensors, path)
    x = rng.standard_normal(dim).astype(np.float32)
    # MicroLoRA::forward_scalar: output[i] += sum_r (x . down[r]) * up[r][i] / sqrt(rank)
    wanted = x + sum((x @ down[r]) * up[r] for r in range(rank)) / np.sqrt(rank)
    np.testing.assert_allclose(read_micro_lora(path).apply(x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "error", "word"),
    [
        ("{}", FormatError, "patterns|version"),
        ('[{"id": "x"}]', FormatError, "centroid"),
        ("not json", FormatError, "JSON"),
        ("", FormatError, "JSON"),
        (
            '{"version": 1, "patterns": [{"id": 1, "centroid": [1, 0], "cluster_size": 3,'
            ' "total_weight": 1, "avg_quality": 7}]}',
            RangeError,
            "avg_quality",
        ),
        (
            '{"version": 1, "patterns": ['
            '{"id": 1, "centroid": [1, 0], "cluster_size": 3, "total_weight": 1, "avg_quality": 1},'
            '{"id": 2, "centroid": [1], "cluster_size": 3, "total_weight": 1, "avg_quality": 1}]}',
            ShapeError,
            "centroid",
        ),
    ],
)
def test_what_is_none_of_them_is_refused_by_name(tmp_path, text, error, word):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(error, match=word):
        read_patterns(tmp_path / "s.json")


def test_a_file_without_micro_lora_is_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    with pytest.raises(FormatError, match="micro-LoRA"):
        read_micro_lora(tmp_path / "a.safetensors")
    safetensors.numpy.save_file({"x": np.zeros(2, np.float32)}, tmp_path / "b.safetensors")
    with pytest.raises(FormatError, match="micro-LoRA"):
        read_micro_lora(tmp_path / "b.safetensors")
