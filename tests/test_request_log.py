"""Logs: JSON lines and Parquet say the same, faults come with their row, order is of time."""

import datetime
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sona.errors import FormatError
from sona.request_log import read_log

ROWS = [
    {"embedding": [0.5, 1.0], "route": "a", "quality": 0.25, "agent": "x", "timestamp": 7},
    {"vector": [1.0, 0.0], "route": "b", "quality": 1, "timestamp": 3, "context": ["t", "u"]},
    {"embedding": [1.0, 0.0, 0.0], "route": "b", "quality": 1.0},
    {"embedding": [1.0, 0.0], "route": "b", "quality": 1.5},
    {"embedding": [1.0, 0.0], "quality": 1.0},
    {"route": "b", "quality": 1.0},
    {"embedding": [1.0, 0.0], "route": "", "quality": 1.0},
]


def write_json(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path, rows):
    # A table has every column, null where a row says nothing.
    columns = list(dict.fromkeys(key for row in rows for key in row)) or ["embedding"]
    rows = [{key: row.get(key) for key in columns} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)


def described(log):
    return [
        (t.embedding.tolist(), t.route, t.quality, t.context, t.timestamp, agent)
        for t, agent in log.requests
    ]


@pytest.mark.parametrize(("name", "write"), [("l.jsonl", write_json), ("l.parquet", write_parquet)])
def test_a_log_is_read_in_order_of_time_and_faults_are_numbered(tmp_path, name, write):
    write(tmp_path / name, ROWS)
    log = read_log(tmp_path / name)
    assert described(log) == [
        ([1.0, 0.0], "b", 1.0, ("t", "u"), 3, "agent"),
        ([0.5, 1.0], "a", 0.25, (), 7, "x"),
    ]
    assert [fault.number for fault in log.faults] == [3, 4, 5, 6, 7]
    for fault, word in zip(log.faults, ("(2,)", "1.5", "route", "missing", "route"), strict=True):
        assert word in fault.why


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("ab"), st.integers(0, 9)), max_size=8))
def test_both_forms_of_a_log_are_the_same_log(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("log")
    rows = [{"embedding": [q, 1.0], "route": r, "quality": q, "timestamp": t} for q, r, t in rows]
    write_json(folder / "l.jsonl", rows)
    write_parquet(folder / "l.parquet", rows)
    assert described(read_log(folder / "l.jsonl")) == described(read_log(folder / "l.parquet"))


def test_parquet_may_hold_float32_vectors_and_timestamps(tmp_path):
    moment = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "embedding": pa.array([[0.1, 0.2]], pa.list_(pa.float32(), 2)),
            "route": ["a"],
            "quality": pa.array([0.5], pa.float32()),
            "timestamp": pa.array([moment], pa.timestamp("us", tz="UTC")),
            "something": [None],
        }
    )
    pq.write_table(table, tmp_path / "l.parquet")
    (trajectory,) = read_log(tmp_path / "l.parquet").trajectories
    assert trajectory.embedding.tolist() == np.float32([0.1, 0.2]).tolist()
    assert trajectory.timestamp == int(moment.timestamp() * 1000)


def test_what_is_no_parquet_file_is_refused(tmp_path):
    (tmp_path / "l.parquet").write_text("{}")
    with pytest.raises(FormatError, match="Parquet"):
        read_log(tmp_path / "l.parquet")
