"""Frame headers and datagrams: sizes, limits, pieces. tests/core/test_vectors.py has the bytes."""

from refusals import reason

from fleetnet import frame
from fleetnet.errors import LIMIT, PROTOCOL
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

# Numbers on the wire: a fleet has devices of many versions, so none is ever given again.
KINDS = {
    "HELLO": 0x01, "WELCOME": 0x02, "REFUSE": 0x03, "BYE": 0x04, "BYE_ACK": 0x05, "PING": 0x06,
    "PONG": 0x07, "ACK": 0x08, "FORWARD": 0x09, "MESSAGE": 0x10, "READINGS": 0x10, "RAW": 0x11,
    "EVENT": 0x12, "LOG": 0x13, "CALL": 0x18, "RESULT": 0x19, "CONFIG": 0x20,
    "CONFIG_STATE": 0x21, "BLOB": 0x28, "BLOB_CHUNK": 0x29, "BLOB_STATE": 0x2A,
    "CREDENTIAL": 0x30, "CREDENTIAL_STATE": 0x31, "RELAY": 0x38, "OPTIONAL": 0x80,
}  # fmt: skip
STREAMS = {"CONTROL": 0, "COMMANDS": 1, "EVENTS": 2, "TELEMETRY": 3, "LOGS": 4, "BLOBS": 5}
FLAGS = {"STREAM_MASK": 0x0F, "SEQUENCED": 0x10, "MORE": 0x20}


def test_the_numbers_on_the_wire_stay():
    for numbers in (KINDS, STREAMS, FLAGS):
        for name, number in numbers.items():
            assert getattr(frame, name) == number, name


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


def test_every_byte_count_of_length_and_sequence_at_its_edges():
    """Values at which a number grows by a byte, whole, cut by one byte, and with one more."""
    for size in (0, 1, 126, 127, 128, 129, 16383, 16384):
        for seq in (1, 126, 127, 128, 129, 16383, 16384, MAX_SEQUENCE):
            data = encode_frame(0x10, SEQUENCED | 3, seq, bytes(size))
            wanted = (0x10, SEQUENCED | 3, seq, len(data) - size, len(data))
            assert decode_frame(data, 0, 65535) == wanted
            assert decode_frame(data + b"\xff", 0, 65535) == wanted
            assert decode_frame(data[:-1], 0, 65535) is None


def test_a_length_of_more_than_three_bytes_is_refused():
    padded = b"\x10\x03\x80\x80\x80\x01" + bytes(10)
    assert reason(lambda: decode_frame(padded, 0, 65535)) == PROTOCOL
    assert reason(lambda: decode_frame(b"\x10\x03\xff\xff\x7f" + bytes(10), 0, 65535)) == LIMIT
    # The shortest form of 2**21 needs four.
    assert reason(lambda: decode_frame(b"\x10\x03\xff\xff\xff\x00" + bytes(9), 0, 1 << 22)) == (
        PROTOCOL
    )


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
    assert pack_datagrams([full]) == [full]
    whole = encode_frame(0x10, 3, 0, bytes(DATAGRAM_PAYLOAD - len(small) - 4))
    assert len(small + whole) == DATAGRAM_PAYLOAD
    assert pack_datagrams([whole, small, small]) == [whole + small, small]
    assert pack_datagrams([full, whole, small]) == [full, whole + small]
    longer = encode_frame(0x10, 3, 0, bytes(DATAGRAM_PAYLOAD - len(small) - 3))
    assert pack_datagrams([small, longer, small]) == [small, longer, small]
    assert pack_datagrams([small, whole]) == [small + whole]
