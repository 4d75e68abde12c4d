"""A device with a spool and a server with a store: two real sessions, no network between.

Links are cut after any number of pieces, the device loses its power at any time, the server
forgets what it did not commit. Runs on CPython and MicroPython.
"""

from flash import Flash
from world import Lcg

from fleetnet import events
from fleetnet.acceptor import AcceptorSession, HelloReceived
from fleetnet.errors import IDLE
from fleetnet.handshake import Hello, Welcome
from fleetnet.receiver import Gap
from fleetnet.session import OPEN, Session
from fleetnet.ticks import ticks_add, ticks_diff
from fleetnet_device.spool import Spool
from fleetnet_device.spool_outbox import SpooledOutbox


class Store:
    """What the server's disk has."""

    def __init__(self):
        self.rows = {}
        self.order = []
        self.gaps = []
        self.doubles = 0

    def commit(self, epoch, event):
        key = (epoch, event.stream, event.seq)
        if key in self.rows:
            # The same number must mean the same message, for ever.
            assert self.rows[key] == event.payload, "%r means two messages" % (key,)
            self.doubles += 1
            return
        self.rows[key] = event.payload
        self.order.append((event.stream, event.payload))

    def watermarks(self, epoch):
        marks = {}
        for row_epoch, stream, seq in self.rows:
            if row_epoch == epoch:
                marks[stream] = max(marks.get(stream, 0), seq)
        for row_epoch, stream, _, last in self.gaps:
            if row_epoch == epoch:
                marks[stream] = max(marks.get(stream, 0), last)
        return marks


class Rig:
    """Both ends, and the time."""

    def __init__(self, seed=1, flash=None, spool_bytes=16384, policy="oldest", ram=(4096, 32)):
        self.random = Lcg(seed)
        self.flash = flash or Flash()
        self.store = Store()
        self.spool_bytes = spool_bytes
        self.policy = policy
        self.ram = ram
        self.now = 0
        self.acknowledged = 0
        self.dropped = 0
        self.recovered = 0
        self.epochs = []
        self.server = None
        self.pending = []
        self.commit_fails = 0
        self.boot()

    # -- the device ------------------------------------------------------------------

    def boot(self):
        """The device starts, with whatever its flash has."""
        spool = Spool("", self.spool_bytes, hold_ms=3000, late_ms=6000, files=self.flash)
        self.outbox = SpooledOutbox(spool, self.ram[0], self.ram[1], self.policy)
        self.session = Session(self.random.bytes, self.outbox.epoch())
        self.outbox.restore(self.session)
        self.epochs.append(self.session.epoch)
        self.recovered = self.outbox.recovered_readings
        self.acknowledged = 0

    def reboot(self):
        """Its power is cut, and comes back."""
        self.cut()
        self.dropped += self.outbox.dropped_messages
        self.flash = self.flash.after_power_cut()
        self.boot()

    def say(self, payload, stream=3, readings=1):
        self.outbox.put(self.session, stream, 0x10, payload, readings)

    def pass_time(self, ms, poll_ms=1000):
        """Nothing is heard; the device looks at its outbox each ``poll_ms``."""
        while ms > 0:
            step = min(ms, poll_ms)
            self.now = ticks_add(self.now, step)
            ms -= step
            self.outbox.poll(self.now)

    # -- the link --------------------------------------------------------------------

    def connect(self):
        self.cut()
        if self.outbox.can_begin_epoch():
            self.session = Session(self.random.bytes, self.outbox.epoch())
            self.outbox.begin_epoch(self.session)
            self.epochs.append(self.session.epoch)
        self.server = AcceptorSession(self.random.bytes)
        self.session.open_link(self.now, False, Hello())
        self.server.open_link(self.now, False)

    def cut(self):
        self.session.close_link()
        self.server = None
        # What the server had received it commits, when it lives; see kill_server.
        self._commit(None)

    def kill_server(self):
        self.pending = []
        self.cut()

    def run(self, pieces=1 << 30, ms=60000):
        """Let the link work until all is quiet, ``pieces`` were carried or ``ms`` went by."""
        end = ticks_add(self.now, ms)
        while self.server is not None and ticks_diff(end, self.now) > 0:
            moved = False
            for session, peer, on_event in (
                (self.session, self.server, self._on_device),
                (self.server, self.session, self._on_server),
            ):
                for data in session.data_to_send(self.now):
                    if pieces <= 0:
                        self.cut()
                        return
                    pieces -= 1
                    moved = True
                    peer.receive_data(data, self.now)
                for event in session.take_events():
                    on_event(event)
                    moved = True
                if self.server is None:
                    return
            self._commit(self.server)
            if not moved and not self._wait(end):
                return

    def _wait(self, end):
        """Go to the next timer; False when only keepalive is left."""
        due = None
        for session in (self.session, self.server):
            timer = session.next_timer()
            if timer is not None and (due is None or ticks_diff(timer, due) < 0):
                due = timer
        if due is None or ticks_diff(due, self.now) > 2000 or ticks_diff(due, end) > 0:
            return False
        if ticks_diff(due, self.now) > 0:
            self.now = due
        self.outbox.poll(self.now)
        self.session.handle_timer(self.now)
        self.server.handle_timer(self.now)
        return True

    def _on_device(self, event):
        if isinstance(event, events.Delivered):
            self.acknowledged += self.outbox.delivered(event.stream, event.seq)
        elif isinstance(event, events.Closed):
            # Nothing else may end it, least of all a rule that was broken.
            assert event.ending.reason == IDLE, event.ending.detail
            self.cut()
        self.acknowledged += self.outbox.feed(self.session)

    def _on_server(self, event):
        server = self.server
        if isinstance(event, HelloReceived):
            # As the real one: what older links brought is committed first, or nobody comes in.
            if self.commit_fails and self.pending:
                self.cut()
                return
            self._commit(None)
            welcome = Welcome()
            welcome.session_id = b"12345678"
            marks = self.store.watermarks(event.hello.epoch)
            server.welcome(welcome, event.hello, marks, self.now)
        elif isinstance(event, events.Received):
            self.pending.append((server.peer_epoch, event))
        elif isinstance(event, Gap):
            self.pending.append((server.peer_epoch, event))
        elif isinstance(event, events.Closed):
            assert event.ending.reason == IDLE, event.ending.detail
            self.cut()

    def _commit(self, session):
        if self.commit_fails:
            return
        for epoch, event in self.pending:
            if isinstance(event, Gap):
                self.store.gaps.append((epoch, event.stream, event.first, event.last))
                continue
            self.store.commit(epoch, event)
            if session is not None:
                session.acknowledge(event.stream, event.seq, self.now)
        self.pending = []

    def drain(self):
        """Connect and go on until the outbox is empty."""
        for _ in range(50):
            self.connect()
            self.run()
            if not len(self.outbox) and self.session.state == OPEN:
                return
        raise AssertionError("%d messages stay" % len(self.outbox))

    def payloads(self, stream=3):
        """What the store has of a stream, in the order of arrival."""
        return [payload for other, payload in self.store.order if other == stream]


def texts(first, last):
    """Messages that tell their number."""
    return [b"message %d" % n for n in range(first, last)]


def say_all(rig, messages, stream=3):
    """Let the device queue them."""
    for message in messages:
        rig.say(message, stream)


def segments(rig):
    """Names of the spool's files with records."""
    return [name for name in rig.flash.files if name.endswith(".spl")]
