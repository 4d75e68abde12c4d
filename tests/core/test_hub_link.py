"""Messages of sensors at a hub: whatever a sensor sends, its program gets readings or nothing."""

import asyncio

from world import CLOSING, Faults, World

from fleetnet import hub_link
from fleetnet.endpoint import Endpoint
from fleetnet.errors import GOING_AWAY, LinkClosed
from fleetnet.events import Delivered
from fleetnet.frame import EVENT, OPTIONAL, RAW, READINGS, encode_frame
from fleetnet.handshake import Hello
from fleetnet.hub import Hub, Sensor
from fleetnet.hub_link import Message
from fleetnet.ports import port
from fleetnet.raw import encode_raw
from fleetnet.readings import encode_event
from fleetnet.session import Session


class Frame:
    def __init__(self, kind, payload):
        self.kind = kind
        self.payload = payload
        self.stream = 1
        self.seq = 7


def heard(kind, payload, boot=0, offset_ms=0):
    message = Message(Sensor("cam-01"), b"epoch", Frame(kind, payload), boot, offset_ms)
    return [
        (each.kind, each.channel, each.unix_ms, each.value, each.seq) for each in message.readings()
    ]


def test_readings_events_and_raw_bytes():
    batch = b'[1000,0,["t","h"],[[0,0,21.5],[1,10,{"a":1}]]]'
    assert heard(READINGS, batch) == [
        ("reading", "t", 1000, 21.5, 7),
        ("reading", "h", 1010, {"a": 1}, 7),
    ]
    assert heard(EVENT, encode_event("started", None, 5, 0)) == [("event", "started", 5, None, 7)]
    assert heard(RAW, encode_raw("c", b"\x00\x01", 5, 0, 42)) == [("raw", "c", 5, b"\x00\x01", 7)]
    assert heard(READINGS | OPTIONAL, batch) == heard(READINGS, batch)


def test_times_of_an_unset_clock_are_dated_where_the_boot_is_known():
    batch = b'[1000,9,["t"],[[0,0,1]]]'
    assert heard(READINGS, batch, 9, 500_000) == [("reading", "t", 501_000, 1, 7)]
    assert heard(READINGS, batch, 9, 0) == [("reading", "t", None, 1, 7)]
    assert heard(READINGS, batch, 8, 500_000) == [("reading", "t", None, 1, 7)]


def test_what_breaks_the_rules_is_nothing_and_raises_nothing():
    for body in (
        b"",
        b"\xff\xfe",
        b"{}",
        b"[[]",
        b"[" * 8000,
        b"[" * 4000 + b"]" * 4000,
        b"[1,0]",
        b"[1,0,5,[[0,0,1]]]",
        b'[1,0,["a"],[[1,0,1]]]',
        b'[1,0,["a"],[{"x":1}]]',
        b"[1,0,[5],[[0,0,1]]]",
        b'[1,0,{"a":"b"},[["c",0,1]]]',
        b'["s",0,["a"],[[0,"t",1]]]',
        b'[null,0,["a"],[[0,0,1]]]',
        b'[1e9,0,["a"],[[0,0,1]]]',
    ):
        assert heard(READINGS, body) == [], body
    for body in (b"{}", b'[1,0,"a"]', b"[1,0,5,null]", b'["1",0,"a",null]', b"[" * 8000):
        assert heard(EVENT, body) == [], body
    for body in (b"", b"\x2a", b"\x2a\x05ab", b"\x2a\x01\xff\x01\x00", b"\xff" * 12):
        assert heard(RAW, body) == [], body


def committed(world, numbers):
    """Whether exactly these payloads are in the store and known to be so at the device."""
    rows = [payload for _, payload in world.store.order]
    return rows == [b"%d" % n for n in numbers] and world.delivered.get(3) == len(rows)


def bye_behind_three_messages(datagram):
    """A world in which three messages are durable, and the acknowledgement of two waits."""
    world = World(5, Faults(delay=5), 0, datagram)
    world.connect()
    world.run(50)
    world.server.receiver.ack_delay_ms = 5_000
    world.say(3, b"0")
    assert world.run(1_000, lambda: world.delivered.get(3) == 1), "the first one does not wait"
    for number in (1, 2):
        world.say(3, b"%d" % number)
    assert world.run(1_000, lambda: len(world.store.rows) == 3)
    assert world.delivered[3] == 1, "the others' acknowledgement waits"
    return world


def test_an_acknowledgement_waits_for_others_when_one_left_within_the_delay():
    for datagram in (True, False):
        world = World(5, Faults(delay=5), 0, datagram, commit_ms=0)
        world.connect()
        world.run(50)
        # 5 ms there and 5 ms back; the second and the third come soon behind an ACK.
        for number, (at, took) in enumerate(((1_000, 10), (1_040, 110), (1_200, 110), (9_000, 10))):
            world.run(at)
            world.say(3, b"%d" % number)
            world.run(at + took - 1)
            assert world.delivered.get(3, 0) == number, at
            world.run(at + took)
            assert world.delivered[3] == number + 1, at


