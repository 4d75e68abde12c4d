"""Frame headers and datagrams: sizes, limits, pieces. tests/core/test_vectors.py has the bytes."""

from fleetnet.errors import LIMIT, PROTOCOL, ProtocolError
from fleetnet.frame import (
    MORE,
    SEQUENCED,
    FrameSplitter,
    decode_frame,
    encode_frame,
    pack_datagrams,
    split_datagram,
)
from fleetnet.limits import DATAGRAM_PAYLOAD, FRAGMENT_PAYLOAD, MAX_SEQUENCE


def reason(action):
    try:
        action()
    except ProtocolError as error:
        return error.reason
    return None


def test_header_is_three_to_ten_bytes():
    for payload_size, seq, size in (
        (0, 0, 3), (127, 0, 3), (128, 0, 4), (16383, 0, 4), (16384, 0, 5), (65535, 0, 5),
        (100, 1, 4), (100, 127, 4), (100, 128, 5), (100, 16384, 6), (100, 2097152, 7),
        (100, 268435456, 8), (65535, MAX_SEQUENCE, 10),
    ):  # fmt: skip
        flags = SEQUENCED | 3 if seq else 3
        data = encode_frame(0x10, flags, seq, bytes(payload_size))
        assert len(data) - payload_size == size
        head = decode_frame(data, 0, 65535)
        assert head == (0x10, flags, seq, size, len(data))


def test_a_cut_header_waits_and_a_cut_datagram_is_refused():
    data = encode_frame(0x10, SEQUENCED | 3, MAX_SEQUENCE, bytes(200))
    for end in range(len(data)):
        assert decode_frame(data[:end], 0, 4096) is None
    assert split_datagram(b"", 4096) == []
    assert reason(lambda: split_datagram(data[:-1], 4096)) == PROTOCOL
    assert reason(lambda: split_datagram(data + b"\x10", 4096)) == PROTOCOL


def test_the_limit_is_checked_before_the_payload_is_there():
    data = encode_frame(0x10, 3, 0, bytes(301))
    assert reason(lambda: decode_frame(data[:4], 0, 300)) == LIMIT
    assert decode_frame(data[:4], 0, 301) is None
    splitter = FrameSplitter(300)
    assert splitter.split(data[:3]) == []
    assert reason(lambda: splitter.split(data[3:4])) == LIMIT


def test_stream_bits_and_more():
    for stream in range(16):
        data = encode_frame(0x11, SEQUENCED | MORE | stream, 9, b"x")
        assert split_datagram(data, 10) == [(0x11, SEQUENCED | MORE | stream, 9, b"x")]
    assert reason(lambda: split_datagram(encode_frame(0x11, MORE, 0, b""), 10)) == PROTOCOL
    for reserved in (0x40, 0x80, 0xC0):
        data = encode_frame(0x11, reserved, 0, b"")
        assert reason(lambda: split_datagram(data, 10)) == PROTOCOL


def test_sequence_bounds():
    for seq in (0, MAX_SEQUENCE + 1, (1 << 35) - 1):
        data = encode_frame(0x10, SEQUENCED | 3, seq, bytes(10))
        assert reason(lambda: split_datagram(data, 4096)) == PROTOCOL, seq


def test_splitter_keeps_one_incomplete_frame():
    one = encode_frame(0x10, 3, 0, b"one")
    two = encode_frame(0x11, 3, 0, b"two")
    splitter = FrameSplitter(100)
    assert splitter.split(one + two[:4]) == [(0x10, 3, 0, b"one")]
    assert splitter.split(b"") == []
    assert splitter.split(two[4:] + one) == [(0x11, 3, 0, b"two"), (0x10, 3, 0, b"one")]


def test_datagrams_are_filled_and_never_too_large():
    full = encode_frame(0x10, SEQUENCED | 3, MAX_SEQUENCE, bytes(FRAGMENT_PAYLOAD))
    assert len(full) <= DATAGRAM_PAYLOAD
    small = encode_frame(0x10, 3, 0, bytes(97))
    assert pack_datagrams([small] * 23) == [small * 11, small * 11, small]
    assert pack_datagrams([small, full, small]) == [small, full, small]
    whole = encode_frame(0x10, 3, 0, bytes(DATAGRAM_PAYLOAD - len(small) - 4))
    assert pack_datagrams([small, whole]) == [small + whole]
