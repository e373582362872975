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
