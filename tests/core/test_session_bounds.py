"""The session at its bounds: what each state takes and says, and when, to the millisecond."""

from session_rig import (
    acceptor,
    carry,
    closed,
    frames,
    kinds,
    pair,
    random_bytes,
    said,
)

from fleetnet import errors
from fleetnet import frame as wire
from fleetnet.blob_sender import BlobSender
from fleetnet.blobs import RECEIVING, Offer, State
from fleetnet.frame import decode_ack, encode_frame
from fleetnet.limits import FRAGMENT_PAYLOAD, WINDOW
from fleetnet.receiver import Gap
from fleetnet.session import CLOSING, DOWN, GREETING, OVER, Session

LINKS = (True, False)


class Zeros:
    """Content of a blob."""

    def read_into(self, offset, view):
        view[:] = bytes(len(view))


def with_blob(session):
    """Give a session a blob of three chunks to send."""
    session.bulk = BlobSender(1000, lambda offer, state: None)
    session.bulk.start(Offer(5, 3000, 1000, b"h" * 32, "frame"), Zeros())
    return session.bulk


# -- the owner's side ----------------------------------------------------------------


def test_send_says_the_number_and_has_room_says_when_it_can():
    device = Session(random_bytes())
    for seq in range(1, WINDOW):
        assert device.send(3, 0x10, b"x") == seq
    assert device.has_room(3) and device.has_room(3, FRAGMENT_PAYLOAD)
    assert not device.has_room(3, FRAGMENT_PAYLOAD + 1)
    device.send(3, 0x10, b"x")
    assert not device.has_room(3) and device.has_room(2)


def test_give_up_reaches_the_sender():
    device = Session(random_bytes())
    device.send(3, 0x10, b"x")
    device.give_up(3, 2)
    assert device.sender.streams[3].frames == []


def test_a_best_effort_message_is_one_frame_on_an_open_link():
    device, _ = pair()
    assert device.send_live(3, 0x10, bytes(FRAGMENT_PAYLOAD)) is True
    assert device.send_live(3, 0x10, bytes(FRAGMENT_PAYLOAD + 1)) is False
    assert device.live_dropped == 1
    assert kinds(device.data_to_send(0)) == [0x10]
    assert device.data_to_send(0) == [], "once"
    device.bye(0)
    assert device.send_live(3, 0x10, b"") is False and device.live_dropped == 2


def test_acknowledge_counts_on_an_open_link_and_behind_our_bye():
    for datagram in LINKS:
        device, server = pair(datagram)
        device.send(3, 0x10, b"x")
        device.send(3, 0x10, b"y")
        carry(device, server)
        server.acknowledge(3, 1, 0)
        server.bye(5)
        acks = [decode_ack(payload)[1][0][:2] for payload in said(server, wire.ACK, 5)]
        assert acks == [(3, 1)] and server.state == CLOSING
        server.acknowledge(3, 2, 50)
        assert server.next_timer() == 50
        acks = [decode_ack(payload)[1][0][:2] for payload in said(server, wire.ACK, 50)]
        assert acks == [(3, 2)]


def test_acknowledge_waits_for_the_session():
    device, server = pair()
    server.send(1, wire.CALL, b"x")
    carry(server, device)
    device.close_link()
    device.acknowledge(1, 1, 10)
    assert device.state == DOWN and device.receiver.resume_points() == {1: 0}
    device.open_link(20, True)
    device.acknowledge(1, 1, 30)
    assert device.state == GREETING and device.receiver.resume_points() == {1: 0}


def test_events_leave_in_their_order_and_once():
    device, server = pair()
    for payload in (b"a", b"b", b"c"):
        device.send(3, 0x10, payload)
    carry(device, server)
    assert [event.payload for event in server.take_events()] == [b"a", b"b", b"c"]
    assert server.take_events() == []


# -- what leaves -----------------------------------------------------------------------


def test_one_call_hands_out_two_records():
    device, _ = pair(False)
    for _ in range(20):
        device.send(3, 0x10, bytes(1019))  # 1,024 B with its header
    assert [len(data) for data in device.data_to_send(0)] == [8192]


def test_before_the_session_is_open_nothing_but_hello_leaves():
    device = Session(random_bytes())
    device.send(3, 0x10, b"x")
    with_blob(device)
    device.open_link(0, True)
    assert kinds(device.data_to_send(0)) == [wire.HELLO]
    assert device.data_to_send(0) == []


def test_chunks_leave_one_at_a_time_behind_everything_else():
    device, _ = pair()
    bulk = with_blob(device)
    device.send(3, 0x10, b"x")
    assert kinds(device.data_to_send(0)) == [0x10]
    ((kind, flags, seq, payload),) = frames(device.data_to_send(0))
    assert (kind, flags, seq) == (wire.BLOB, wire.BLOBS, 0)
    assert payload == bulk.offer.to_payload()
    assert device.data_to_send(0) == [], "the offer has no answer yet"
    state = State(5, RECEIVING, bulk.offer.number)
    state.credit = 64
    bulk.receive(state.to_payload(), 10)
    assert kinds(device.data_to_send(10)) == [wire.BLOB_CHUNK]
    device.send_live(3, 0x11, b"x")
    assert kinds(device.data_to_send(10)) == [0x11]
    assert kinds(device.data_to_send(10)) == [wire.BLOB_CHUNK]


