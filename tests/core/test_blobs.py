"""Blob frames, the receiving half's memory, and a sender that is told nonsense."""

from fleetnet import limits
from fleetnet.blob_receiver import BlobReceiver
from fleetnet.blob_sender import BlobSender
from fleetnet.blobs import (
    RECEIVING,
    REFUSED,
    STORED,
    UNKNOWN,
    Offer,
    State,
    check_name,
    decode_chunk,
    decode_offer,
    decode_state,
    put_chunk_head,
)
from fleetnet.errors import ProtocolError
from fleetnet.frame import BLOB, BLOB_CHUNK


def offer_of(size=10_000, chunk=1120):
    return Offer(5, size, chunk, b"h" * 32, "frame")


def refuses(action):
    try:
        action()
    except ProtocolError:
        return True
    return False


class Zeros:
    def read_into(self, offset, view):
        view[:] = b"\0" * len(view)


def new_sender():
    done = []
    sender = BlobSender(1120, lambda offer, state: done.append(state))
    sender.start(offer_of(), Zeros())
    sender.open_link(80)
    return sender, done


def answered(sender, now=0, credit=64):
    """Let the sender ask, and answer that nothing is held; return the echo."""
    kind, payload = sender.next_frame(now)
    assert kind == BLOB
    state = State(5, RECEIVING, decode_offer(payload).number)
    state.credit = credit
    sender.receive(state.to_payload(), now)
    return state.echo


def test_offer_whole_and_cut():
    offer = offer_of()
    offer.number = 300
    offer.content_format = 22
    offer.base_ms = 1_700_000_000_000
    offer.boot = 7
    payload = offer.to_payload()
    again = decode_offer(payload)
    for name in ("id", "number", "size", "chunk", "content_format", "base_ms", "boot", "name"):
        assert getattr(again, name) == getattr(offer, name)
    assert again.sha256 == offer.sha256
    for end in range(len(payload) - 5):
        assert refuses(lambda: decode_offer(payload[:end])), end
    assert refuses(lambda: decode_offer(payload[:-5]))
    assert refuses(lambda: decode_offer(payload + b"n" * 60))
    assert refuses(lambda: decode_offer(payload[:-1] + b"\xff"))


def test_offers_out_of_range():
    for id, chunk, number in ((0, 1120, 1), (5, 255, 1), (5, 4097, 1), (5, 1120, 0)):
        offer = Offer(id, 10, chunk, b"h" * 32, "frame")
        offer.number = number
        assert refuses(lambda: decode_offer(offer.to_payload()))


def test_names():
    check_name("n" * 64)
    for name in ("", "n" * 65):
        try:
            check_name(name)
            raise AssertionError(name)
        except ValueError:
            pass


def test_chunk_and_state_bytes():
    head = bytearray()
    put_chunk_head(head, 5, 200, 300, True)
    assert decode_chunk(bytes(head) + b"data")[:4] == (5, 200, 300, True)
    assert bytes(decode_chunk(bytes(head) + b"data")[4]) == b"data"
    state = State(5, RECEIVING, 300)
    state.credit, state.held, state.bitmap = 64, 10, b"\x05"
    again = decode_state(state.to_payload())
    assert (again.echo, again.credit, again.held) == (300, 64, 10)
    assert [i for i in range(30) if again.has(i)] == list(range(10)) + [11, 13]
    refused = State(5, REFUSED)
    refused.reason, refused.detail = 1, "no"
    again = decode_state(refused.to_payload())
    assert (again.reason, again.detail) == (1, "no")


def test_states_that_are_refused():
    for payload in (
        b"",
        b"\x05",
        b"\x05\x04",
        b"\x05\x00",
        b"\x05\x00\x01\x40",
        b"\x05\x00\x01\x40\x00" + b"\xff" * 33,
        b"\x05\x02",
        b"\x05\x02\x01\xff",
        b"\x05\x03",
        b"\x80" * 9,
    ):
        assert refuses(lambda: decode_state(payload)), payload


