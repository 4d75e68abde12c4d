"""ACK and FORWARD at every bound. tests/core/test_vectors.py has the bytes of good ones."""

from refusals import reason

from fleetnet.errors import LIMIT, PROTOCOL
from fleetnet.frame import decode_ack, encode_forward
from fleetnet.limits import MAX_SEQUENCE, MAX_STREAM, MAX_WINDOW
from fleetnet.receiver import decode_forward, put_ack
from fleetnet.varint import put_varint


def ack(window, number=3, durable=7, bitmap=b""):
    out = bytearray()
    put_varint(out, window)
    put_ack(out, number, durable, bitmap)
    return bytes(out)


def forward(*pairs):
    out = bytearray()
    for number, oldest in pairs:
        out.append(number)
        put_varint(out, oldest)
    return bytes(out)


def test_window_bounds():
    for window, wanted in ((0, None), (MAX_WINDOW, None), (MAX_WINDOW + 1, LIMIT)):
        assert reason(lambda: decode_ack(ack(window))) == wanted, window
    assert decode_ack(b"\x05") == (5, [])


def test_streams_of_an_acknowledgement():
    for number in range(1, MAX_STREAM + 1):
        assert decode_ack(ack(1, number, 9, b"\x80")) == (1, [(number, 9, b"\x80")])
    for number in (0, MAX_STREAM + 1, 255):
        assert reason(lambda: decode_ack(ack(1, number))) == PROTOCOL, number


def test_an_acknowledgement_that_is_cut_off_is_refused():
    whole = ack(1, 3, 300, b"\x01\x02") + ack(1, 4, 1)[1:]
    assert decode_ack(whole) == (1, [(3, 300, b"\x01\x02"), (4, 1, b"")])
    borders = (1, 7, len(whole))
    for end in range(1, len(whole) + 1):
        refused = reason(lambda: decode_ack(whole[:end]))
        assert refused == (None if end in borders else PROTOCOL), end
    assert reason(lambda: decode_ack(b"")) == PROTOCOL


def test_forward_carries_every_stream_to_the_end_of_the_range():
    marks = {number: MAX_SEQUENCE + 1 - number for number in range(1, MAX_STREAM + 1)}
    marks[MAX_STREAM] = MAX_SEQUENCE + 1
    marks[2] = 1
    assert decode_forward(encode_forward(marks)) == marks
    assert decode_forward(b"") == {}


def test_forward_bounds():
    for number, oldest in (
        (0, 1), (MAX_STREAM + 1, 1), (255, 1), (3, 0), (3, MAX_SEQUENCE + 2), (0, 0),
    ):  # fmt: skip
        assert reason(lambda: decode_forward(forward((number, oldest)))) == PROTOCOL, number
    assert reason(lambda: decode_forward(forward((3, 1), (3, 2)))) == PROTOCOL
    assert reason(lambda: decode_forward(forward((3, 300))[:-1])) == PROTOCOL
    assert reason(lambda: decode_forward(b"\x03")) == PROTOCOL
