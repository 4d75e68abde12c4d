"""A whole Device and a scripted back-end in virtual time, without a network and without TLS.

    with VirtualWorld(server):
        device = Device(bundle, linger_ms=0)
        await device.start()
        await world.until(lambda: device.is_open)

``open_link`` and ``client_context`` are replaced: a context is the credentials themselves, a link
hands what is sent to an AcceptorSession at once. Clock and sleeps are the world's: time passes
when nothing else can happen. Both interpreters.
"""

import asyncio

from fleetnet import events
from fleetnet.acceptor import AcceptorSession, HelloReceived
from fleetnet.errors import LinkClosed, WrongCA, WrongPin
from fleetnet.frame import CREDENTIAL_STATE
from fleetnet.handshake import Welcome
from fleetnet.ports import port
from fleetnet.ticks import ticks_diff
from fleetnet_device import connection, enrol, rotation

ANCHOR = b"\x30\x06anchor"
PIN = b"P" * 32
NOW_MS = 1_800_000_000_000


class Context:
    """What a client shows and trusts."""

    def __init__(self, ca=None, cert=None, key=None, datagram=False, pins=None, psk=None):
        self.datagram = datagram
        self.anchors = ca if isinstance(ca, (list, tuple)) else [ca]
        self.anchors = [load(source) for source in self.anchors if source]
        self.certificate = load(cert)
        self.key = load(key)
        self.pins = pins
        self.psk = psk


def load(source):
    if isinstance(source, str):
        with open(source, "rb") as file:
            return file.read()
    return source


class Server:
    """A back-end that a test scripts.

    Attributes:
        accepted: certificates (or PSK identities) that may come in; the others get ``reason``.
        opened: (certificate, HELLO's identity) of each session; probes: the same of each probe.
        claims: HELLO of each link without a certificate.
        states: CREDENTIAL_STATE bodies, in order. messages: payloads of all else.
        lost: (port, why) of links that were not opened.
    """

    def __init__(self, *accepted):
        self.accepted = list(accepted)
        self.reason = 6
        self.anchor = ANCHOR
        self.pin = PIN
        self.opened = []
        self.probes = []
        self.claims = []
        self.states = []
        self.messages = []
        self.lost = []
        self.broken = 0  # so many links break before they are up
        self.no_memory = False  # for a second link
        self.held = ()  # certificates whose links wait before they are up
        self.links = []
        self.marks = {}  # epoch -> stream -> the last durable sequence number
        self.on_state = None

    def admit(self, context):
        """Raise what a device would see of a handshake."""
        if context.pins is not None:
            wanted = [bytes.fromhex(p) if isinstance(p, str) else bytes(p) for p in context.pins]
            if self.pin not in wanted:
                raise WrongPin("none of the pinned")
        elif context.psk is None and self.anchor not in context.anchors:
            raise WrongCA("does not lead to our anchor")
        if self.broken:
            self.broken -= 1
            raise LinkClosed("cut")

    def current(self):
        """The newest link that is up."""
        return self.links[-1]

    def say(self, kind, body):
        """Send a message to the device."""
        link = self.current()
        link.session.send(1, kind, body)
        link.pump()


class Link:
    """Both ends of a connection; the device's end is what open_link gives."""

    what = "server"

    def __init__(self, world, context):
        self.datagram = context.datagram
        self.context = context
        self.certificate = context.certificate or (context.psk or [b""])[0]
        self.session = AcceptorSession(port.random_bytes, wall_ms=lambda: NOW_MS + world.now)
        self.session.open_link(port.ticks(), context.datagram)
        self.frames_up = 0
        self._world = world
        self._inbox = []
        self._wake = asyncio.Event()
        self._is_closed = False

    async def send(self, chunk):
        await asyncio.sleep(0)
        if self._is_closed:
            raise LinkClosed("closed")
        self.frames_up += 1
        self.session.receive_data(chunk, port.ticks())
        self.pump()

    async def receive(self):
        while not self._inbox:
            if self._is_closed:
                raise LinkClosed("closed")
            self._wake.clear()
            await self._wake.wait()
        return self._inbox.pop(0)

    def cipher(self):
        return ("suite", "version")

    def close(self):
        self._is_closed = True
        self._wake.set()
        if self in self._world.server.links:
            self._world.server.links.remove(self)

    def pump(self):
        """Let the server's session speak."""
        for event in self.session.take_events():
            self._take(event)
        while True:
            chunks = self.session.data_to_send(port.ticks())
            if not chunks:
                break
            self._inbox.extend(chunks)
            self._wake.set()

    def _take(self, event):
        server = self._world.server
        if isinstance(event, HelloReceived):
            hello = event.hello
            if self.certificate and self.certificate not in server.accepted:
                self.session.refuse(server.reason)
            elif hello.probe:
                server.probes.append((self.certificate, hello.identity))
                self.session.refuse(0)
            else:
                seen = server.opened if self.certificate else server.claims
                seen.append((self.certificate, hello.identity, hello.capabilities))
                server.links.append(self)
                marks = server.marks.setdefault(hello.epoch, {})
                self.session.welcome(welcome(), hello, marks, port.ticks())
        elif isinstance(event, events.Received):
            server.marks[self.session.peer_epoch][event.stream] = event.seq
            self.session.acknowledge(event.stream, event.seq, port.ticks())
            if event.kind == CREDENTIAL_STATE:
                server.states.append(event.payload)
                if server.on_state is not None:
                    server.on_state(event.payload)
            else:
                server.messages.append(event.payload)