def test_what_is_durable_is_acknowledged_before_bye():
    for datagram in (True, False):
        world = bye_behind_three_messages(datagram)
        world.server.bye(world.now(), GOING_AWAY)
        world.pump("server")
        assert world.run(world.time + 150, lambda: world.closings), "it hears BYE"
        assert committed(world, range(3)), "nothing behind BYE is heard"


def test_what_is_durable_is_acknowledged_before_the_end_for_a_broken_rule():
    world = bye_behind_three_messages(True)
    world.server.receive_data(encode_frame(0x0F, 0, 0, b""), world.now())
    world.pump("server")
    assert world.run(world.time + 150, lambda: world.closings)
    assert committed(world, range(3))


def test_a_bye_that_is_said_again_comes_behind_what_is_durable_by_then():
    """The first BYE is lost, with its ACK; one more message becomes durable meanwhile."""
    world = bye_behind_three_messages(True)
    world.say(3, b"3")
    world.run(world.time + 6)  # it has arrived, and is not committed
    world.faults.loss = 100
    world.server.bye(world.now(), GOING_AWAY)
    world.pump("server")
    assert world.server.state == CLOSING
    world.run(world.time + 500)
    assert len(world.store.rows) == 4
    world.faults.loss = 0
    assert world.run(world.time + 1_500, lambda: world.closings)
    assert committed(world, range(4))


class Pipe:
    """One end of a stream link in memory."""

    datagram = False
    what = "the other end"

    def __init__(self):
        self.other = None
        self._data = []
        self._news = asyncio.Event()
        self.is_closed = False

    async def send(self, data):
        self.other._data.append(bytes(data))
        self.other._news.set()

    async def receive(self):
        while not self._data:
            if self.is_closed or self.other.is_closed:
                raise LinkClosed("closed")
            self._news.clear()
            await self._news.wait()
        return self._data.pop(0)

    def close(self):
        self.is_closed = True
        self._news.set()
        self.other._news.set()

    def cipher(self):
        return None


class MemorySensor:
    """A device's session with a hub, over a pipe."""

    def __init__(self, hub):
        self.delivered = 0
        self.session = Session(port.random_bytes)
        self.session.sender.open_stream(3, 1)
        self.connect(hub)

    def connect(self, hub):
        near, far = Pipe(), Pipe()
        near.other, far.other = far, near
        self.session.open_link(port.ticks(), False, Hello())
        self._endpoint = Endpoint(self.session, near, self._on_event)
        self._tasks = [
            asyncio.create_task(hub._serve(far, lambda: None)),
            asyncio.create_task(self._run()),
        ]

    async def _run(self):
        try:
            await self._endpoint.run()
        except LinkClosed:
            pass

    def _on_event(self, event):
        if isinstance(event, Delivered):
            self.delivered = event.seq

    def say(self, text):
        self.session.send(3, EVENT, encode_event(text, None, 5, 0))
        self._endpoint.wake()

    async def ended(self):
        for task in self._tasks:
            await task


async def until(is_true):
    for _ in range(500):
        if is_true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("in 5 s still not")


def with_hub(work, **options):
    """Run ``work(hub)`` with a hub that takes every link for cam-01."""
    real = hub_link.device_name
    hub_link.device_name = lambda certificate: "cam-01"
    try:
        asyncio.run(work(Hub("ca", "cert", "key", tls_port=0, **options)))
    finally:
        hub_link.device_name = real


def test_stop_waits_for_the_message_that_is_being_stored():
    """Durable a moment later, it is acknowledged, and never stored a second time."""
    stored = []

    async def store(readings):
        await asyncio.sleep(0.2)
        stored.extend([each.channel for each in readings])

    async def work(hub):
        hub._storing = asyncio.create_task(hub._store_all())
        sensor = MemorySensor(hub)
        sensor.say("first")
        sensor.say("second")
        await until(lambda: hub._queue)  # the first is being stored, the second waits
        await hub.stop()
        await sensor.ended()
        assert stored == ["first"], stored
        assert sensor.delivered == 1, "the first is acknowledged, the second comes again"

    with_hub(work, store=store)


def test_stop_does_not_wait_for_ever_for_a_store():
    async def store(readings):
        await asyncio.sleep(60)

    async def work(hub):
        hub._storing = asyncio.create_task(hub._store_all())
        sensor = MemorySensor(hub)
        sensor.say("first")
        await until(lambda: hub._is_storing)
        await hub.stop(100)
        await sensor.ended()
        assert sensor.delivered == 0

    with_hub(work, store=store)


def test_what_was_taken_is_acknowledged_when_the_hub_stops():
    """At once, not when the acknowledgement would have been due; and nothing is handed out
    that could not be acknowledged any more."""

    async def work(hub):
        sensor = MemorySensor(hub)
        for name in ("first", "second", "third"):
            sensor.say(name)
        readings = hub.readings()
        assert (await readings.__anext__()).channel == "first"
        await until(lambda: len(hub._queue) == 2)
        assert (await readings.__anext__()).channel == "second"  # takes the first
        assert sensor.delivered == 0, "its acknowledgement waits"
        await hub.stop()
        await sensor.ended()
        assert sensor.delivered == 1
        try:
            await readings.__anext__()
        except StopAsyncIteration:
            return
        raise AssertionError("the third was handed out, and will come again")

    with_hub(work)