def test_behind_our_bye_neither_messages_nor_chunks_leave():
    device, _ = pair()
    device.send(3, 0x10, b"x")
    with_blob(device)
    device.bye(0)
    assert kinds(device.data_to_send(0)) == [wire.BYE]
    assert device.data_to_send(0) == []


def test_a_gap_is_said_behind_the_acknowledgement():
    device, server = pair()
    server.send(1, wire.CALL, b"x")
    carry(server, device)
    device.send(3, 0x10, b"x")
    device.give_up(3, 2)
    due = device.receiver.ack_due
    assert due is not None
    seen = frames(device.data_to_send(due))
    assert [kind for kind, _, _, _ in seen] == [wire.ACK, wire.FORWARD]
    assert [(flags, seq) for _, flags, seq, _ in seen] == [(0, 0), (0, 0)]
    assert seen[1][3] == b"\x03\x02"
    server.receive_data(encode_frame(*seen[1]), 0)
    gaps = [(e.first, e.last) for e in server.take_events() if isinstance(e, Gap)]
    assert gaps == [(1, 1)]


def test_an_acknowledgement_leaves_when_it_is_due():
    device, server = pair()
    device.send(3, 0x10, b"x")
    carry(device, server)
    due = server.receiver.ack_due
    assert server.data_to_send(due - 1) == []
    ((kind, flags, seq, payload),) = frames(server.data_to_send(due))
    assert (kind, flags, seq) == (wire.ACK, 0, 0)
    assert decode_ack(payload) == (64, [(3, 0, b"\x01")])


# -- timers ----------------------------------------------------------------------------


def test_the_next_timer_is_the_earliest():
    device, server = pair()
    assert device.next_timer() == device._link.keepalive.due == 60_000
    device.send(3, 0x10, b"x")
    device.send(3, 0x10, b"y")
    carry(device, server)
    assert device.next_timer() == device.sender.timer < 60_000
    device.give_up(3, 2)
    device.sender.handle_timer(5_000)
    device.data_to_send(5_000)
    assert device.next_timer() == min(device.sender.timer, device.sender.forward_due)
    device.sender.timer = None
    assert device.next_timer() == device.sender.forward_due
    server.receiver.ack_due = 7
    assert server.next_timer() == 7


def test_without_a_link_there_is_no_timer():
    device = Session(random_bytes())
    assert device.next_timer() is None
    device.handle_timer(10)
    assert device.data_to_send(10) == []
    device.open_link(0, False)
    assert device.next_timer() is None, "a stream repeats no HELLO, and no PING is agreed on"
    device.open_link(0, True)
    assert device.next_timer() == 1_000
    waiting = acceptor()
    assert waiting.next_timer() == 15_000


def test_chunks_have_their_timer_while_the_session_is_open():
    device, _ = pair()
    bulk = with_blob(device)
    device.data_to_send(100)
    due = bulk.next_timer()
    assert device.next_timer() == due > 100
    device.handle_timer(due - 1)
    assert device.data_to_send(due - 1) == []
    device.handle_timer(due)
    assert kinds(device.data_to_send(due)) == [wire.BLOB], "asked again"
    due = bulk.next_timer()
    device.bye(due - 600)
    assert device.next_timer() == due - 600 + 1_000
    device.handle_timer(due)
    assert bulk.next_timer() == due, "behind our BYE it is not asked"


def test_chunks_without_an_answer_hurry_the_keepalive():
    device, _ = pair()
    bulk = with_blob(device)
    now = 300
    while now < 20_000:
        device.data_to_send(now)
        now = bulk.next_timer()
        device.handle_timer(now - 1)
        assert wire.PING not in kinds(device.data_to_send(now - 1)), "before its time"
        device.handle_timer(now)
        if wire.PING in kinds(device.data_to_send(now)):
            break
    assert now < 20_000, "PING waited for the keepalive"


def test_messages_without_an_answer_are_sent_again_when_due():
    device, _ = pair()
    device.send(3, 0x10, b"x")
    device.data_to_send(100)
    due = device.sender.timer
    device.handle_timer(due - 1)
    assert device.data_to_send(due - 1) == []
    device.handle_timer(due)
    assert kinds(device.data_to_send(due)) == [0x10]


def test_an_idle_link_is_asked_with_a_count():
    device, _ = pair()
    device.handle_timer(60_000)
    assert said(device, wire.PING, 60_000) == [b"\0\x01"]


def test_a_bye_without_an_answer_ends_by_itself():
    for datagram in LINKS:
        device, _ = pair(datagram)
        device.bye(0, errors.SHUTDOWN)
        for now in (1_000, 2_000, 3_000):
            device.handle_timer(now)
        assert device.state == OVER and closed(device) == [(errors.SHUTDOWN, False, "")]
        device.handle_timer(4_000)
        assert closed(device) == []


def test_silence_is_told_in_milliseconds():
    _, server = pair()
    due = server.next_timer()
    server.handle_timer(due)
    assert closed(server) == [(errors.IDLE, False, "nothing was heard for %d ms" % due)]
