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
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from fleetnet import commands as wire
from fleetnet.events import Received
from fleetnet.frame import CALL, COMMANDS, RESULT
from fleetnet.handshake import CAN_COMMAND, Hello
from fleetnet_server.core.audit_ports import AuditLog
from fleetnet_server.core.bodies import Message, decode_answer
from fleetnet_server.core.call_line import CallLine
from fleetnet_server.core.command_ports import Command, CommandStore, value_of
from fleetnet_server.core.events import Tell, tell_nobody
from fleetnet_server.errors import (
    CommandError,
    CommandTimeout,
    DeviceOffline,
    NotAllowed,
    StoreUnavailable,
)
from fleetnet_server.identity.policy import Rules
from fleetnet_server.identity.registry import Device

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer

_log = logging.getLogger("fleetnet.commands")

# What a device has when it comes back: as many as it can hold, and those of a boot before.
_UNANSWERED = 64

# An answer may be among what a device's full outbox gave up.
_REPEAT_S = 60.0
_BUSY_S = 1.0
_EXPIRE_S = 1.0
# A node's copy of the commands has an answer some ms behind its commit. Longer: it is cut off.
_SEEN_S = 5.0


class Commands:
    """The service (core/services.py); made on a running loop, looked after by a Lookout.

    Args:
        rules: what devices of a group may be told, see identity/policy.py.
        audit: hears of commands that these do not allow.

    Attributes:
        tell: hears of commands that ended (core/events.py). ended: how many, by their state.
        expires: this one ends what is stale; of several processes one does.
        elsewhere: says whether another server has a device; None: there is no other.
    """

    capability = CAN_COMMAND
    kinds = frozenset((RESULT,))
    live_kinds: frozenset[int] = frozenset()

    def __init__(
        self,
        store: CommandStore,
        rules: Callable[[str], Rules | None] = lambda group: None,
        audit: AuditLog | None = None,
    ):
        self._store = store
        self._rules = rules
        self._audit = audit
        self.tell: Tell = tell_nobody
        self.ended: Counter[str] = Counter()
        self.expires = True
        self.elsewhere: Callable[[int], Awaitable[bool]] | None = None
        self._lines: dict[int, CallLine] = {}
        self._waiting: dict[str, asyncio.Future[Command]] = {}
        # Answers that are stored and not to be read yet -> until when they are looked for.
        self._unseen: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._number = store.newest()[0]
        self._expire_at = 0.0
        self._is_expiring = False
        self._is_stopped = False

    # -- what a program calls ----------------------------------------------------------

    async def call(
        self, device_name: str, name: str, args: Any = None, timeout_s: float = 10.0,
        issuer: str = "program",
    ) -> Any:  # fmt: skip
        """Run a command on a device that is online; return what its handler returned.

        Args:
            args: dict or list; None: none. timeout_s: the device does not begin it later,
                and stops it then. issuer: on whose behalf, for policy and audit log.

        Raises:
            NotAllowed, DeviceOffline, CommandTimeout, CommandUnknown,
            CommandFailed (its handler raised).
            ValueError: no JSON, or above 16 KiB. StoreError: no such device.
            StoreUnavailable: it was not sent.
        """
        device = self._store.device(device_name)
        self._check(device, name, issuer)
        line = self._lines.get(device.id)
        if line is None and not await self._is_elsewhere(device.id):
            raise DeviceOffline(
                f"device {device_name!r} is not connected, or its program has no commands: "
                "queue the command, and it waits"
            )
        args = [] if args is None else args
        expires_ms = _now_ms() + round(timeout_s * 1000)
        boot = line.boot if line is not None and line.room(_now_ms()) else None
        command_id = await asyncio.to_thread(
            self._store.add, device.id, name, args, expires_ms, boot, issuer
        )
        answer: asyncio.Future[Command] = self._loop.create_future()
        self._waiting[command_id] = answer
        try:
            if line is not None and boot is not None and self._lines.get(device.id) is line:
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
        self, device_name: str, name: str, args: Any = None, expires_s: float = 3600.0,
        issuer: str = "program",
    ) -> str:  # fmt: skip
        """Keep a command until its device takes it; return its id.

        Raises: as ``call`` before it is sent.
        """
        device = self._store.device(device_name)
        self._check(device, name, issuer)
        args = [] if args is None else args
        expires_ms = _now_ms() + round(expires_s * 1000)
        command_id = await asyncio.to_thread(
            self._store.add, device.id, name, args, expires_ms, None, issuer
        )
        self._pump(device.id)
        return command_id

    def _check(self, device: Device, name: str, issuer: str) -> None:
        rules = self._rules(device.group)
        why = "" if rules is None else rules.objection(name, issuer)
        if why:
            self._note_denied(device.name, name, issuer, why)
            raise NotAllowed(f"command {name!r} of device {device.name!r} is not allowed: {why}")

    def _note_denied(self, device: str, name: str, issuer: str, why: str) -> None:
        _log.warning("command %r of device %s by %s: %s", name, device, issuer, why)
        if self._audit is not None:
            detail = {"name": name, "why": why}
            self._audit.note_repeated(issuer, "command-denied", device, detail)

    async def _is_elsewhere(self, device_id: int) -> bool:
        """Say whether another server has it: that one finds the command in the store."""
        return self.elsewhere is not None and await self.elsewhere(device_id)

    async def is_ready(self, device_id: int) -> bool:
        """Say whether a device is connected, and its program takes commands.

        Of one that another server has it is not known what its program takes.
        """
        return device_id in self._lines or await self._is_elsewhere(device_id)

    async def wait(self, command_id: str, timeout_s: float) -> Command:
        """Return a command once it has ended, or as it stands after ``timeout_s``.

        Raises CommandError: nobody gave it, or the server stops.
        """
        command = self.status(command_id)
        if command.ended_ms is not None:
            return command
        answer = self._waiting.setdefault(command_id, self._loop.create_future())
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(answer)
        except TimeoutError:
            return self.status(command_id)
        finally:
            if self._waiting.get(command_id) is answer:
                del self._waiting[command_id]

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
            self._lines[peer.device_id] = CallLine(peer, hello.boot)
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
        if self.elsewhere is not None:
            self._see_ended()
            self._hear_answers()
        now = self._loop.time()
        for line in list(self._lines.values()):
            for command_id, (due, _expires_ms) in list(line.open.items()):
                if due <= now:
                    self._repeat(line, command_id)
        if self.expires and now >= self._expire_at and not self._is_expiring:
            self._expire_at = now + _EXPIRE_S
            self._spawn(self._expire())

    def _see_ended(self) -> None:
        """Tell of answers that were stored here before they could be read."""
        for command_id in list(self._unseen):
            self._ended(command_id)

    def _hear_answers(self) -> None:
        """Other servers store answers that somebody here waits for."""
        for command_id, answer in self._waiting.items():
            command = None if answer.done() else self._store.get(command_id)
            if command is not None and command.ended_ms is not None:
                answer.set_result(command)

    async def stop(self) -> None:
        """Give up what waits for an answer."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(CommandError("the server is stopping: see status() later"))
        self._is_stopped = True
        # Not cancelled: a thread that commits cannot be, and the store is closed next.
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- sending ---------------------------------------------------------------------------

    def _answered(self, line: CallLine | None, command_id: str, status: str) -> None:
        if status == wire.BUSY:
            if line is not None and command_id in line.open:
                line.open[command_id] = (self._loop.time() + _BUSY_S, line.open[command_id][1])
            return
        if line is not None:
            line.open.pop(command_id, None)
        self._ended(command_id)

    def _ended(self, command_id: str) -> None:
        command = self._store.get(command_id)
        if command is None:
            return
        if command.ended_ms is None:
            if self.elsewhere is not None:
                until = self._unseen.setdefault(command_id, self._loop.time() + _SEEN_S)
                if self._loop.time() >= until:
                    del self._unseen[command_id]
            return
        self._unseen.pop(command_id, None)
        self.ended[command.state] += 1
        self.tell(
            "command-ended",
            command.device,
            {"command": command.id, "name": command.name, "state": command.state},
        )
        answer = self._waiting.get(command_id)
        if answer is not None and not answer.done():
            answer.set_result(command)

    def _send(
        self, line: CallLine, command_id: str, name: str, args: Any, expires_ms: int, boot: int
    ) -> None:
        body = wire.encode_call(command_id, name, args, expires_ms, boot)
        went = line.peer.send(COMMANDS, CALL, body)
        wait_s = _REPEAT_S if went else _BUSY_S
        line.open[command_id] = (self._loop.time() + wait_s, expires_ms)

    def _send_again(self, line: CallLine, command: Command) -> None:
        boot = line.boot if command.sent_boot is None else command.sent_boot
        self._send(line, command.id, command.name, command.args, command.expires_ms, boot)

    def _repeat(self, line: CallLine, command_id: str) -> None:
        command = self._store.get(command_id)
        if command is None or command.ended_ms is not None or line.objection(command):
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

    async def _pump_all(self, device_id: int, line: CallLine) -> None:
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

    async def _pump_once(self, device_id: int, line: CallLine) -> None:
        if line.is_new:
            for command in self._store.unanswered(device_id, _UNANSWERED):
                if not line.objection(command):
                    self._send_again(line, command)
            line.is_new = False
        room = line.room(_now_ms())
        waiting = self._store.unsent(device_id, _now_ms(), room) if room else []
        for command in waiting:
            # Given when the policy was another one, or by a program that does not ask it.
            if why := line.objection(command):
                self._note_denied(command.device, command.name, command.issuer, why)
                await asyncio.to_thread(self._store.deny, command.id, why)
                self._ended(command.id)
                line.again = True
        waiting = [command for command in waiting if not line.objection(command)]
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
            expired, lost = await asyncio.to_thread(self._store.expire, _now_ms())
            self.ended["expired"] += expired
            self.ended["lost"] += lost
        except StoreUnavailable as error:
            _log.error("stale commands stay: %s", error)
        finally:
            self._is_expiring = False

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
