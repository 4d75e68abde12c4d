"""Commands to devices: called now with a deadline, or kept for a device that is away.

    value = await backend.commands.call("cam-1", "blink", {"times": 3}, timeout_s=10)
    command_id = await backend.commands.queue("cam-1", "blink", {}, expires_s=3600)

Every command is a row of the store before it is sent, and stays open until its answer is
stored: what a link, a server or a device loses is asked for again under the same id, and
the device runs an id once. Source: docs/protocol.md section 3.3.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fleetnet import commands as wire
from fleetnet.events import Received
from fleetnet.frame import CALL, COMMANDS, RESULT
from fleetnet.handshake import CAN_COMMAND, Hello
from fleetnet_server.core.bodies import Message, decode_answer
from fleetnet_server.errors import (
    CommandError,
    CommandFailed,
    CommandTimeout,
    CommandUnknown,
    DeviceOffline,
    StoreUnavailable,
)
from fleetnet_server.identity.registry import Device

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer

_log = logging.getLogger("fleetnet.commands")

# A device runs 4 at a time and lets 8 wait: this many never make it say "busy".
_OPEN = 8
_UNANSWERED = 64

# An answer may be among what a device's full outbox gave up.
_REPEAT_S = 60.0
_BUSY_S = 1.0
_EXPIRE_S = 1.0


class Command(NamedTuple):
    """One command as the store has it; times are unix ms.

    Attributes:
        number: order of arrival; id: what both ends call it.
        args: keyword arguments (dict) or positional ones (list).
        state: "queued", "sent", or how it ended: "ok", "error" (it raised), "unknown" (no
            such command), "expired" (it never began), "lost" (no answer for a month).
        sent_boot: boot of the device that got it first; None: it was not sent yet.
        result: the value, or [type, message] of an error.
    """

    number: int
    id: str
    device_id: int
    device: str
    name: str
    args: Any
    state: str
    created_ms: int
    expires_ms: int
    sent_boot: int | None
    ended_ms: int | None
    result: Any


class CommandStore(Protocol):
    """What the service needs of the store (store/commands.py)."""

    def device(self, name: str) -> Device: ...

    def add(
        self, device_id: int, name: str, args: Any, expires_ms: int, boot: int | None = None
    ) -> str: ...

    def get(self, command_id: str) -> Command | None: ...

    def unsent(self, device_id: int, now_ms: int, limit: int) -> list[Command]: ...

    def unanswered(self, device_id: int, limit: int) -> list[Command]: ...

    def added_after(self, number: int) -> list[tuple[int, int]]: ...

    def mark_sent(self, command_ids: list[str], boot: int) -> None: ...

    def expire(self, now_ms: int) -> None: ...

    def newest(self) -> tuple[int, int]: ...


def check_command(name: str, args: Any) -> None:
    """Raise ValueError for what no CALL can carry."""
    if not 0 < len(name) <= wire.MAX_NAME:
        raise ValueError(f"a command's name has 1 to {wire.MAX_NAME} characters")
    if not isinstance(args, list | dict):
        raise ValueError("arguments are a JSON object (by name) or a list (by position)")
    wire.encode_call("", name, args, 0)


class _Line:
    """What is under way to one device on its present link."""

    def __init__(self, peer: "Peer", boot: int):
        self.peer = peer
        self.boot = boot
        # id -> (loop time at which it is sent again, unix ms at which it is stale)
        self.open: dict[str, tuple[float, int]] = {}
        self.is_new = True
        self.is_pumping = False
        self.again = False


class Commands:
    """The service (core/services.py); made on a running loop, looked after by a Lookout."""

    capability = CAN_COMMAND
    kinds = frozenset((RESULT,))
    live_kinds: frozenset[int] = frozenset()

    def __init__(self, store: CommandStore):
        self._store = store
        self._lines: dict[int, _Line] = {}
        self._waiting: dict[str, asyncio.Future[Command]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._number = store.newest()[0]
        self._expire_at = 0.0
        self._is_expiring = False
        self._is_stopped = False

    # -- what a program calls ----------------------------------------------------------

    async def call(
        self, device_name: str, name: str, args: Any = None, timeout_s: float = 10.0
    ) -> Any:
        """Run a command on a device that is online; return what its handler returned.

        Args:
            args: dict or list; None: none. timeout_s: the device does not begin it later,
                and stops it then.

        Raises:
            DeviceOffline, CommandTimeout, CommandUnknown, CommandFailed (its handler raised).
            ValueError: no JSON, or above 16 KiB. StoreError: no such device.
            StoreUnavailable: it was not sent.
        """
        device = self._store.device(device_name)
        line = self._lines.get(device.id)
        if line is None:
            raise DeviceOffline(
                f"device {device_name!r} is not connected, or its program has no commands: "
                "queue the command, and it waits"
            )
        args = [] if args is None else args
        expires_ms = _now_ms() + round(timeout_s * 1000)
        boot = line.boot if self._room(line) else None
        command_id = await asyncio.to_thread(
            self._store.add, device.id, name, args, expires_ms, boot
        )
        answer: asyncio.Future[Command] = self._loop.create_future()
        self._waiting[command_id] = answer
        try:
            if boot is not None and self._lines.get(device.id) is line:
                self._send(line, command_id, name, args, expires_ms, boot)
            self._pump(device.id)
            async with asyncio.timeout(max(0.0, (expires_ms - _now_ms()) / 1000)):
                return value_of(await answer)
        except TimeoutError:
            raise CommandTimeout(
                f"device {device_name!r} did not answer {name!r} in {timeout_s:g} s"
            ) from None
        finally:
            del self._waiting[command_id]

    async def queue(
        self, device_name: str, name: str, args: Any = None, expires_s: float = 3600.0
    ) -> str:
        """Keep a command until its device takes it; return its id.

        Raises: as ``call`` before it is sent.
        """
        device = self._store.device(device_name)
        args = [] if args is None else args
        expires_ms = _now_ms() + round(expires_s * 1000)
        command_id = await asyncio.to_thread(self._store.add, device.id, name, args, expires_ms)
        self._pump(device.id)
        return command_id

    def status(self, command_id: str) -> Command:
        """Return how a command stands. Raises CommandError when nobody gave it."""
        command = self._store.get(command_id)
        if command is None:
            raise CommandError(f"no command has the id {command_id!r}: see `fleetnet commands`")
        return command

    # -- see Service and Looking ---------------------------------------------------------

    def opened(self, peer: "Peer", hello: Hello) -> None:
        """Begin with what the device got before and did not answer."""
        if peer.capabilities & CAN_COMMAND:
            self._lines[peer.device_id] = _Line(peer, hello.boot)
            self._pump(peer.device_id)

    def received(self, peer: "Peer", event: Received) -> None:
        """A RESULT that nobody would repeat is not one."""

    def durable(self, peer: "Peer", message: Message) -> None:
        """A RESULT is stored: wake who waits for it, and send what waits behind it."""
        line = self._lines.get(peer.device_id)
        if message.problem is None:
            command_id, status, _value = decode_answer(message.kind, message.body)
            self._answered(line, str(command_id), status)
        else:
            for command_id in list(line.open if line is not None else ()):
                command = self._store.get(command_id)
                if command is not None and command.ended_ms is not None:
                    self._answered(line, command_id, command.state)
        self._pump(peer.device_id)

    def closed(self, peer: "Peer") -> None:
        """What is not answered is asked for on the next link."""
        line = self._lines.get(peer.device_id)
        if line is not None and line.peer is peer:
            del self._lines[peer.device_id]

    def look(self) -> None:
        """Find what other programs queued, repeat what is due, end what is stale."""
        for number, device_id in self._store.added_after(self._number):
            self._number = number
            self._pump(device_id)
        now = self._loop.time()
        for line in list(self._lines.values()):
            for command_id, (due, _expires_ms) in list(line.open.items()):
                if due <= now:
                    self._repeat(line, command_id)
        if now >= self._expire_at and not self._is_expiring:
            self._expire_at = now + _EXPIRE_S
            self._spawn(self._expire())

    async def stop(self) -> None:
        """Give up what waits for an answer."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(CommandError("the server is stopping: see status() later"))
        self._is_stopped = True
        # Not cancelled: a thread that commits cannot be, and the store is closed next.
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- sending ---------------------------------------------------------------------------

    def _answered(self, line: _Line | None, command_id: str, status: str) -> None:
        if status == wire.BUSY:
            if line is not None and command_id in line.open:
                line.open[command_id] = (self._loop.time() + _BUSY_S, line.open[command_id][1])
            return
        if line is not None:
            line.open.pop(command_id, None)
        answer = self._waiting.get(command_id)
        if answer is not None and not answer.done():
            command = self._store.get(command_id)
            if command is not None and command.ended_ms is not None:
                answer.set_result(command)

    def _room(self, line: _Line) -> int:
        now_ms = _now_ms()
        good = sum(expires_ms > now_ms for _due, expires_ms in line.open.values())
        return max(0, _OPEN - good)

    def _send(
        self, line: _Line, command_id: str, name: str, args: Any, expires_ms: int, boot: int
    ) -> None:
        body = wire.encode_call(command_id, name, args, expires_ms, boot)
        went = line.peer.send(COMMANDS, CALL, body)
        wait_s = _REPEAT_S if went else _BUSY_S
        line.open[command_id] = (self._loop.time() + wait_s, expires_ms)

    def _send_again(self, line: _Line, command: Command) -> None:
        boot = line.boot if command.sent_boot is None else command.sent_boot
        self._send(line, command.id, command.name, command.args, command.expires_ms, boot)

    def _repeat(self, line: _Line, command_id: str) -> None:
        command = self._store.get(command_id)
        if command is None or command.ended_ms is not None:
            line.open.pop(command_id, None)
        else:
            self._send_again(line, command)

    def _pump(self, device_id: int) -> None:
        """Send what waits for a device, as far as there is room."""
        line = self._lines.get(device_id)
        if line is None or self._is_stopped:
            return
        if line.is_pumping:
            line.again = True
        else:
            line.is_pumping = True
            self._spawn(self._pump_all(device_id, line))

    async def _pump_all(self, device_id: int, line: _Line) -> None:
        try:
            line.again = True
            while line.again and self._lines.get(device_id) is line and not self._is_stopped:
                line.again = False
                await self._pump_once(device_id, line)
        except StoreUnavailable as error:
            _log.error("commands of %s wait: %s", line.peer.name, error)
            self._loop.call_later(_REPEAT_S / 10, self._pump, device_id)
        finally:
            line.is_pumping = False

    async def _pump_once(self, device_id: int, line: _Line) -> None:
        if line.is_new:
            for command in self._store.unanswered(device_id, _UNANSWERED):
                self._send_again(line, command)
            line.is_new = False
        room = self._room(line)
        waiting = self._store.unsent(device_id, _now_ms(), room) if room else []
        if waiting:
            # On the disk first: a device that restarts with it must not run it again.
            await asyncio.to_thread(
                self._store.mark_sent, [command.id for command in waiting], line.boot
            )
            if self._lines.get(device_id) is line:
                for command in waiting:
                    self._send_again(line, command)
            line.again = True

    async def _expire(self) -> None:
        self._is_expiring = True
        try:
            await asyncio.to_thread(self._store.expire, _now_ms())
        except StoreUnavailable as error:
            _log.error("stale commands stay: %s", error)
        finally:
            self._is_expiring = False

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def value_of(command: Command) -> Any:
    """Return the value of a command that ended.

    Raises:
        CommandFailed, CommandTimeout, CommandUnknown, CommandError: it brought none.
    """
    if command.state == wire.OK:
        return command.result
    what = f"command {command.name!r} of device {command.device!r}"
    if command.state == wire.ERROR:
        kind, text = command.result
        if kind == "Timeout":
            raise CommandTimeout(f"{what} was stopped at its deadline")
        raise CommandFailed(f"{what} failed: {kind}: {text}", kind, text)
    if command.state == wire.UNKNOWN:
        raise CommandUnknown(f"{what} is unknown to its program: is the name right?")
    if command.state == wire.EXPIRED:
        raise CommandTimeout(f"{what} expired before it began")
    raise CommandError(f"{what} is {command.state}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
