"""The world of world.py with blobs: a device that sends them, a server that keeps them.

The server's side is as the back-end's, in memory: partial blobs outlive links and are lost
with the process; a blob is stored some ms after its last chunk.
"""

import hashlib

from world import OPEN, Lcg, World

from fleetnet import events
from fleetnet import frame as wire
from fleetnet.blob_receiver import BlobReceiver
from fleetnet.blob_sender import BlobSender
from fleetnet.blobs import STORED, UNKNOWN, Offer, State, decode_chunk, decode_offer
from fleetnet.ticks import ticks_diff


def content(size, seed=1):
    """Bytes of which no two chunks are alike."""
    random = Lcg(seed)
    block = random.bytes(251)
    out = bytearray()
    while len(out) < size:
        out.extend(len(out).to_bytes(4, "big"))
        out.extend(block)
    return bytes(out[:size])


class Buffer:
    """A source over bytes."""

    def __init__(self, data):
        self.data = memoryview(data)

    def read_into(self, offset, view):
        view[:] = self.data[offset : offset + len(view)]


class Host:
    """The server's memory and disk for blobs."""

    def __init__(self):
        self.partial = {}
        self.stored = {}
        self.credit = 64
        self.known = {}
        self.duplicates = 0

    def lose_memory(self):
        self.partial = {}
        self.known = {}


class BlobWorld(World):
    """See the module; ``blob(data)`` sends one."""

    sender_class = BlobSender

    def __init__(self, seed, faults, start_tick=0, datagram=True, commit_ms=10, chunk=1120):
        self.host = Host()
        self.chunk = chunk
        self.outcomes = []
        self.log = []
        self.blob_id = 0
        World.__init__(self, seed, faults, start_tick, datagram, commit_ms)

    def new_device(self, epoch=None, unacknowledged=None, next_seqs=None):
        World.new_device(self, epoch, unacknowledged, next_seqs)
        self.blobs = self.sender_class(self.chunk, self._done)
        self.device.bulk = self.blobs

    def _done(self, offer, state):
        self.outcomes.append((offer.id, state.status, state.reason, self.time))

    def connect(self, datagram=None):
        self.greeted = self.time
        World.connect(self, datagram)

    def blob(self, data):
        """The device's program sends a blob."""
        self.blob_id += 1
        digest = hashlib.sha256(data).digest()
        offer = Offer(self.blob_id, len(data), self.chunk, digest, "frame")
        self.blobs.start(offer, Buffer(data))
        self.pump("device")
        return digest

    def kill_server(self, down_ms):
        self.host.lose_memory()
        World.kill_server(self, down_ms)

    def transmit(self, sender, data):
        if sender == "device" and self.device.state == OPEN:
            for kind, flags, seq, payload in wire.split_datagram(data, 8192):
                self.log.append((self.time, kind, flags & 15, seq, payload))
        World.transmit(self, sender, data)

    def _on_event(self, who, session, event):
        if isinstance(event, events.Received) and not event.seq:
            if who == "device":
                self.blobs.receive(event.payload, self.now())
            elif event.kind == wire.BLOB:
                self._offered(session, decode_offer(event.payload))
            else:
                self._chunk(session, event.payload)
            return
        if isinstance(event, events.Opened) and who == "device":
            # One HELLO, one WELCOME: a round trip, unless HELLO was repeated.
            took = self.time - self.greeted
            self.blobs.open_link(took if took < 1000 else 0)
        World._on_event(self, who, session, event)

    def _answer(self, session, state):
        if session is self.server:
            session.send_live(wire.CONTROL, wire.BLOB_STATE, state.to_payload())
            self.pump("server")

    def _offered(self, session, offer):
        host = self.host
        if offer.sha256 in host.stored:
            self._answer(session, State(offer.id, STORED))
            return
        if offer.sha256 not in host.partial:
            host.partial[offer.sha256] = (BlobReceiver(offer), bytearray(offer.size), [False])
        receiver = host.partial[offer.sha256][0]
        host.known[(session, offer.id)] = [offer.sha256, offer.number]
        echo = self._echo(session, offer.id, offer.number)
        self._answer(session, receiver.state(offer.id, echo, host.credit))
        self._complete(session, offer.sha256)

    def _echo(self, session, id, number):
        known = self.host.known[(session, id)]
        known[1] = max(known[1], number)
        return known[1]

    def _chunk(self, session, payload):
        host = self.host
        id, index, number, asks, data = decode_chunk(payload)
        known = host.known.get((session, id))
        partial = host.partial.get(known[0]) if known else None
        if known is not None and known[0] in host.stored:
            return
        if partial is None:
            if asks:
                self._answer(session, State(id, UNKNOWN, number))
            return
        receiver, buffer, _ = partial
        if receiver.wants(index, len(data)):
            at = index * receiver.offer.chunk
            buffer[at : at + len(data)] = bytes(data)
            receiver.take(index)
        echo = self._echo(session, id, number)
        if asks:
            self._answer(session, receiver.state(id, echo, host.credit))
        self._complete(session, known[0])

    def _complete(self, session, digest):
        receiver, _, under_way = self.host.partial[digest]
        if receiver.is_complete and not under_way[0]:
            under_way[0] = True
            self.at(self.time + self.commit_ms, self._store, session, digest)

    def _store(self, session, digest):
        if digest not in self.host.partial:
            return
        receiver, buffer, _ = self.host.partial.pop(digest)
        assert hashlib.sha256(buffer).digest() == digest
        self.host.duplicates += receiver.duplicates
        self.host.stored[digest] = bytes(buffer)
        for (other, id), known in list(self.host.known.items()):
            if known[0] == digest:
                self._answer(other, State(id, STORED))

    def run_until_done(self, count=1, limit_ms=120_000):
        """Run until ``count`` blobs have an outcome; return the ms since now."""
        began = self.time
        assert self.run(began + limit_ms, lambda: len(self.outcomes) >= count), "no outcome"
        return self.time - began

    def until_open(self):
        assert self.run(self.time + 60_000, lambda: self.device.state == OPEN)

    def chunks_sent(self, since=0):
        """Indexes of the chunks that left the device since ``since`` ms."""
        return [
            decode_chunk(payload)[1]
            for time, kind, _, _, payload in self.log
            if kind == wire.BLOB_CHUNK and time >= since
        ]


__all__ = ("OPEN", "BlobWorld", "Buffer", "Host", "content", "ticks_diff")
