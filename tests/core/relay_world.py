"""Sensors, hubs and a back-end in virtual time: real sessions, a bad network in between.

The hub's half is fleetnet_device.relay with a real outbox and spool; the back-end is that of
relay_server.py. Runs on CPython and MicroPython with the same numbers.
"""

import heapq

from flash import Flash
from part_device import remove, scratch
from relay_server import Server
from world import Lcg

from fleetnet import events
from fleetnet import frame as wire
from fleetnet.acceptor import AcceptorSession, HelloReceived
from fleetnet.handshake import Hello, Welcome
from fleetnet.ports import port
from fleetnet.session import OPEN, Session
from fleetnet.ticks import ticks_diff
from fleetnet_device.clock import Clock
from fleetnet_device.outbox import Outbox
from fleetnet_device.relay import Part
from fleetnet_device.spool import Spool
from fleetnet_device.spool_outbox import SpooledOutbox


class Wire:
    """One connection between two ends; each is (session, function called with each event)."""

    def __init__(self, world, low, high, datagram):
        self.world = world
        self.ends = [low, high]
        self.datagram = datagram
        self.alive = True
        self._arrival = [0, 0]
        self._wakes = [None, None]

    def pump(self, side):
        session, on_event = self.ends[side]
        for _ in range(2):  # what an event leads to may be an event
            for event in session.take_events():
                on_event(event)
        while self.alive:
            chunks = session.data_to_send(self.world.now)
            if not chunks:
                break
            for chunk in chunks:
                self._transmit(1 - side, chunk)
        due = session.next_timer() if self.alive else None
        if due is not None:
            at = self.world.now + max(0, ticks_diff(due, self.world.now))
            if self._wakes[side] is None or self._wakes[side] > at:
                self._wakes[side] = at
                self.world.at(at, self._wake, side)

    def _wake(self, side):
        if self.alive and self._wakes[side] is not None and self._wakes[side] <= self.world.now:
            self._wakes[side] = None
            self.ends[side][0].handle_timer(self.world.now)
            self.pump(side)

    def _transmit(self, side, data):
        world = self.world
        faults, random = world.faults, world.random
        delay = faults.delay + (random.below(faults.jitter) if faults.jitter else 0)
        if not self.datagram:
            self._arrival[side] = max(world.now + delay, self._arrival[side])
            world.at(self._arrival[side], self._arrive, side, data)
        elif not random.chance(faults.loss):
            for _ in range(2 if random.chance(faults.duplicate) else 1):
                late = 20 + random.below(60) if random.chance(faults.reorder) else 0
                world.at(world.now + delay + late, self._arrive, side, data)

    def _arrive(self, side, data):
        if self.alive:
            self.ends[side][0].receive_data(data, self.world.now)
            self.pump(side)

    def cut(self):
        if self.alive:
            self.alive = False
            for session, _ in self.ends:
                session.close_link()


class Sensor:
    """A device that says one payload after another, through whatever it is told to use."""

    def __init__(self, world, name, serial):
        self.world = world
        self.name = name
        self.serial = serial
        self.session = Session(port.random_bytes)
        self.boot = 1 + world.random.below(1 << 20)
        self.began = world.now
        self.way = None  # Hub or Server
        self.wire = None
        self.said = {}
        self.outbox = []
        self.heard = []
        self.endings = []
        self.delivered = {}
        self.opened = 0

    def say(self, stream, payload):
        self.said.setdefault(stream, []).append(payload)
        self.outbox.append((stream, payload))
        if self.wire is not None and self.wire.alive:
            self._feed()
            self.wire.pump(0)

    def _feed(self):
        kept = []
        for stream, payload in self.outbox:
            if kept or not self.session.has_room(stream, len(payload)):
                kept.append((stream, payload))
            else:
                self.session.send(stream, wire.READINGS, payload)
        self.outbox = kept

    def go(self, way):
        """Use this way from now on."""
        self.way = way
        if self.wire is not None and self.wire.alive:
            self.wire.cut()
            self.end.cut_off()
        self.connect()

    def connect(self):
        if self.way is None or (self.wire is not None and self.wire.alive):
            return
        end = self.way.answer(self) if not self.way.is_down else None
        if end is None:
            self.world.at(self.world.now + 300, self.connect)
            return
        low, high = (self.session, self._on_event), (end.session, end.on_event)
        self.wire = end.wire = Wire(self.world, low, high, self.world.datagram)
        self.end = end
        hello = Hello()
        hello.boot, hello.uptime_ms = self.boot, self.world.now - self.began
        hello.capabilities = 3
        end.session.open_link(self.world.now, self.world.datagram)
        self.session.open_link(self.world.now, self.world.datagram, hello)
        self.wire.pump(0)

    def _on_event(self, event):
        if isinstance(event, events.Opened):
            self.opened += 1
        elif isinstance(event, events.Delivered):
            self.delivered[event.stream] = event.seq
        elif isinstance(event, events.Received):
            self.heard.append((event.kind, event.payload))
            self.session.acknowledge(event.stream, event.seq, self.world.now)
        elif isinstance(event, (events.Closed, events.Refused)):
            self.endings.append(event.ending.reason)
            self.wire.cut()
            self.world.at(self.world.now + max(300, event.ending.retry_after_ms), self.connect)
        if self.session.state == OPEN:
            self._feed()

    def is_done(self):
        left = [stream for stream in self.session.sender.streams.values() if stream.frames]
        return not self.outbox and not left

    def watch(self):
        """The shell: a link that was cut is made again."""
        self.connect()
        self.world.at(self.world.now + 500, self.watch)


