"""Mutated frames and greetings through every decoder and through whole sessions.

FLEETNET_FUZZ=1000000 sets the number of mutated datagrams (default 60,000, some seconds).
Decoders may raise ProtocolError and nothing else; sessions raise nothing, whatever arrives;
memory stays flat.
"""

import gc
import itertools
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

from fleetnet import frame as wire
from fleetnet.acceptor import AcceptorSession, HelloReceived, decode_hello
from fleetnet.credential import decode_credential, decode_credential_state
from fleetnet.errors import ProtocolError
from fleetnet.events import Received
from fleetnet.frame import FrameSplitter, decode_ack, encode_frame, split_datagram
from fleetnet.handshake import Hello, Welcome, decode_ending, decode_welcome
from fleetnet.receiver import decode_forward
from fleetnet.session import CLOSING, DOWN, GREETING, OPEN, Session

COUNT = int(os.environ.get("FLEETNET_FUZZ", "60000"))
FLAT_BYTES = 8 << 20
VECTORS = json.loads((Path(__file__).parent / "core" / "vectors.json").read_text())
DECODERS: list[Callable[[bytes], object]] = [
    decode_hello,
    decode_welcome,
    decode_ending,
    decode_ack,
    decode_forward,
    decode_credential,
    decode_credential_state,
    lambda data: split_datagram(data, 4096),
    lambda data: FrameSplitter(4096).split(data),
]
EDGES = bytes((0x00, 0x01, 0x7F, 0x80, 0xFF, 0x0F, 0x10, 0x13, 0x40))


