"""A device that is short of memory, given up on, cut by Ctrl-C: whole, or said, and it goes on.

Whole devices in virtual time (virtual_world.py), and the halves of a session below them.
"""

import asyncio
import sys

from virtual_world import Server, VirtualWorld
from world import Lcg

from fleetnet.frame import EVENT, EVENTS, RAW, TELEMETRY
from fleetnet.session import Session
from fleetnet.ticks import PERIOD
from fleetnet_device import Device
from fleetnet_device.outbox import Outbox

CONFIG = {
    "name": "cam-1",
    "host": "server",
    "tls_port": 1,
    "dtls_port": 2,
    "transport": "dtls",
    "ca": b"\x30\x06anchor",
    "cert": b"\x30\x03old",
    "key": b"\x30\x03key",
}


class Tight:
    """A payload whose ``last`` slice does not fit the heap, until that is None."""

    def __init__(self, data, last):
        self.data = data
        self.last = last

    def __len__(self):
        return len(self.data)

    def __getitem__(self, part):
        if self.last is not None and part.start >= self.last:
            raise MemoryError()
        return self.data[part]


def fails_once(function):
    """The function, out of memory when it is called first."""
    calls = []

    def called(*args):
        calls.append(args)
        if len(calls) == 1:
            raise MemoryError()
        return function(*args)

    return called


def frames_of(session, stream):
    return [(frame.seq, bytes(frame.payload)) for frame in session.sender.streams[stream].frames]


def test_a_message_without_memory_for_its_last_fragment_is_not_begun():
    session, outbox = Session(Lcg(1).bytes, None, 4), Outbox()
    tight = Tight(b"abcdefghij", 8)
    outbox.put(session, TELEMETRY, RAW, b"one", 1)
    outbox.put(session, TELEMETRY, RAW, tight, 1)
    outbox.put(session, EVENTS, EVENT, b"two", 1)
    assert frames_of(session, TELEMETRY) == [(1, b"one")]
    assert len(outbox) == 3, "it is kept, and not in the way of others"
    tight.last = None
    outbox.feed(session)
    whole = [(1, b"one"), (2, b"abcd"), (3, b"efgh"), (4, b"ij")]
    assert frames_of(session, TELEMETRY) == whole
    assert frames_of(session, EVENTS) == [(1, b"two")]
    assert outbox.delivered(TELEMETRY, 4) == 2 and outbox.delivered(EVENTS, 1) == 1
    assert (len(outbox), outbox.size, outbox.held) == (0, 0, 0)


def device_of(world, **options):
    options.setdefault("linger_ms", 0)
    world.device = Device(dict(CONFIG), **options)
    return world.device


async def stopped(world):
    task = asyncio.create_task(world.device.stop())
    await world.until(task.done)


def live(story, start=0):
    """Run ``story(world)`` in a world whose server takes the device."""
    with VirtualWorld(Server(CONFIG["cert"])) as world:
        world.now = start
        asyncio.run(story(world))


def test_memory_that_was_short_once_ends_nothing():
    """Each of these ended a task that nobody begins again."""

    async def story(world):
        device = device_of(world, linger_ms=500)
        device.link_opening = fails_once(device.link_opening)
        device.link_lost = fails_once(device.link_lost)
        device._seal = fails_once(device._seal)
        device._outbox.poll = fails_once(device._outbox.poll)
        device.new_link = fails_once(device.new_link)
        await device.start()
        await device.send("temperature", 1)
        await world.until(lambda: world.server.messages, 120_000)
        world.server.broken = 1
        world.server.current().close()
        await device.send("temperature", 2)
        await world.until(lambda: len(world.server.messages) == 2, 120_000)
        assert device.connects == 2 and device.errors >= 4
        await stopped(world)

    live(story)


def test_a_link_without_memory_for_its_session_is_closed():
    async def story(world):
        device = device_of(world)
        links = []
        opened = device.new_link

        def no_memory(datagram):
            if not links:
                links.append(world.opened[-1])
                raise MemoryError()
            return opened(datagram)

        device.new_link = no_memory
        await device.start()
        await world.until(lambda: device.is_open)
        assert links[0]._is_closed, "a board has five sockets"
        await stopped(world)

    live(story)


def test_who_gives_up_waiting_for_a_stop_has_stopped_it():
    async def story(world):
        device = device_of(world)
        await device.start()
        await world.until(lambda: device.is_open)
        link = world.server.current()
        link.pump = lambda: None  # the server acknowledges nothing more
        await device.send("temperature", 1)
        stopping = asyncio.create_task(device.stop(60_000))
        await world.pass_ms(100)
        stopping.cancel()
        await world.until(lambda: link._is_closed, 1_000)
        assert device.state == "offline" and not device._tasks
        await device.start()
        await world.until(lambda: world.server.messages)
        await stopped(world)

    live(story)


def test_a_device_goes_on_in_another_event_loop():
    """Ctrl-C, and asyncio.run once more: its tasks are gone, and said nothing."""
    server = Server(CONFIG["cert"])

    async def first(world):
        await device_of(world).start()
        await world.until(lambda: world.device.is_open)
        await world.device.send("temperature", 1)

    async def second(world):
        device = world.device
        await device.start()
        await device.start()
        await device.send("temperature", 2)
        await world.until(lambda: device.acknowledged == 2)
        assert device.connects == 2
        await stopped(world)

    with VirtualWorld(server) as world:
        asyncio.run(first(world))
        if sys.implementation.name == "micropython":
            asyncio.new_event_loop()
        asyncio.run(second(world))


def test_ticks_that_wrap_in_the_middle_of_everything():
    async def story(world):
        start = world.now
        device = device_of(world, linger_ms=300)
        await device.start()
        for number in range(30):
            await device.send("temperature", number)
            if number in (9, 15, 21):
                await world.until(lambda: device.is_open)
                world.server.current().close()
                world.server.broken = 2
            await world.pass_ms(400)
        await world.until(lambda: device.acknowledged == 30)
        assert device.connects == 4
        assert device.clock.uptime_ms() == world.now - start
        await stopped(world)

    for start in (PERIOD - 1, PERIOD - 4_000, PERIOD - 6_000, PERIOD // 2 - 4_000):
        live(story, start)