class HubLink:
    """What relay_link.py is to a real hub."""

    def __init__(self, hub, sensor):
        self.hub = hub
        self.sensor = sensor
        self.session = AcceptorSession(port.random_bytes, wall_ms=hub.part.wall_ms)
        self.origin = None
        self.hello = None
        self.wire = None

    def on_event(self, event):
        if isinstance(event, HelloReceived):
            self.hello = event.hello
            name, serial = self.sensor.name, self.sensor.serial
            self.origin = self.hub.part.admit(self, name, serial, event.hello)
        elif isinstance(event, events.Received) and self.origin is not None:
            if event.seq:
                self.hub.part.take(self.origin, event)
        elif isinstance(event, (events.Closed, events.Refused)):
            self.hub.part.left(self)

    def cut_off(self):
        """A stream link was cut; of a datagram link the hub would learn later."""
        if self.hub is not None:
            self.hub.part.left(self)

    def welcome(self, capabilities, marks):
        made = Welcome()
        made.session_id, made.window, made.capabilities = b"12345678", 16, capabilities
        self.session.welcome(made, self.hello, marks, self.hub.world.now)
        self.later()

    def later(self):
        self.hub.world.at(self.hub.world.now, self.wire.pump, 1)

    def refuse(self, reason, retry_after_ms, detail):
        self.session.refuse(reason, retry_after_ms, detail)
        self.later()

    def end(self, reason, retry_after_ms, detail):
        self.session.bye(self.hub.world.now, reason, retry_after_ms)
        self.later()

    def send(self, stream, kind, body):
        self.session.send(stream, kind, body)
        self.later()

    def acknowledge(self, stream, seq):
        self.session.acknowledge(stream, seq, self.hub.world.now)
        self.later()

    def set_window(self, window):
        self.session.set_window(window, self.hub.world.now)
        self.later()


