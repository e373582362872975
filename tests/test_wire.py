"""The envelope: damage is found, strangers are refused, nothing is executed."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from sona import wire
from sona.errors import FormatError, IntegrityError, VersionError


class Header(msgspec.Struct):
    name: str


def message() -> bytes:
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0, 4), np.int32)}
    return wire.pack("test", 1, Header("x"), tensors)


def test_what_was_written_is_read():
    header, tensors = wire.unpack(message(), "test", 1, Header)
    assert header.name == "x"
    np.testing.assert_array_equal(tensors["a"], [[0, 1, 2], [3, 4, 5]])
    assert tensors["b"].shape == (0, 4)
    assert not tensors["a"].flags.writeable


def test_any_safetensors_reader_can_look_inside():
    np.testing.assert_array_equal(load(message())["a"], [[0, 1, 2], [3, 4, 5]])


def sealed(entries: dict, body: bytes) -> bytes:
    """A message whose head says what it likes of its tensors."""
    told = msgspec.json.encode({"kind": "test", "version": 1, "header": "{}", "crc32": 0}).decode()
    head = msgspec.json.encode({"__metadata__": {"sona": told}, **entries})
    return len(head).to_bytes(8, "little") + head + body


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "entries",
    [
        {"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)},  # over each other
        {"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)},  # a hole
        {"a": entry("F32", [2], 0, 8)},  # not all of it
        {"a": entry("F32", [4], 0, 16)},  # beyond the end
        {"a": entry("F32", [2], 0, 12)},  # another size than its shape has
        {"a": entry("F32", [3], -12, 0)},
        {"a": entry("F32", [-1, -3], 0, 12)},
        {"a": entry("BF16", [6], 0, 12)},
        {"a": entry("F32", [0, 2**70], 0, 0), "b": entry("F32", [3], 0, 12)},
        {"a": entry("F32", [1] * 99 + [3], 0, 12)},
        {"a": 3},
    ],
)
def test_a_head_that_lies_about_its_tensors_is_refused(entries):
    with pytest.raises(FormatError, match="`data` is not a"):
        wire.unpack(sealed(entries, bytes(12)), "test", 1, dict)


def test_every_flipped_byte_is_found():
    data = message()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x41
        with pytest.raises(FormatError):
            wire.unpack(damaged, "test", 1, Header)


def test_a_flipped_tensor_byte_is_called_damage():
    damaged = bytearray(message())
    damaged[-1] ^= 1
    with pytest.raises(IntegrityError, match="damaged"):
        wire.unpack(damaged, "test", 1, Header)


def test_every_truncation_is_refused():
    data = message()
    for length in range(len(data)):
        with pytest.raises(FormatError):
            wire.unpack(data[:length], "test", 1, Header)


@given(st.binary(max_size=300))
def test_noise_is_refused(data):
    with pytest.raises(FormatError):
        wire.unpack(data, "test", 1, Header)


def test_another_kind_or_version_is_refused():
    with pytest.raises(FormatError, match="'other'"):
        wire.unpack(message(), "other", 1, Header)
    with pytest.raises(VersionError, match="version 2"):
        wire.unpack(message(), "test", 2, Header)


def test_a_message_over_the_limit_is_refused_unparsed():
    with pytest.raises(FormatError, match="at most 10 bytes"):
        wire.unpack(message(), "test", 1, Header, max_bytes=10)


def test_deep_json_is_refused():
    with pytest.raises(FormatError):
        wire.decode_json("[" * 100_000, list)


def test_the_digest_names_content():
    tensors = {"a": np.ones(3, np.float32)}
    name = wire.digest(Header("x"), tensors)
    assert name == wire.digest(Header("x"), {"a": np.ones(3, np.float32)})
    assert name != wire.digest(Header("y"), tensors)
    assert name != wire.digest(Header("x"), {"a": np.ones((3, 1), np.float32)})
    assert name != wire.digest(Header("x"), {"b": np.ones(3, np.float32)})
