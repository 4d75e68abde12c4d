"""What stands between a device's program, its parts and its connection.

Used by device.py, whose Device adds what a program calls. The session and the outbox
outlive every link; parts (commands, configuration, blobs, log) come and go with need.
"""

import asyncio
import os

from fleetnet import __version__, limits
from fleetnet.errors import UNKNOWN_KIND, FleetError, Rejected
from fleetnet.events import Delivered, Opened, Received, TimeHeard
from fleetnet.frame import CREDENTIAL, OPTIONAL
from fleetnet.handshake import CAN_ROTATE, Hello
from fleetnet.ports import port
from fleetnet.session import OPEN, Session
from fleetnet_device.clock import Clock
from fleetnet_device.connection import Connection
from fleetnet_device.credentials import Credentials
from fleetnet_device.outbox import Outbox

OFFLINE = "offline"
CONNECTING = "connecting"
ONLINE = "online"
REFUSED = "refused"

# How often the outbox looks whether messages should go to the flash.
_POLL_MS = 1_000

# A PONG that takes longer finds no link any more (fleetnet/session_link.py).
_LATEST_PONG_MS = 6_000

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any


class DeviceCore:
    """Session, outbox, parts and tasks of one device; see Device for the arguments."""

    def __init__(
        self,
        bundle: "str | dict[str, Any]",
        outbox_bytes: int,
        connect_ms: int,
        return_ms: int,
        spool: "str | None",
        spool_bytes: int,
        policy: str,
    ):
        self.credentials = Credentials(bundle)
        self.name = self.credentials.name
        self.folder = self.credentials.folder
        # Where parts keep what a reboot must not lose; "" for nowhere.
        self.flash = (spool or self.folder).rstrip("/")
        self.state = OFFLINE
        self.acknowledged = 0
        self.connects = 0
        self.errors = 0
        self.last_error: "Exception | None" = None
        self.clock = Clock(port, self.credentials.made_ms)
        self._fragment = limits.FRAGMENT_PAYLOAD
        # What is on the flash must fit whatever transport it leaves by.
        if self.credentials.transport == "tls" and spool is None:
            self._fragment = limits.MAX_FRAME_PAYLOAD
        self._parts: "dict[str, Any]" = {}
        self._by_kind: "dict[int, Any]" = {}
        self._outbox = self._open_outbox(outbox_bytes, spool, spool_bytes, policy)
        self.session = self._new_session()
        self._outbox.restore(self.session)
        self.connection = Connection(self, connect_ms, return_ms)
        self.is_renewing = False
        self._offered = self._greeted_ms = 0
        self._is_started = False
        self._loop: object = None
        self._tasks: "list[asyncio.Task[None]]" = []
        if self.credentials.own_key or "'identity" in _names(self.flash) + _names(self.folder):
            self.part("identity")

    @property
    def dropped(self) -> int:
        """Readings and events that the outbox had no room for."""
        return self._outbox.dropped_readings

    @property
    def recovered(self) -> int:
        """Readings and events that the flash still held at the start."""
        return self._outbox.recovered_readings

    @property
    def live_dropped(self) -> int:
        """Best-effort readings that found no way."""
        return self.session.live_dropped

    @property
    def is_open(self) -> bool:
        """A session is open: messages flow."""
        return self.session.state == OPEN

    @property
    def link(self) -> str:
        """The transport of the session, or of the next attempt: "dtls" or "tls"."""
        return "dtls" if self.connection.datagram else "tls"

    def cipher(self) -> "tuple[str, str] | None":
        """Return (cipher suite, protocol version) of the open session, None without one."""
        endpoint = self.connection.endpoint
        return endpoint.cipher() if endpoint is not None and self.is_open else None

    # -- what parts call -------------------------------------------------------------

    def part(self, name: str) -> "Any":
        """Return a part of the library, imported and made when it is first asked for.

        A session that is open without the part's ability is begun anew, which costs one
        connection: ask for parts before ``start``.

        A part is the class Part of a module: ``capability``, the CAN_ bits that HELLO shows for
        it, and ``kinds``, which it receives. Of these it has what it needs: ``greet(hello)``
        before HELLO leaves, ``opened(welcome)``, ``receive(event)``, ``closed()`` when an open
        session ended, ``lost(error)`` when a link did, or did not come up.

        Raises:
            ImportError: the board was set up without it.
        """
        part = self._parts.get(name)
        if part is None:
            module = __import__("fleetnet_device." + name, None, None, (name,))
            part = self._parts[name] = module.Part(self)
            for kind in part.kinds:
                self._by_kind[kind] = part
            if part.capability & ~self._offered:
                self.renew()
        return part

    def loaded(self, name: str) -> "Any":
        """Return a part that is in use, None for others."""
        return self._parts.get(name)

    def progress(self, pause_ms: int = 0) -> None:
        """The connection lives: tell the watchdog, if there is one.

        Args:
            pause_ms: how long nothing will be heard of it, on purpose.
        """
        watchdog = self._parts.get("watchdog")
        if watchdog is not None:
            watchdog.progress(pause_ms)

    def put(self, stream: int, kind: int, payload: bytes, readings: int = 0) -> None:
        """Queue a message that must arrive; ``readings``: what it counts for."""
        self._outbox.put(self.session, stream, kind, payload, readings)
        self._end_epoch()
        self.wake()

    def wake(self) -> None:
        """The session has something to send."""
        self.connection.wake()

    def renew(self) -> None:
        """End the session and begin another at once."""
        if self.is_open:
            self.is_renewing = True
            self.session.bye(port.ticks())
            self.wake()

    def spawn(self, work: "Coroutine[Any, Any, None]") -> "asyncio.Task[None]":
        """Run ``work`` until it ends or the device stops; its errors are reported."""
        self._enter_loop()
        for task in self._tasks[:]:
            if task.done():
                self._tasks.remove(task)
        task = asyncio.create_task(self._guard(work))
        self._tasks.append(task)
        return task

    def _enter_loop(self) -> None:
        """Forget the tasks of a loop that is gone, as after Ctrl-C: they never run again."""
        loop = port.event_loop()
        if self._loop is not loop:
            self._loop = loop
            self._tasks = []
            self._is_started = False
            self.session.close_link()

    async def _keep_up(self, work: "Callable[[], Coroutine[Any, Any, None]]") -> None:
        """Run what must not end for as long as the device runs, whatever comes out of it."""
        while True:
            try:
                await work()
            except Exception as error:
                self.last_error = error
                self.errors += 1
            await port.sleep_ms(_POLL_MS)

    async def _guard(self, work: "Coroutine[Any, Any, None]") -> None:
        try:
            await work
        except Exception as error:
            self.report(error, "task")

    def report(self, error: Exception, where: str) -> None:
        """Count an error that ends nothing, and log it where the log is in use."""
        self.errors += 1
        log = self._parts.get("log")
        if log is not None:
            log.add("error", "%s: %s: %s" % (where, type(error).__name__, error))

    async def _poll_outbox(self) -> None:
        while True:
            await port.sleep_ms(_POLL_MS)
            self.clock.uptime_ms()  # an idle device must not miss the wrap of ticks
            self._outbox.poll(port.ticks())
            if self._outbox.waiting:
                self._feed()  # memory was too short, perhaps
                self.wake()

    # -- what the connection calls ---------------------------------------------------

    def link_opening(self) -> None:
        """A connection is being made."""
        self.is_renewing = False
        self.state = CONNECTING
        if self._outbox.can_begin_epoch():
            self.session = self._new_session()
            self._outbox.begin_epoch(self.session)

    def new_link(self, datagram: bool) -> Session:
        """Begin the session on a new link; return it."""
        hello = Hello()
        hello.software = "fleetnet/%s %s" % (__version__, port.platform_text())
        hello.codecs = bytes((50, 42))
        hello.boot = self.clock.boot
        hello.uptime_ms = self._greeted_ms = self.clock.uptime_ms()
        hello.unix_ms = self.clock.unix_ms()
        if self.flash:
            hello.capabilities = CAN_ROTATE
        for part in self._parts.values():
            hello.capabilities |= part.capability
            self._tell(part, "greet", hello)
        self._offered = hello.capabilities
        self.session.open_link(port.ticks(), datagram, hello)
        return self.session

    def link_lost(self, error: "Exception | None") -> None:
        """The link is gone, or did not come up."""
        was_online = self.state == ONLINE
        self.state = REFUSED if isinstance(error, Rejected) else OFFLINE
        if error is not None:
            self.last_error = error
            self.report(error, "connection")
        for part in self._parts.values():
            if was_online:
                self._tell(part, "closed")
            self._tell(part, "lost", error)

    def on_event(self, event: object) -> None:
        """Take an event of the session."""
        self.progress()
        if isinstance(event, Delivered):
            self.acknowledged += self._outbox.delivered(event.stream, event.seq)
            self._feed()
            self.wake()
        elif isinstance(event, Received):
            self._receive(event)
        elif isinstance(event, Opened):
            self._opened(event)
        elif isinstance(event, TimeHeard):
            self.clock.learn(event.unix_ms, _LATEST_PONG_MS)

    def _feed(self) -> None:
        """Hand the session what it has room for."""
        self.acknowledged += self._outbox.feed(self.session)
        self._end_epoch()

    def _opened(self, event: Opened) -> None:
        self.state = ONLINE
        self.connects += 1
        self.last_error = None
        self.connection.note_opened()
        self.clock.learn(event.welcome.unix_ms, self.clock.uptime_ms() - self._greeted_ms)
        self._feed()
        for part in self._parts.values():
            if part.capability & ~self._offered:
                self.renew()  # it is younger than HELLO
            else:
                self._tell(part, "opened", event.welcome)

    def _receive(self, event: Received) -> None:
        kind = event.kind & ~OPTIONAL
        if kind == CREDENTIAL:
            self.part("rotation")
        part = self._by_kind.get(kind)
        if part is not None:
            self._tell(part, "receive", event)
        elif event.seq and not event.kind & OPTIONAL:
            # Not acknowledged: it was meant for a program that knows this kind.
            self.session.bye(port.ticks(), UNKNOWN_KIND)
            self.wake()
            return
        if event.seq:
            self.session.acknowledge(event.stream, event.seq, port.ticks())
            self.wake()

    def _tell(self, part: "Any", verb: str, *arguments: object) -> None:
        method = getattr(part, verb, None)
        if method is not None:
            try:
                method(*arguments)
            except Exception as error:
                self.report(error, verb)

    # -- epochs ------------------------------------------------------------------------

    def _new_session(self) -> Session:
        """Return a session, of the epoch that the flash names or of a new one."""
        return Session(port.random_bytes, self._outbox.epoch(), self._fragment)

    def _open_outbox(
        self, max_bytes: int, folder: "str | None", spool_bytes: int, policy: str
    ) -> Outbox:
        """Return the outbox; it is in RAM alone when the flash cannot be used."""
        if folder is not None:
            from fleetnet_device import spool

            try:
                return spool.open_outbox(folder, spool_bytes, self._fragment, max_bytes, policy)
            except FleetError as error:
                self.last_error = error
                self.report(error, "spool")
        return Outbox(max_bytes, policy=policy)

    def _end_epoch(self) -> None:
        """End a session whose sequence numbers are used up, once all is acknowledged."""
        if self.is_open and self._outbox.can_begin_epoch():
            self.session.bye(port.ticks())


def _names(folder: str) -> str:
    """Return what a folder holds, as text: a board has no glob."""
    try:
        return str(os.listdir(folder))
    except OSError:
        return ""
