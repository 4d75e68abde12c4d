"""Variable-length integers: every step of length, and what is refused."""

from fleetnet.errors import ProtocolError
from fleetnet.varint import put_varint, take_varint

EDGES = (0, 1, 0x7F, 0x80, 0x3FFF, 0x4000, 0x1FFFFF, 0x200000, 0xFFFFFFF, 0x10000000, (1 << 35) - 1)
SIZES = (1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)


def encoded(value):
    out = bytearray()
    put_varint(out, value)
    return bytes(out)


def refusal(data, at=0, max_bytes=5):
    try:
        take_varint(data, at, max_bytes)
    except ProtocolError as error:
        return str(error)
    return ""


def test_edges_of_each_length():
    for value, size in zip(EDGES, SIZES):
        data = encoded(value)
        assert len(data) == size, value
        assert take_varint(data, 0) == (value, size)
        assert take_varint(b"\xff" + data + b"\xff", 1) == (value, size + 1)


def test_times_take_seven_bytes():
    value = (1 << 49) - 1
    assert take_varint(encoded(value), 0, 7) == (value, 7)
    assert "longer than 7" in refusal(encoded(value + 1), 0, 7)


def test_five_bytes_are_the_limit_unless_told():
    assert take_varint(encoded((1 << 35) - 1), 0) == ((1 << 35) - 1, 5)
    assert "longer than 5" in refused(encoded(1 << 35))


def refused(data):
    try:
        take_varint(data, 0)
    except ProtocolError as error:
        return str(error)
    return ""


def test_a_two_byte_form_of_a_small_value_is_refused_at_once():
    for value in range(0x80):
        assert "shortest" in refusal(bytes((value | 0x80, 0))), value


def test_refusals():
    assert "cut off" in refusal(b"")
    assert "cut off" in refusal(b"\x80")
    assert "cut off" in refusal(b"\x01", 1)
    assert "longer than 5" in refusal(b"\x80\x80\x80\x80\x80\x01")
    assert "longer than 3" in refusal(b"\x80\x80\x80\x01", 0, 3)
    assert "shortest" in refusal(b"\x80\x00")
    assert "shortest" in refusal(b"\xff\x80\x00")
    assert not refusal(b"\x00")