def mutate(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """Change one to four places: flip, set, cut, insert, repeat, splice with another frame."""
    out = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(out) + 1)
        kind = chance.randrange(8)
        if kind < 3 and at < len(out):
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 3 and at < len(out):
            out[at] = chance.choice(EDGES)
        elif kind == 4:
            del out[at : at + chance.randrange(1, 9)]
        elif kind == 5:
            out[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif kind == 6:
            out[at:at] = out[at : at + 20]
        elif kind == 7:
            out[at:] = other[chance.randrange(len(other) + 1) :]
    return bytes(out[:3000])


def resident_bytes() -> int:
    """Resident size of this process; 0 where /proc does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def say(session: Session, index: int) -> None:
    """Give the initiator or the acceptor something of every sort to say."""
    for stream in (2, 3):
        if session.has_room(stream, 3000):
            session.send(stream, wire.READINGS, b"[%d]" % index)
            session.send(stream, wire.RAW, bytes(2500) if index % 5 == 0 else b"raw")
    if index % 7 == 3:
        session.give_up(3, session.sender.streams[3].next_seq)
    session.send_live(3, wire.READINGS, b"live")


class Ends:
    """One device and one server, whose traffic is recorded or replaced by mutants."""

    def __init__(self, datagram: bool, seed: int):
        self.datagram = datagram
        self.chance = random.Random(seed)
        self.now = 0
        self.reopened = 0
        self.renew()

    def renew(self) -> None:
        """Open a new link between a device that stays, for a while, and a new server."""
        if self.reopened % 50 == 0:
            self.device = Session(self.chance.randbytes)
        self.reopened += 1
        self.device.close_link()
        self.device.open_link(self.now, self.datagram, Hello())
        self.server = AcceptorSession(self.chance.randbytes, wall_ms=lambda: 1_700_000_000_000)
        self.server.open_link(self.now, self.datagram)

    def carry(self) -> list[tuple[bool, bytes]]:
        """Move everything both ways until nothing is left; return (to server, data)."""
        carried: list[tuple[bool, bytes]] = []
        for _ in range(20):
            before = len(carried)
            for to_server, source, target in (
                (True, self.device, self.server),
                (False, self.server, self.device),
            ):
                for data in source.data_to_send(self.now):
                    carried.append((to_server, data))
                    target.receive_data(data, self.now)
                self.serve(target)
            if len(carried) == before:
                break
        return carried

    def serve(self, session: Session) -> None:
        """Do what an owner does with events and timers."""
        for event in session.take_events():
            if isinstance(event, HelloReceived):
                session.welcome(Welcome(), event.hello, {3: 0}, self.now)
            elif isinstance(event, Received) and event.seq:
                session.acknowledge(event.stream, event.seq, self.now)
        session.next_timer()

    def attack(self, to_server: bool, data: bytes) -> None:
        target = self.server if to_server else self.device
        target.receive_data(data, self.now)
        self.serve(target)
        self.now = (self.now + self.chance.randrange(40)) & 0x3FFFFFFF
        target.handle_timer(self.now)
        for chunk in target.data_to_send(self.now):
            assert len(chunk) < 70_000
        if target.state not in (GREETING, OPEN, CLOSING):
            target.receive_data(data, self.now)
            self.renew()
            if self.chance.random() < 0.8:
                self.carry()  # else the next mutant meets a session that is still greeting


def record(datagram: bool) -> list[tuple[bool, bytes]]:
    """Real traffic: greetings, messages, fragments, gaps, acknowledgements, pings, byes."""
    ends = Ends(datagram, 3)
    traffic = ends.carry()
    for index in range(12):
        say(ends.device, index)
        say(ends.server, index)
        traffic.extend(ends.carry())
        ends.now += 500
        for session in (ends.device, ends.server):
            session.handle_timer(ends.now)
        traffic.extend(ends.carry())
    ends.now += 61_000
    ends.device.handle_timer(ends.now)
    traffic.extend(ends.carry())
    ends.device.bye(ends.now)
    traffic.extend(ends.carry())
    kinds = {kind for _, data in traffic for kind, _, _, _ in split_datagram(data, 65535)}
    assert kinds >= {1, 2, 4, 5, 6, 7, 8, 9, 0x10, 0x11}, kinds
    assert ends.device.state not in (OPEN, DOWN)
    return traffic


def payloads() -> list[bytes]:
    rows = VECTORS["payloads"] + VECTORS["refused_payloads"]
    return [bytes.fromhex(row["hex"]) for row in rows]


def frames() -> list[bytes]:
    rows = VECTORS["frames"] + VECTORS["refused_frames"]
    return [bytes.fromhex(row["hex"]) for row in rows]


def test_decoders_raise_one_error_only() -> None:
    chance = random.Random(1)
    corpus = payloads() + frames()
    refused = 0
    for index in range(COUNT // 2):
        data = mutate(chance.choice(corpus), chance, chance.choice(corpus))
        try:
            DECODERS[index % len(DECODERS)](data)
        except ProtocolError:
            refused += 1
    assert COUNT // 20 < refused < COUNT // 2


def test_sessions_survive_every_mutant_and_memory_stays_flat() -> None:
    chance = random.Random(2)
    worlds = [Ends(True, 5), Ends(False, 6)]
    corpus = [record(True), record(False)]
    # Control frames alone: mutants of them reach further than those of whole datagrams.
    kinds = (wire.HELLO, wire.WELCOME, wire.BYE, wire.ACK, wire.FORWARD, wire.PING, wire.PONG)
    alone = [encode_frame(k, 0, 0, data) for k, data in itertools.product(kinds, payloads())]
    size = 0
    for index in range(COUNT):
        which = index & 1
        ends = worlds[which]
        to_server, data = chance.choice(corpus[which])
        other = chance.choice(alone)
        if index % 3 == 0:
            data = other
        if index % 64 == 0:
            ends.carry()
            say(ends.device, index)
        ends.attack(to_server, mutate(data, chance, other) if index % 5 else data)
        if index == COUNT // 4:
            gc.collect()
            size = resident_bytes()
    gc.collect()
    grown = resident_bytes() - size
    opened = [ends.reopened for ends in worlds]
    print(f"{COUNT} mutants, {opened} links, resident size grew by {grown} B")
    assert min(opened) > COUNT // 100
    assert grown < FLAT_BYTES
