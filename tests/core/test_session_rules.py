"""Single rules of the session that a run over a bad network seldom shows."""

from session_rig import acceptor, closings, hello_payload, kinds, opened, pair, random_bytes

from fleetnet import errors, events
from fleetnet import frame as wire
from fleetnet.acceptor import HelloReceived, encode_welcome
from fleetnet.frame import MORE, SEQUENCED, encode_frame, split_datagram
from fleetnet.handshake import Ending, Welcome
from fleetnet.limits import LIVE_QUEUE
from fleetnet.session import CLOSING, GREETING, OPEN, OVER, Session


def test_welcome_with_another_nonce_is_ignored():
    device = Session(random_bytes())
    device.open_link(0, True)
    welcome = Welcome()
    welcome.epoch = b"server-1"
    welcome.nonce = b"????"
    welcome.peer_epoch = device.epoch
    device.receive_data(encode_frame(wire.WELCOME, 0, 0, encode_welcome(welcome)), 0)
    assert device.state == GREETING and not device.take_events()


def test_hello_again_gets_the_same_answer_and_another_hello_ends_it():
    server, sent = opened()
    server.take_events()
    server.receive_data(encode_frame(wire.HELLO, 0, 0, hello_payload()), 10)
    assert server.data_to_send(10) == sent and not server.take_events()
    server.receive_data(encode_frame(wire.HELLO, 0, 0, hello_payload(nonce=b"mmmm")), 20)
    assert server.state == OVER and closings(server) == [errors.PROTOCOL]
    deciding = acceptor()
    for nonce in (b"nnnn", b"nnnn", b"mmmm"):
        deciding.receive_data(encode_frame(wire.HELLO, 0, 0, hello_payload(nonce=nonce)), 0)
    seen = deciding.take_events()
    assert [type(e) for e in seen] == [HelloReceived, events.Closed]


def test_other_major_version_is_refused():
    server = acceptor()
    server.receive_data(encode_frame(wire.HELLO, 0, 0, hello_payload(major=2)), 0)
    assert closings(server) == [errors.VERSION]
    assert kinds(server.data_to_send(0)) == [wire.REFUSE]
    server.receive_data(encode_frame(wire.HELLO, 0, 0, hello_payload(major=2)), 9)
    assert kinds(server.data_to_send(9)) == [wire.REFUSE], "the first one may be lost"


def test_bytes_without_hello_buy_no_time():
    for datagram in (True, False):
        server = acceptor(datagram)
        for now in range(0, 15_000, 1000):
            server.receive_data(encode_frame(0xBF, 0, 0, b""), now)
            server.handle_timer(now)
            assert server.state == GREETING
        assert server.next_timer() == 15_000
        server.handle_timer(15_000)
        assert closings(server) == [errors.IDLE]


def test_the_owner_has_time_to_decide():
    server = acceptor()
    server.receive_data(encode_frame(wire.HELLO, 0, 0, hello_payload()), 14_000)
    server.handle_timer(16_000)
    hello = server.take_events()[0].hello
    server.welcome(Welcome(), hello, {}, 16_000)
    assert server.state == OPEN


def test_a_decision_that_comes_too_late_changes_nothing():
    server = acceptor()
    server.receive_data(encode_frame(wire.HELLO, 0, 0, hello_payload()), 0)
    hello = server.take_events()[0].hello
    server.receive_data(encode_frame(wire.BYE, 0, 0, b""), 5)
    server.take_events()
    server.data_to_send(5)
    server.welcome(Welcome(), hello, {}, 10)
    server.refuse(errors.OVERLOADED)
    assert server.state == OVER and not server.take_events() and not server.data_to_send(10)


def test_resume_points_beyond_what_was_sent_end_the_session():
    server, _ = opened(own_epoch=b"server-1", peer_epoch=b"server-1", resume={1: 5})
    assert server.state == OPEN  # an unknown stream begins behind the point
    own = acceptor(epoch=b"server-1")
    own.send(1, 0x18, b"x")
    payload = hello_payload(peer_epoch=b"server-1", resume={1: 2})
    own.receive_data(encode_frame(wire.HELLO, 0, 0, payload), 0)
    own.welcome(Welcome(), own.take_events()[0].hello, {}, 0)
    assert own.state == OVER and closings(own) == [errors.PROTOCOL]
    assert kinds(own.data_to_send(0)) == [wire.BYE]


def test_silence_ends_the_acceptor():
    _, server = pair()
    due = server.next_timer()
    assert due == 2 * 60_000 + 15_000
    server.receive_data(encode_frame(0xBF, 0, 0, b""), 1000)
    server.handle_timer(due)
    assert server.state == OPEN and server.next_timer() == due + 1000
    server.handle_timer(due + 1000)
    assert closings(server) == [errors.IDLE]


def test_a_stalled_sender_asks_by_ping_and_leaves_a_silent_link():
    for datagram in (True, False):
        device, _ = pair(datagram)
        device.send(3, 0x10, b"x")
        device.data_to_send(10)
        seen = []
        now = 10
        while now < 8_000 and wire.PING not in seen:
            now = device.next_timer()
            device.handle_timer(now)
            seen = kinds(device.data_to_send(now))
        assert now < 8_000, "PING waited for the keepalive"
        while device.state == OPEN:
            now = device.next_timer()
            device.handle_timer(now)
        assert now < 14_000, "a link without answers is left within 15 s"


