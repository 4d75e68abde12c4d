"""What a session takes from its peer in each state, and what it makes of it."""

from session_rig import acceptor, carry, closed, hello_payload, kinds, opened, pair, said

from fleetnet import errors, events
from fleetnet import frame as wire
from fleetnet.frame import SEQUENCED, encode_frame
from fleetnet.handshake import Hello
from fleetnet.session import CLOSING, GREETING, OPEN, OVER
from fleetnet.varint import put_varint

LINKS = (True, False)


def test_messages_of_one_datagram_tell_their_streams():
    device, server = pair()
    device.send(3, 0x10, b"x")
    device.send(2, 0x12, b"y")
    (data,) = device.data_to_send(0)
    server.receive_data(data, 0)
    seen = [(e.stream, e.seq, e.kind, e.payload) for e in server.take_events()]
    assert seen == [(2, 1, 0x12, b"y"), (3, 1, 0x10, b"x")]


def test_a_best_effort_message_tells_its_stream():
    _, server = pair()
    server.receive_data(encode_frame(0x11, 4, 0, b"x"), 0)
    (event,) = server.take_events()
    assert (event.stream, event.seq, event.kind, event.payload) == (4, 0, 0x11, b"x")


def test_optional_control_frames_with_a_number_break_the_rules():
    _, server = pair()
    server.receive_data(encode_frame(0x8A, SEQUENCED | 3, 1, b""), 0)
    assert [found[0] for found in closed(server)] == [errors.PROTOCOL]


def test_in_greeting_messages_are_not_taken():
    server = acceptor()
    server.receive_data(encode_frame(wire.HELLO, 0, 0, hello_payload()), 0)
    server.take_events()
    server.receive_data(encode_frame(0x10, SEQUENCED | 3, 1, b"x"), 1)
    server.receive_data(encode_frame(0x10, 3, 0, b"x"), 1)
    assert server.take_events() == [] and server.state == GREETING
    assert server.receiver.resume_points() == {}


def test_behind_our_bye_answers_are_heard_and_messages_are_not():
    for datagram in LINKS:
        device, server = pair(datagram)
        device.send(3, 0x10, b"x")
        carry(device, server)
        server.take_events()
        server.acknowledge(3, 1, 0)
        device.bye(10)
        carry(server, device, 200)
        assert [(e.stream, e.seq) for e in device.take_events()] == [(3, 1)]
        device.receive_data(encode_frame(0x11, 3, 0, b"live"), 210)
        device.receive_data(encode_frame(0x10, SEQUENCED | 1, 1, b"x"), 210)
        assert device.take_events() == [] and device.state == CLOSING
        device.receive_data(encode_frame(wire.BYE_ACK, 0, 0, b""), 220)
        assert device.state == OVER and closed(device) == [(errors.NORMAL, False, "")]


def test_an_answer_to_no_bye_changes_nothing():
    device, _ = pair()
    for kind in (wire.BYE_ACK, wire.WELCOME, wire.REFUSE):
        device.receive_data(encode_frame(kind, 0, 0, b""), 5)
    assert device.state == OPEN and device.take_events() == []


def test_a_bye_of_the_peer_is_told_as_its_own():
    device, server = pair()
    server.bye(0, errors.OVERLOADED, 7_000)
    carry(server, device)
    (event,) = device.take_events()
    assert (event.ending.reason, event.ending.retry_after_ms) == (errors.OVERLOADED, 7_000)
    assert event.by_peer is True


def test_acknowledgements_say_what_is_delivered_and_set_the_window():
    device, _ = pair()
    for stream in (2, 3, 3):
        device.send(stream, 0x10, b"x")
    device.data_to_send(0)
    entries = b"\x02\x01\x00" + b"\x03\x02\x00"
    device.receive_data(encode_frame(wire.ACK, 0, 0, b"\x07" + entries), 5)
    assert [(e.stream, e.seq) for e in device.take_events()] == [(2, 1), (3, 2)]
    assert device.sender.window == 7
    device.receive_data(encode_frame(wire.ACK, 0, 0, b"\x07" + entries), 6)
    assert device.take_events() == [], "no news"


def test_time_comes_with_pong_from_whoever_knows_it():
    for count, is_taken in ((7, True), (8, False)):
        device, _ = pair()
        pong = bytearray(b"\0\x01")
        put_varint(pong, 1 << (7 * count - 1))
        device.receive_data(encode_frame(wire.PONG, 0, 0, bytes(pong)), 5)
        found = [e.unix_ms for e in device.take_events() if isinstance(e, events.TimeHeard)]
        assert found == ([1 << 48] if is_taken else [])
        assert (device.state == OPEN) is is_taken
    device, _ = pair()
    device.receive_data(encode_frame(wire.PONG, 0, 0, b"\0\x01\0"), 5)
    assert device.take_events() == [], "a peer without a clock says nothing of it"


def test_a_clock_answers_ping_with_its_time():
    known, _ = opened()
    known._wall_ms = lambda: 300
    known.receive_data(encode_frame(wire.PING, 0, 0, b"\0\x05"), 5)
    assert said(known, wire.PONG, 5) == [b"\0\x05\xac\x02"]


def test_on_a_new_stream_link_nothing_comes_before_welcome():
    device, _ = pair()
    device.open_link(100, False, Hello())
    assert device.state == GREETING and kinds(device.data_to_send(100)) == [wire.HELLO]
    device.receive_data(encode_frame(0x10, SEQUENCED | 1, 1, b"x"), 110)
    assert [found[0] for found in closed(device)] == [errors.PROTOCOL]