class Hub:
    """A hub's device, as relay.py sees it: session, outbox, clock."""

    def __init__(self, world, name, has_flash):
        self.world = world
        self.name = name
        self.folder = scratch() if has_flash else ""
        self.disk = Flash() if has_flash else None
        self.is_down = False
        self.wire = None
        self.links = []
        self.reports = []
        self.boot()

    def boot(self):
        self.flash = self.folder
        self._outbox = Outbox(16384, 128, "newest")
        if self.disk is not None:
            self._outbox = SpooledOutbox(Spool("", 32768, files=self.disk), 16384, 128, "newest")
        self.session = Session(port.random_bytes, self._outbox.epoch())
        self._outbox.restore(self.session)
        self.clock = Clock(port)
        self.part = Part(self)

    def power_cut(self, down_ms):
        self.is_down = True
        for link in self.links:
            link.wire.cut()
            link.hub = None
        self.links = []
        if self.wire is not None:
            self.wire.cut()
        if self.disk is not None:
            self.disk = self.disk.after_power_cut()
        self.boot()
        self.world.at(self.world.now + down_ms, self._up)

    def _up(self):
        self.is_down = False

    def answer(self, sensor):
        for link in self.links:
            if link.sensor is sensor:
                link.wire.cut()
                self.part.left(link)
        self.links = [link for link in self.links if link.sensor is not sensor]
        made = HubLink(self, sensor)
        self.links.append(made)
        return made

    def connect(self):
        server = self.world.server
        if self.is_down or server.is_down or (self.wire is not None and self.wire.alive):
            return
        end = server.answer(self)
        low, high = (self.session, self._on_event), (end.session, end.on_event)
        self.wire = end.wire = Wire(self.world, low, high, self.world.datagram)
        hello = Hello()
        hello.capabilities = self.part.capability
        end.session.open_link(self.world.now, self.world.datagram)
        self.session.open_link(self.world.now, self.world.datagram, hello)
        self.wire.pump(0)

    def _on_event(self, event):
        if isinstance(event, events.Opened):
            self.clock.learn(event.welcome.unix_ms, 0)
            self._outbox.feed(self.session)
            self.part.opened(event.welcome)
        elif isinstance(event, events.Delivered):
            self._outbox.delivered(event.stream, event.seq)
            self._outbox.feed(self.session)
        elif isinstance(event, events.Received):
            self.part.receive(event)
            if event.seq:
                self.session.acknowledge(event.stream, event.seq, self.world.now)
        elif isinstance(event, (events.Closed, events.Refused)):
            self.wire.cut()
        if isinstance(event, events.TimeHeard):
            self.clock.learn(event.unix_ms, 0)

    def tick(self):
        """The shell: what tasks of a device do."""
        if self.wire is not None and not self.wire.alive and self.part.is_up:
            self.part.lost(None)
        self.connect()
        if not self.is_down:
            self.part.poll(self.world.now)
            if self.world.now % 1000 < 25:
                self._outbox.poll(self.world.now)
            if self.wire is not None and self.wire.alive:
                self.wire.pump(0)
        self.world.at(self.world.now + 25, self.tick)

    def _end_epoch(self):
        pass

    def wake(self):
        if self.wire is not None and self.wire.alive:
            self.world.at(self.world.now, self.wire.pump, 0)

    def report(self, error, where):
        self.reports.append((where, error))


class RelayWorld:
    """Replaces ticks, time and randomness while it is entered."""

    names = ("ticks", "unix_ms", "random_bytes")

    def __init__(self, seed, faults, datagram):
        self.random = Lcg(seed)
        self.faults = faults
        self.datagram = datagram
        self.now = 0
        self._queue = []
        self._count = 0
        self.hubs = []
        self.sensors = []

    def __enter__(self):
        self._before = [getattr(port, name) for name in self.names]
        port.ticks = lambda: self.now
        port.unix_ms = lambda: 0
        port.random_bytes = self.random.bytes
        self.server = Server(self)
        return self

    def __exit__(self, kind, error, trace):
        for name, value in zip(self.names, self._before):
            setattr(port, name, value)
        for hub in self.hubs:
            if hub.folder:
                remove(hub.folder)

    def hub(self, name, has_flash=False):
        made = Hub(self, name, has_flash)
        self.hubs.append(made)
        made.tick()
        return made

    def sensor(self, name, *hubs):
        made = Sensor(self, name, 0x1000 + len(self.sensors))
        self.sensors.append(made)
        self.server.assigned[name] = [hub.name for hub in hubs]
        made.watch()
        return made

    def at(self, time, action, *args):
        self._count += 1
        heapq.heappush(self._queue, (max(time, self.now), self._count, action, args))

    def run(self, ms, done=None):
        """Let so much time pass, or until ``done()``; return whether it was done."""
        until = self.now + ms
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action, args = heapq.heappop(self._queue)
            action(*args)
            if done is not None and done():
                return True
        self.now = until
        return False

    def check(self):
        """Everything that was said is in the store once, in order, and acknowledged."""
        for sensor in self.sensors:
            for stream, said in sensor.said.items():
                found = self.server.payloads(sensor, stream)
                assert found == said, "%s, stream %d: %d of %d" % (
                    sensor.name, stream, len(found), len(said),
                )  # fmt: skip
        assert not self.server.gaps, self.server.gaps