def welcome():
    made = Welcome()
    made.session_id = b"12345678"
    made.capabilities = 0xFF
    return made


class VirtualWorld:
    """Replaces time and network while it is entered.

    Attributes:
        now: ms. own_ms: what the device's own clock says, unix ms.
        contexts: of each link that was tried. opened: each link that came up.
    """

    names = ("ticks", "unix_ms", "sleep_ms", "wait_for_ms", "client_context")

    def __init__(self, server):
        self.server = server
        self.now = 0
        self.own_ms = NOW_MS
        self.contexts = []
        self.opened = []
        self._due = []

    def __enter__(self):
        self._before = [getattr(port, name) for name in self.names]
        self._open_link = connection.open_link
        port.ticks = lambda: self.now & 0x3FFFFFFF
        port.unix_ms = lambda: self.own_ms + self.now
        port.sleep_ms = self._sleep_ms
        port.wait_for_ms = self._wait_for_ms
        port.client_context = self._context
        connection.open_link = rotation.open_link = enrol.open_link = self._open
        return self

    def __exit__(self, kind, error, trace):
        for name, value in zip(self.names, self._before):
            setattr(port, name, value)
        connection.open_link = rotation.open_link = enrol.open_link = self._open_link

    async def until(self, condition, limit_ms=600_000):
        """Let time pass until ``condition()``; fails after so much virtual time."""
        began = self.now
        while not condition():
            for _ in range(40):
                await asyncio.sleep(0)
            if condition():
                return
            assert self.now - began < limit_ms, "in vain"
            left = [ticks_diff(due, self.now) for due in self._due]
            left = [ms for ms in left if ms > 0]
            self.now += min(left) if left else 1

    async def pass_ms(self, ms):
        end = self.now + ms
        await self.until(lambda: self.now >= end, ms + 1)

    async def _sleep_ms(self, ms):
        due = self.now + max(ms, 0)
        self._due.append(due)
        await asyncio.sleep(0)
        try:
            while self.now < due:
                await asyncio.sleep(0)
        finally:
            self._due.remove(due)

    async def _wait_for_ms(self, awaitable, ms):
        due = self.now + ms
        self._due.append(due)
        done = []
        task = asyncio.create_task(_finish(awaitable, done))
        try:
            while not done:
                if self.now >= due:
                    raise asyncio.TimeoutError()
                await asyncio.sleep(0)
        finally:
            self._due.remove(due)
            if not done:
                task.cancel()
                await asyncio.sleep(0)
        result, error = done[0]
        if error is not None:
            raise error
        return result

    def _context(self, *args, **options):
        if self.server.no_memory and self.server.links:
            raise MemoryError()
        return Context(*args, **options)

    async def _open(self, host, number, context, server_hostname=None, timeout_ms=0):
        await asyncio.sleep(0)
        self.contexts.append((number, context))
        server = self.server
        while context.certificate in server.held:
            await asyncio.sleep(0)
        try:
            server.admit(context)
        except Exception as error:
            server.lost.append((number, type(error).__name__))
            raise
        self.opened.append(Link(self, context))
        return self.opened[-1]


async def _finish(awaitable, done):
    try:
        done.append((await awaitable, None))
    except Exception as error:
        done.append((None, error))
