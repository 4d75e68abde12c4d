"""What AcceptorSession.acknowledgement_alone leaves out is nothing: the long way says the same."""

import os
import random
from copy import deepcopy

from fleetnet import frame as wire
from fleetnet.acceptor import AcceptorSession, HelloReceived
from fleetnet.handshake import Hello, Welcome
from fleetnet.session import OPEN, Session

_KEEPALIVE_MS = 60_000


class Pair:
    """A device's session and a server's, without a network; time is in ms."""

    def __init__(self, datagram: bool):
        self.now = 1000
        self.device = Session(os.urandom)
        self.server = AcceptorSession(os.urandom, wall_ms=lambda: 1)
        self.server.open_link(self.now, datagram)
        self.device.open_link(self.now, datagram, Hello())
        self.carry()
        (event,) = self.server.take_events()
        assert isinstance(event, HelloReceived)
        welcome = Welcome()
        welcome.window, welcome.keepalive_ms, welcome.ack_delay_ms = 64, _KEEPALIVE_MS, 100
        self.server.welcome(welcome, event.hello, {}, self.now)
        for data in self.server.data_to_send(self.now):
            self.device.receive_data(data, self.now)
        assert self.server.state == OPEN

    def carry(self) -> None:
        while chunks := self.device.data_to_send(self.now):
            for data in chunks:
                self.server.receive_data(data, self.now)

    def send(self, count: int, durable: int) -> None:
        for _ in range(count):
            self.device.send(wire.TELEMETRY, wire.READINGS, b"[1,0,[],[]]")
        self.carry()
        self.server.acknowledge(wire.TELEMETRY, durable, self.now)


def long_way(server: AcceptorSession, now: int) -> bytes:
    server.handle_timer(now)
    return b"".join(server.data_to_send(now))


def test_the_short_way_says_what_the_long_way_says() -> None:
    random.seed(7)
    short = 0
    for case in range(300):
        pair = Pair(datagram=bool(case & 1))
        sent = random.randint(0, 5)
        pair.send(sent, random.randint(0, sent))
        server = pair.server
        if random.random() < 0.3:
            server.send(wire.COMMANDS, wire.CALL, b"x")
        if random.random() < 0.2:
            server.send_live(wire.TELEMETRY, wire.READINGS | wire.OPTIONAL, b"y")
        if random.random() < 0.2:
            server.bye(pair.now)
        now = pair.now + random.choice((0, 50, 100, 5_000, 3 * _KEEPALIVE_MS))
        other = deepcopy(server)
        told = server.acknowledgement_alone(now)
        if told:
            short += 1
            assert told == long_way(other, now)
            assert server.next_timer() == other.next_timer()
        # What remains is the same, whichever way was taken.
        assert long_way(server, now) == long_way(other, now)
    assert short > 20


def test_what_else_is_due_takes_the_long_way() -> None:
    pair = Pair(datagram=True)
    pair.send(1, 1)
    assert pair.server.acknowledgement_alone(pair.now), "the first one waits for nothing"
    pair.send(2, 3)
    due = pair.now + 100
    assert pair.server.acknowledgement_alone(due - 1) == b""
    pair.server.send(wire.COMMANDS, wire.CALL, b"x")
    assert pair.server.acknowledgement_alone(due) == b""
    frames = long_way(pair.server, due)
    pair.device.receive_data(frames, due)
    assert pair.device.sender.in_flight == 0  # acknowledged all the same
