"""A small world in virtual time: one device, one server, one bad network.

Both ends are real sessions. Runs on CPython and MicroPython with the same numbers: its
randomness is its own. A datagram link behaves like DTLS (a corrupted datagram is
dropped, a duplicate is a replay and dropped by neither end here, so that the session
meets it); a stream link behaves like TLS (in order, until it is cut).
"""

import heapq

from fleetnet import events
from fleetnet.acceptor import AcceptorSession, HelloReceived
from fleetnet.frame import MORE
from fleetnet.handshake import Hello, Welcome
from fleetnet.receiver import Gap
from fleetnet.session import CLOSING, DOWN, GREETING, OPEN, OVER, Session
from fleetnet.ticks import ticks_add, ticks_diff


class Lcg:
    """Deterministic randomness, the same on every interpreter (Numerical Recipes' LCG)."""

    def __init__(self, seed):
        self.state = seed & 0xFFFFFFFF

    def below(self, n):
        self.state = (self.state * 1664525 + 1013904223) & 0xFFFFFFFF
        return (self.state >> 8) % n

    def chance(self, percent):
        return self.below(10000) < percent * 100

    def bytes(self, n):
        return bytes([self.below(256) for _ in range(n)])


class Faults:
    """Percentages, and ms; all zero is a perfect network."""

    def __init__(self, loss=0, duplicate=0, reorder=0, corrupt=0, delay=5, jitter=0):
        self.loss = loss
        self.duplicate = duplicate
        self.reorder = reorder
        self.corrupt = corrupt
        self.delay = delay
        self.jitter = jitter


class Link:
    """One connection: two directions, alive until either end or the network ends it."""

    def __init__(self, datagram):
        self.datagram = datagram
        self.alive = True
        self.arrival = {"device": 0, "server": 0}


class Store:
    """What a disk keeps: survives every reboot of the server."""

    def __init__(self):
        self.rows = {}
        self.order = []
        self.gaps = []

    def commit(self, key, payload):
        if key not in self.rows:
            self.rows[key] = payload
            self.order.append((key, payload))

    def watermarks(self, epoch):
        marks = {}
        for row_epoch, stream, seq in self.rows:
            if row_epoch == epoch:
                marks[stream] = max(marks.get(stream, 0), seq)
        return marks


