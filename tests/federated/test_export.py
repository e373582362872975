"""Exports: exact, small, self-describing, and the crate's JSON both ways."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sona import errors, wire
from sona.errors import FormatError, IntegrityError, NonFiniteError, RangeError, ShapeError
from sona.federated import AgentExport, AgentExportStats, TrajectoryExport

SERDE = Path(__file__).parent / "data" / "serde_export.json"

texts = st.text(min_size=1, max_size=8)
finite32 = st.floats(allow_nan=False, allow_infinity=False, width=32)


@st.composite
def exports(draw):
    dim = draw(st.integers(1, 5))
    rows = draw(
        st.lists(
            st.builds(
                TrajectoryExport,
                hnp.arrays(np.float32, dim, elements=finite32),
                st.floats(0, 1),
                st.none() | texts,
                st.lists(texts, max_size=3),
                st.integers(0, 2**62),
            ),
            max_size=6,
        )
    )
    return AgentExport(
        draw(texts), rows, None, draw(st.integers(0, 2**40)), draw(st.integers(0, 2**62))
    )


@given(exports())
def test_binary_round_trip_is_exact(export):
    again = AgentExport.from_bytes(export.to_bytes())
    assert again == export
    assert again.trajectories == export.trajectories
    assert again.session == export.session
    assert again.stats.total_trajectories == export.stats.total_trajectories


@given(exports())
def test_json_round_trip_is_exact(export):
    again = AgentExport.from_json(export.to_json())
    assert again.trajectories == export.trajectories
    assert again.session == export.session
    assert again == export


@given(exports())
def test_what_came_as_bytes_is_written_as_those_bytes(export):
    data = export.to_bytes()
    read = AgentExport.from_bytes(data)
    assert read.to_bytes() is data
    assert read.export_id == export.export_id
    rounded = export.to_bytes(embedding_dtype="float16") if small(export) else data
    again = AgentExport.from_bytes(rounded)
    assert AgentExport.from_bytes(again.to_bytes()) == again


def small(export):
    return bool((np.abs(export.trajectories.embeddings) < 6e4).all())


def test_bytes_of_another_writer_are_written_anew():
    """Same content, other order of texts: one identity, so one form."""
    row = TrajectoryExport([1.0], 0.5, "a", ("b",))
    export = AgentExport("agent", [row])
    header = msgspec.to_builtins(export._message(np.float32)[1])
    texts, tensors = export.trajectories.columns()
    header["texts"] = texts[::-1]
    swapped = {name: 1 - tensors[name] for name in ("routes", "context_tags")}
    read = AgentExport.from_bytes(wire.pack("sona.export", 1, header, {**tensors, **swapped}))
    assert read == export
    assert read.to_bytes() == export.to_bytes()


def test_json_of_serde_is_read_and_written_byte_for_byte():
    text = SERDE.read_text().strip()
    export = AgentExport.from_json(text)
    assert export.agent_id == "agent-1"
    assert [row.route for row in export.trajectories] == ["code", None, "café", "code"]
    assert export.trajectories[3].context == ("file:0.rs", "file:1.rs", "file:2.rs")
    assert export.stats.avg_quality == 0.6625
    assert export.to_json() == text


def test_the_two_forms_carry_one_identity():
    export = AgentExport.from_json(SERDE.read_text())
    assert AgentExport.from_bytes(export.to_bytes()).export_id == export.export_id


def test_json_with_unknown_fields_is_read_as_serde_does():
    raw = json.loads(SERDE.read_text())
    raw["added_later"] = 1
    assert len(AgentExport.from_json(json.dumps(raw)).trajectories) == 4


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda raw: raw.pop("timestamp"), "timestamp"),
        (lambda raw: raw["trajectories"][2].update(quality=None), r"\$\.trajectories\[\.*\d*"),
        (lambda raw: raw["trajectories"][1].update(embedding="x"), "embedding"),
        (lambda raw: raw["stats"].update(total_trajectories="many"), "stats"),
    ],
)
def test_json_that_breaks_the_layout_is_refused_with_its_place(change, place):
    raw = json.loads(SERDE.read_text())
    change(raw)
    with pytest.raises(FormatError, match=place):
        AgentExport.from_json(json.dumps(raw))


def test_ragged_embeddings_name_the_row():
    rows = [TrajectoryExport([1.0, 2.0], 0.5), TrajectoryExport([1.0], 0.5)]
    with pytest.raises(ShapeError, match=r"`trajectories\[1\]\.embedding` must have shape \(2,\)"):
        AgentExport("a", rows)


def test_an_infinite_row_travels_in_binary_and_is_refused_as_json():
    export = AgentExport("a", [TrajectoryExport([np.inf], 0.5)])
    assert AgentExport.from_bytes(export.to_bytes()) == export
    with pytest.raises(NonFiniteError):
        export.to_json()


def test_size_of_500_trajectories(rng):
    vectors = rng.standard_normal((500, 384)).astype(np.float32)
    rows = [TrajectoryExport(vector, 0.5, "route", ["tag"], 7) for vector in vectors]
    export = AgentExport("a", rows)
    raw = vectors.nbytes
    assert len(export.to_bytes()) <= 1.05 * raw
    assert len(export.to_bytes(embedding_dtype="float16")) <= 0.525 * raw


def test_float16_rounds_and_says_so(rng):
    export = AgentExport("a", [TrajectoryExport(rng.standard_normal(8), 0.5)])
    half = AgentExport.from_bytes(export.to_bytes(embedding_dtype="float16"))
    np.testing.assert_allclose(
        half.trajectories.embeddings, export.trajectories.embeddings, rtol=1e-3
    )
    assert half.export_id != export.export_id
    with pytest.raises(RangeError, match="float16"):
        AgentExport("a", [TrajectoryExport([1e6], 0.5)]).to_bytes(embedding_dtype="float16")


def test_exports_cannot_be_altered():
    export = AgentExport("a", [TrajectoryExport([1.0], 0.5)])
    with pytest.raises(AttributeError):
        export.agent_id = "b"
    with pytest.raises(ValueError, match="read-only"):
        export.trajectories[0].embedding[0] = 3.0


def test_stats_are_computed_when_not_given():
    rows = [TrajectoryExport([1.0], 0.25), TrajectoryExport([1.0], 0.75)]
    assert AgentExport("a", rows).stats.avg_quality == 0.5
    assert AgentExport("a", rows, AgentExportStats(9, 0.9, 9)).stats.total_trajectories == 9


def test_bad_texts_are_refused():
    with pytest.raises(RangeError, match="`agent_id`"):
        AgentExport("", [])
    with pytest.raises(RangeError, match=r"`trajectories\[0\]\.route`"):
        AgentExport("a", [TrajectoryExport([1.0], 0.5, "x" * 2000)])


@pytest.mark.parametrize("stride", [7])
def test_damaged_bytes_are_refused(stride):
    data = AgentExport.from_json(SERDE.read_text()).to_bytes()
    for position in range(0, len(data), stride):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(FormatError):
            AgentExport.from_bytes(damaged)
    damaged = bytearray(data)
    damaged[-1] ^= 1
    with pytest.raises(IntegrityError):
        AgentExport.from_bytes(damaged)


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"embedding": np.ones(2, np.complex64)}, "DTypeError"),
        ({"embedding": np.ones(2, np.int32)}, "DTypeError"),
        ({"embedding": [[1.0, 2.0], [3.0]]}, "ShapeError"),
        ({"timestamp": 1 << 63}, "RangeError"),
        ({"timestamp": -1}, "RangeError"),
        ({"route": "\ud800"}, "RangeError"),
    ],
)
def test_what_could_never_be_written_is_refused_by_name(row, error):
    with pytest.raises(getattr(errors, error), match=r"`trajectories\[0\]"):
        AgentExport("a", [TrajectoryExport(**{"embedding": [1.0, 2.0], "quality": 0.5, **row})])


def test_a_time_beyond_64_bits_is_refused():
    with pytest.raises(RangeError, match="`timestamp`"):
        AgentExport("a", timestamp=1 << 63)
    with pytest.raises(RangeError, match="`session_duration_ms`"):
        AgentExport("a", session_duration_ms=-1)