def test_window_of_welcome_is_obeyed():
    device, _ = pair(False, window=2)
    for _ in range(5):
        device.send(3, 0x10, b"x")
    assert kinds(device.data_to_send(0)) == [0x10, 0x10]


def test_closing_takes_no_messages_and_keeps_no_old_timer():
    for datagram in (True, False):
        device, server = pair(datagram)
        device.send(3, 0x10, b"x")
        message = device.data_to_send(0)[0]
        device.bye(10)
        assert device.state == CLOSING and kinds(device.data_to_send(10)) == [wire.BYE]
        assert device.next_timer() == 1010
        device.handle_timer(1010)
        assert device.next_timer() == 2010
        server.bye(10)
        server.receive_data(message, 20)
        assert not server.take_events()
        device.handle_timer(2010)
        device.handle_timer(3010)
        assert device.state == OVER and closings(device) == [errors.NORMAL]


def test_bye_is_answered_each_time_and_ends_once():
    for datagram in (True, False):
        _, server = pair(datagram)
        bye = encode_frame(wire.BYE, 0, 0, Ending(0).to_payload())
        server.receive_data(bye + bye, 0)
        assert closings(server) == [errors.NORMAL]
        assert wire.BYE_ACK in kinds(server.data_to_send(0))
        server.receive_data(bye, 100)
        assert kinds(server.data_to_send(100)) == ([wire.BYE_ACK] if datagram else [])
        assert not server.take_events()


def test_broken_rules_end_the_session_with_their_reason():
    for frame, reason in (
        (encode_frame(wire.PING, SEQUENCED | 3, 1, b"\0\0"), errors.PROTOCOL),
        (encode_frame(wire.PING, 0, 0, b"\0"), errors.PROTOCOL),
        (encode_frame(0x0A, 0, 0, b""), errors.UNKNOWN_KIND),
        (encode_frame(wire.ACK, 0, 0, b"\x40\x03\x01\x00"), errors.PROTOCOL),
        (encode_frame(wire.ACK, 0, 0, b"\x81\x08"), errors.LIMIT),
        (encode_frame(0x10, SEQUENCED, 1, b""), errors.PROTOCOL),
        (encode_frame(0x10, MORE, 0, b""), errors.PROTOCOL),
        (encode_frame(0x10, 3, 0, bytes(5000)), errors.LIMIT),
    ):
        _, server = pair()
        server.receive_data(frame, 0)
        assert closings(server) == [reason], frame[:8]
        assert kinds(server.data_to_send(0)) == [wire.BYE]
    _, server = pair()
    server.receive_data(encode_frame(0x8A, 0, 0, b"optional"), 0)
    assert server.state == OPEN


def test_best_effort_messages_are_few_and_last():
    device, server = pair()
    for index in range(LIVE_QUEUE + 3):
        assert device.send_live(3, 0x10, b"%d" % index)
    assert device.live_dropped == 3
    device.send(3, 0x11, b"sure")
    chunks = device.data_to_send(0)
    assert kinds(chunks) == [0x11] + [0x10] * LIVE_QUEUE
    server.receive_data(chunks[0], 0)
    assert [(e.seq, e.payload) for e in server.take_events()][:2] == [(1, b"sure"), (0, b"3")]
    device.close_link()
    assert not device.send_live(3, 0x10, b"x") and device.live_dropped == 4


def test_a_new_link_begins_messages_in_fragments_again():
    device, server = pair(False)
    device.send(3, 0x10, bytes(3000))
    first = split_datagram(device.data_to_send(0)[0], 4096)[0]
    server.receive_data(encode_frame(*first), 0)
    server.receiver.open_link(False)
    server.receiver.rewind({})
    for _, flags, seq, payload in (first, (0x10, SEQUENCED | 3, 2, b"end")):
        server.receiver.receive(3, seq, 0x10, flags, payload, 0)
    assert [len(e.payload) for e in server.take_events()] == [len(first[3]) + 3]


def test_a_session_that_only_sends_has_no_receiving_half():
    for datagram in (True, False):
        device, server = pair(datagram)
        device.send(3, wire.READINGS, b"[1]")
        for data in device.data_to_send(0):
            server.receive_data(data, 0)
        server.acknowledge(3, 1, 0)
        for data in server.data_to_send(1_000):
            device.receive_data(data, 0)
        assert isinstance(device.take_events()[0], events.Delivered)
        device.acknowledge(3, 1, 0)
        device.handle_timer(60_000)
        assert device.receiver is None and server.receiver is not None
        # The first message makes it, with what the link and WELCOME said.
        server.take_events()
        server.send(1, wire.CALL, b"x")
        for data in server.data_to_send(60_000):
            device.receive_data(data, 60_000)
        (message,) = device.take_events()
        assert message.payload == b"x" and device.receiver is not None
        device.acknowledge(1, 1, 60_000)
        assert device.next_timer() == 60_100, "the acknowledgement delay of WELCOME"
        for data in device.data_to_send(60_100):
            server.receive_data(data, 60_100)
        assert [event.seq for event in server.take_events()] == [1]


def test_a_device_that_only_sends_answers_a_ping():
    device, _ = pair()
    device.receive_data(encode_frame(wire.PING, 0, 0, b"\x01\x02"), 5)
    sent = [f for data in device.data_to_send(5) for f in split_datagram(data, 65535)]
    assert [(kind, payload) for kind, _, _, payload in sent] == [
        (wire.PONG, b"\x01\x02\x00"),
        (wire.ACK, b"\x40"),
    ]