class World:
    """Owns the clock, the network and both ends."""

    def __init__(self, seed, faults, start_tick=0, datagram=True, commit_ms=10, first_seq=1):
        self.random = Lcg(seed)
        self.faults = faults
        self.start_tick = start_tick
        self.datagram = datagram
        self.commit_ms = commit_ms
        self.commit_at = 0
        self.store = Store()
        self.time = 0
        self.link = None
        self.sent = 0
        self.lost = 0
        self.server = None
        self.server_down_until = 0
        self.pending = []
        self.generation = 0
        self.opened = 0
        self.delivered = {}
        self.outbox = {}
        self.closings = []
        self.times = []
        self._queue = []
        self._counter = 0
        self._wakes = {"device": None, "server": None}
        self._first_seq = first_seq
        self.new_device()

    # -- the device ----------------------------------------------------------------

    def new_device(self, epoch=None, unacknowledged=None, next_seqs=None):
        """Boot the device: with nothing, or with what its spool kept."""
        self.device = Session(self.random.bytes, epoch)
        for stream in (2, 3):
            first = (next_seqs or {}).get(stream, self._first_seq)
            waiting = [m for m in (unacknowledged or []) if m[0] == stream]
            frames = sum([self.device.sender.frames_of(len(payload)) for _, payload in waiting])
            self.device.sender.open_stream(stream, first - frames)
            for _, payload in waiting:
                self.device.send(stream, 0x10, payload)

    def say(self, stream, payload):
        """The device's program hands over one message (it waits outside for room)."""
        self.outbox.setdefault(stream, []).append(payload)
        self._feed()
        self.pump("device")

    def _feed(self):
        for stream, waiting in self.outbox.items():
            while waiting and self.device.has_room(stream, len(waiting[0])):
                self.device.send(stream, 0x10, waiting.pop(0))

    def connect(self, datagram=None):
        if self.link is not None and self.link.alive:
            self.cut()
        if datagram is not None:
            self.datagram = datagram
        self.link = Link(self.datagram)
        self.generation += 1
        self.device.open_link(self.now(), self.datagram, Hello())
        self.pump("device")

    def cut(self):
        """The network drops the link; on a stream link both ends notice."""
        if self.link is not None:
            self.link.alive = False
            self.link = None
        self.device.close_link()
        self.server = None

    def reboot_device(self, keeps_spool):
        """Power cut on the device; with a spool it comes back with epoch and backlog."""
        self.cut()
        if not keeps_spool:
            self.outbox = {}
            self.delivered = {}
            self.new_device()
            return
        streams = self.device.sender.streams
        backlog = []
        nexts = {}
        for number, stream in streams.items():
            nexts[number] = stream.next_seq
            parts = []
            for frame in stream.frames:
                parts.append(frame.payload)
                if not frame.flags & MORE:
                    backlog.append((number, b"".join(parts)))
                    parts = []
        self.new_device(self.device.epoch, backlog, nexts)

    # -- the server ----------------------------------------------------------------

    def kill_server(self, down_ms):
        """kill -9: what was not committed is gone, the link with it."""
        self.pending = []
        self.server_down_until = self.time + down_ms
        self.server = None
        if self.link is not None and not self.link.datagram:
            self.cut()

    def _accept(self):
        self.server = AcceptorSession(
            self.random.bytes, wall_ms=lambda: 1_700_000_000_000 + self.time
        )
        self.server.open_link(self.now(), self.link.datagram)
        self.server_generation = self.generation

    def _commit(self, session, batch_generation, event):
        if session is not self.server or batch_generation != self.generation:
            # The link is gone, the process is not: the commit still happens.
            if (session, event) not in self.pending:
                return
        if (session, event) in self.pending:
            self.pending.remove((session, event))
            self.store.commit((session.peer_epoch, event.stream, event.seq), event.payload)
            if session is self.server:
                session.acknowledge(event.stream, event.seq, self.now())
                self.pump("server")

    # -- time and the network --------------------------------------------------------

    def now(self):
        return ticks_add(self.start_tick, self.time)

    def at(self, time, action, *args):
        self._counter += 1
        heapq.heappush(self._queue, (max(time, self.time), self._counter, action, args))

    def run(self, until, done=None):
        """Run to ``until`` ms, or until ``done()``; return whether it was done."""
        while self._queue and self._queue[0][0] <= until:
            self.time, _, action, args = heapq.heappop(self._queue)
            action(*args)
            if done is not None and done():
                return True
        if not done:
            self.time = until
        return done is not None and done()

    def transmit(self, sender, data):
        link, faults, random = self.link, self.faults, self.random
        receiver = "server" if sender == "device" else "device"
        self.sent += 1
        if not link.datagram:
            delay = faults.delay + (random.below(faults.jitter) if faults.jitter else 0)
            at = max(self.time + delay, link.arrival[receiver])
            link.arrival[receiver] = at
            self.at(at, self._arrive, link, receiver, data)
            return
        if random.chance(faults.loss) or random.chance(faults.corrupt):
            self.lost += 1
            return
        for _ in range(2 if random.chance(faults.duplicate) else 1):
            delay = faults.delay + (random.below(faults.jitter) if faults.jitter else 0)
            if random.chance(faults.reorder):
                delay += 20 + random.below(60)
            self.at(self.time + delay, self._arrive, link, receiver, data)

    def _arrive(self, link, receiver, data):
        if link is not self.link or not link.alive:
            return
        if receiver == "server":
            if self.time < self.server_down_until:
                return
            if self.server is None or self.server_generation != self.generation:
                # A datagram of an association that a restarted server does not know.
                if self.generation_seen() and link.datagram:
                    return
                self._accept()
                link.accepted = True
            self.server.receive_data(data, self.now())
        else:
            self.device.receive_data(data, self.now())
        self.pump(receiver)

    def generation_seen(self):
        return getattr(self.link, "accepted", False)

    def pump(self, who):
        session = self.device if who == "device" else self.server
        if session is None or self.link is None:
            return
        for event in session.take_events():
            self._on_event(who, session, event)
        if who == "device" and session.state == OPEN:
            self._feed()
        if self.link is None:
            return
        while True:
            chunks = session.data_to_send(self.now())
            if not chunks:
                break
            for chunk in chunks:
                self.transmit(who, chunk)
        timer = session.next_timer()
        if timer is not None:
            due = self.time + max(0, ticks_diff(timer, self.now()))
            if self._wakes[who] is None or self._wakes[who] > due or self._wakes[who] <= self.time:
                self._wakes[who] = due
                self.at(due, self._wake, who)

    def _wake(self, who):
        if self._wakes[who] != self.time:
            return
        self._wakes[who] = None
        session = self.device if who == "device" else self.server
        if session is not None:
            session.handle_timer(self.now())
            self.pump(who)

    def _on_event(self, who, session, event):
        if isinstance(event, HelloReceived):
            # As the server does: what is pending is committed before the answer.
            for waiting_session, waiting in self.pending[:]:
                self._commit(waiting_session, self.generation, waiting)
            welcome = Welcome()
            welcome.session_id = b"12345678"
            marks = self.store.watermarks(event.hello.epoch)
            session.welcome(welcome, event.hello, marks, self.now())
            for later in session.take_events():
                self._on_event(who, session, later)
        elif isinstance(event, events.Received) and who == "server":
            self.pending.append((session, event))
            # One writer: whatever its pace, it commits in the order of arrival.
            self.commit_at = max(self.commit_at, self.time + self.commit_ms)
            self.at(self.commit_at, self._commit, session, self.generation, event)
        elif isinstance(event, events.Delivered):
            self.delivered[event.stream] = event.seq
        elif isinstance(event, Gap):
            self.store.gaps.append((event.stream, event.first, event.last))
        elif isinstance(event, events.Opened) and who == "device":
            self.opened += 1
        elif isinstance(event, events.TimeHeard):
            self.times.append(event.unix_ms)
        elif isinstance(event, (events.Closed, events.Refused)):
            self.closings.append((who, event.ending.reason))
            if who == "device":
                self.cut()
                self.at(self.time + 200, self._reconnect)

    def _reconnect(self):
        if self.link is None:
            self.connect()

    def watch(self, period=1000):
        """The device's shell: an end that was cut, or a HELLO without answer, is retried."""
        if self.link is None:
            self.connect()
        elif self.device.state == GREETING and self.time - self._greeting_since() > 6000:
            self.cut()
            self.connect()
        self.at(self.time + period, self.watch, period)

    def _greeting_since(self):
        if getattr(self, "_greeting_link", None) is not self.link:
            self._greeting_link = self.link
            self._greeting_time = self.time
        return self._greeting_time

    def is_quiet(self):
        """Everything said has been delivered."""
        if any([w for w in self.outbox.values()]):
            return False
        return all([not s.frames for s in self.device.sender.streams.values()])

    def check_order(self):
        """Within a stream the store's rows are in the order of sequence and of payload."""
        last = {}
        for (epoch, stream, seq), payload in self.store.order:
            key = (epoch, stream)
            assert seq > last.get(key, (0, b""))[0], "row %r out of order" % (key,)
            last[key] = (seq, payload)


__all__ = ("CLOSING", "DOWN", "OPEN", "OVER", "Faults", "Lcg", "World")
