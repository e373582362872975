"""Patterns as tables hold what the engine holds, in both forms."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from sona import SonaConfig, SonaEngine, Trajectory
from sona.errors import FormatError
from sona.integrations.patterns import write_patterns


@pytest.fixture
def engine(rng):
    engine = SonaEngine(SonaConfig(hidden_dim=6))
    for i in range(60):
        x = np.float32(np.eye(6)[i % 3] + 0.05 * rng.standard_normal(6))
        engine.submit_trajectory(Trajectory(x, (i % 5) / 4, "ab"[i % 2]))
    engine.force_learn()
    return engine


def test_both_forms_hold_every_field_of_every_pattern(engine, tmp_path):
    for name in ("p.jsonl", "p.parquet"):
        assert write_patterns(tmp_path / name, engine.patterns) == len(engine.patterns) > 1
    from_json = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    from_parquet = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert from_json == from_parquet
    for row, pattern in zip(from_parquet, engine.patterns, strict=True):
        assert np.float32(row["centroid"]).tobytes() == pattern.centroid.tobytes()
        assert (row["id"], row["cluster_size"]) == (pattern.id, pattern.cluster_size)
        routes = {r["route"]: (r["count"], r["mean"], r["variance"]) for r in row["routes"]}
        assert routes == {name: (s.count, s.mean, s.variance) for name, s in pattern.routes.items()}


def test_an_empty_bank_has_the_same_columns(engine, tmp_path):
    write_patterns(tmp_path / "full.parquet", engine.patterns)
    assert write_patterns(tmp_path / "empty.parquet", []) == 0
    schemas = [pq.read_schema(tmp_path / name) for name in ("full.parquet", "empty.parquet")]
    assert schemas[0] == schemas[1]


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(FormatError, match=r"\.parquet or \.jsonl"):
        write_patterns(tmp_path / "p.csv", [])
    assert not list(tmp_path.iterdir())
