"""Tagged fields and greetings: what they carry, what they skip, what they refuse."""

from refusals import reason

from fleetnet.acceptor import decode_hello, encode_welcome
from fleetnet.errors import LIMIT, PROTOCOL, VERSION
from fleetnet.fields import FieldReader, FieldWriter
from fleetnet.handshake import (
    Ending,
    Hello,
    Welcome,
    check_welcome,
    decode_ending,
    decode_welcome,
)
from fleetnet.limits import MAX_RETRY_AFTER_MS, MAX_SEQUENCE


def greeting(kind=Hello):
    made = kind()
    made.epoch = b"12345678"
    made.nonce = b"nnnn"
    return made


def test_fields_and_their_defaults():
    out = FieldWriter()
    out.put_int(1, 300)
    out.put_bytes(200, b"\x00\x01")
    out.put_text(3, "größer")
    fields = FieldReader(out.to_payload())
    assert fields.get_int(1) == 300 and fields.get_int(9, 7) == 7
    assert fields.get_bytes(200, size=2) == b"\x00\x01" and fields.get_bytes(9) == b""
    assert fields.get_text(3) == "größer" and fields.get_text(9) == ""
    assert fields.has(1) and not fields.has(9)
    assert reason(lambda: fields.get_bytes(200, size=3)) == PROTOCOL
    assert reason(lambda: fields.get_int(200)) == PROTOCOL  # a number and one byte more
    for wanted in (0, 1):
        assert reason(lambda: fields.get_bytes(200, size=wanted)) == PROTOCOL, wanted
    for value, size in (((1 << 35) - 1, 5), (1 << 35, 6)):
        out = FieldWriter()
        out.put_int(1, value)
        number = FieldReader(out.to_payload())
        assert number.get_int(1, max_bytes=size) == value
        assert (reason(lambda: number.get_int(1)) is None) == (size == 5)
    assert reason(lambda: FieldReader(b"\x01\x01\x80").get_int(1)) == PROTOCOL


def test_text_is_cut_and_must_be_utf8():
    out = FieldWriter()
    out.put_text(1, "x" * 500)
    assert FieldReader(out.to_payload()).get_text(1) == "x" * 200
    out.put_bytes(2, b"y" * 500)
    assert FieldReader(out.to_payload()).get_text(2) == "y" * 200
    out.put_bytes(3, b"\xc3\x28")
    assert reason(lambda: FieldReader(out.to_payload()).get_text(3)) == PROTOCOL


def test_field_lists_are_bounded():
    out = FieldWriter()
    for tag in range(32):
        out.put_int(tag, 1)
    FieldReader(out.to_payload())
    out.put_int(32, 1)
    assert reason(lambda: FieldReader(out.to_payload())) == LIMIT
    assert reason(lambda: FieldReader(b"\x01\x01\x00\x01\x01\x00")) == PROTOCOL  # twice
    assert reason(lambda: FieldReader(b"\x01\x05\x00")) == PROTOCOL  # cut off


def test_unknown_fields_are_skipped():
    payload = greeting().to_payload() + b"\x7e\x02hi"
    assert decode_hello(payload).epoch == b"12345678"


def test_greeting_needs_version_epoch_and_nonce():
    for field in (b"\x01\x02\x01\x00", b"\x04\x0812345678", b"\x08\x04nnnn"):
        whole = greeting().to_payload()
        assert field in whole
        assert reason(lambda: decode_hello(whole.replace(field, b""))) == PROTOCOL


def test_max_frame_bounds():
    for size, wanted in ((255, LIMIT), (256, None), (65535, None), (65536, LIMIT)):
        hello = greeting()
        hello.max_frame = size
        assert reason(lambda: decode_hello(hello.to_payload())) == wanted, size


def test_stream_states_and_resume_points_are_checked():
    for number, oldest, following, good in (
        (1, 1, 1, True), (15, 5, 9, True), (3, MAX_SEQUENCE, MAX_SEQUENCE + 1, True),
        (0, 1, 1, False), (16, 1, 1, False), (3, 0, 1, False), (3, 5, 4, False),
        (3, 1, MAX_SEQUENCE + 2, False),
    ):  # fmt: skip
        hello = greeting()
        hello.streams = {number: (oldest, following)}
        refused = reason(lambda: decode_hello(hello.to_payload()))
        assert (refused is None) == good, (number, oldest, following)
    for number, point, good in ((3, 0, True), (15, MAX_SEQUENCE, True), (0, 1, False),
                                (16, 1, False), (3, MAX_SEQUENCE + 1, False)):  # fmt: skip
        welcome = greeting(Welcome)
        welcome.peer_epoch = b"87654321"
        welcome.resume = {number: point}
        refused = reason(lambda: decode_welcome(encode_welcome(welcome)))
        assert (refused is None) == good, (number, point)


def test_welcome_bounds():
    for name, value, good in (
        ("window", 0, True), ("window", 1024, True), ("window", 1025, False),
        ("keepalive_ms", 999, False), ("keepalive_ms", 1000, True),
        ("keepalive_ms", 86_400_000, True), ("keepalive_ms", 86_400_001, False),
        ("ack_delay_ms", 10_000, True), ("ack_delay_ms", 10_001, False),
    ):  # fmt: skip
        welcome = greeting(Welcome)
        setattr(welcome, name, value)
        refused = reason(lambda: decode_welcome(encode_welcome(welcome)))
        assert (refused is None) == good, (name, value)


def test_check_welcome():
    welcome = greeting(Welcome)
    welcome.peer_epoch = b"mine----"
    welcome.max_frame = 1136
    check_welcome(welcome, b"mine----", 1136)
    assert reason(lambda: check_welcome(welcome, b"mine----", 1137)) == LIMIT
    assert reason(lambda: check_welcome(welcome, b"other---", 1136)) == PROTOCOL
    welcome.version = (2, 0)
    assert reason(lambda: check_welcome(welcome, b"mine----", 1136)) == VERSION
    welcome.version = (1, 9)
    check_welcome(welcome, b"mine----", 1136)


def test_ending():
    ending = decode_ending(Ending(7, 1234, "why").to_payload())
    assert (ending.reason, ending.retry_after_ms, ending.detail) == (7, 1234, "why")
    assert decode_ending(b"").reason == 0
    long = decode_ending(Ending(7, MAX_RETRY_AFTER_MS * 9).to_payload())
    assert long.retry_after_ms == MAX_RETRY_AFTER_MS