def test_receiver_takes_chunks_in_any_order_and_tells_of_holes():
    receiver = BlobReceiver(offer_of(5 * 1120 - 20))
    assert [receiver.wants(4, 1100), receiver.wants(2, 1120)] == [True, True]
    receiver.take(4)
    receiver.take(2)
    assert not receiver.wants(2, 1120)
    state = receiver.state(5, 9)
    assert (state.held, state.bitmap, state.echo) == (0, b"\x0a", 9)
    for index in (0, 1, 3):
        assert receiver.wants(index, 1120)
        receiver.take(index)
    assert receiver.is_complete
    assert receiver.state(5, 9).bitmap == b""
    assert not receiver.wants(0, 1120)
    assert receiver.duplicates == 2


def test_receiver_refuses_what_cannot_be():
    receiver = BlobReceiver(offer_of(5 * 1120 - 20))
    for index, length in ((5, 1120), (4, 1120), (0, 1119), (1 << 30, 1120)):
        assert refuses(lambda: receiver.wants(index, length))


def test_receiver_of_a_huge_offer_keeps_little():
    receiver = BlobReceiver(Offer(1, (1 << 32) - 1, 256, b"h" * 32, "x"))
    assert not receiver.wants(limits.BLOB_SPAN, 256)
    assert receiver.wants(limits.BLOB_SPAN - 1, 256)
    receiver.take(limits.BLOB_SPAN - 1)
    assert len(receiver.state(1, 1).to_payload()) < 50


def test_sender_sends_nothing_before_the_answer():
    sender, _ = new_sender()
    assert sender.next_frame(0)[0] == BLOB
    assert sender.next_frame(0) is None
    assert sender.next_timer() is not None


def test_sender_ignores_states_of_others_and_of_the_past():
    sender, done = new_sender()
    answered(sender)
    before = sender.next_frame(0)
    sender.receive(State(6, STORED).to_payload(), 0)
    sender.receive(State(5, UNKNOWN, 0).to_payload(), 0)
    assert not done
    assert before[0] == sender.next_frame(0)[0] == BLOB_CHUNK


def test_sender_refuses_states_that_cannot_be():
    sender, done = new_sender()
    echo = answered(sender)
    for held, number in ((10, echo), (0, echo + 50)):
        state = State(5, RECEIVING, number)
        state.credit, state.held = 64, held
        assert refuses(lambda: sender.receive(state.to_payload(), 0))
    assert not done


def test_sender_survives_a_server_that_claims_and_withdraws():
    """Held goes up and down, bits beyond the end, credit beyond reason: it only ever sends."""
    sender, done = new_sender()
    number = answered(sender, credit=1 << 30)
    assert len(sender._flying) == 0
    while sender.next_frame(0) is not None:
        number += 1
    assert len(sender._flying) <= limits.BLOB_WINDOW
    for held in (9, 0, 4):
        state = State(5, RECEIVING, number)
        state.credit, state.held, state.bitmap = 64, held, b"\xff" * 32
        sender.receive(state.to_payload(), 0)
        assert sender.next_frame(0) is None
    sender.receive(State(5, STORED).to_payload(), 0)
    assert [state.status for state in done] == [STORED]
    assert sender.next_frame(0) is None
    assert sender.next_timer() is None


def test_sender_tells_a_refusal():
    sender, done = new_sender()
    answered(sender)
    state = State(5, REFUSED)
    state.reason = 1
    sender.receive(state.to_payload(), 0)
    assert [(state.status, state.reason) for state in done] == [(REFUSED, 1)]


def test_a_cancelled_blob_is_silent():
    sender, done = new_sender()
    answered(sender)
    sender.cancel()
    assert sender.next_frame(0) is None
    assert sender.next_timer() is None
    sender.receive(State(5, STORED).to_payload(), 0)
    assert not done


def test_every_chunk_fits_its_frame():
    """Largest id, index and number: still one datagram, or one record."""
    from fleetnet.frame import encode_frame, pack_datagrams

    for chunk, most in ((limits.BLOB_CHUNK, 1150), (limits.BLOB_STREAM_CHUNK, 4096)):
        head = bytearray()
        put_chunk_head(head, limits.MAX_BLOB, limits.MAX_BLOB // 256, limits.MAX_BLOB, True)
        encoded = encode_frame(BLOB_CHUNK, 5, 0, bytes(head) + b"\0" * chunk)
        assert len(encoded) <= most
        assert pack_datagrams([encoded]) == [encoded]
