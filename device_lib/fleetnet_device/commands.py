"""Commands: functions of a device's program that the back-end may call.

    @device.command()
    async def blink(times=1):
        ...
        return {"blinked": times}

A handler gets the call's arguments and returns what JSON can carry; what it raises reaches
the caller as an error with a type and a text. It runs at most once for each call, whatever
the network and the power do, and never after the call's deadline.

Source: docs/protocol.md section 3.3.
"""

import asyncio

from fleetnet.commands import (
    BUSY,
    ERROR,
    EXPIRED,
    MAX_NAME,
    OK,
    UNKNOWN,
    decode_call,
    encode_result,
)
from fleetnet.frame import CALL, COMMANDS, RESULT
from fleetnet.handshake import CAN_COMMAND
from fleetnet.limits import MAX_TEXT
from fleetnet.ports import port
from fleetnet_device.journal import Journal
from fleetnet_device.limits import MAX_COMMAND_MS, MAX_RUNNING, MAX_WAITING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fleetnet.events import Received
    from fleetnet_device.device import Device

    Call = tuple[str, str, Any, int]


class Part:
    """The commands of one device.

    Attributes:
        ran: handlers begun; refused: calls answered "busy", "unknown" or "expired".
        journal: see its class.
    """

    capability = CAN_COMMAND
    kinds = (CALL,)

    def __init__(self, device: "Device"):
        self._device = device
        self._handlers: "dict[str, Callable[..., Any]]" = {}
        self._running = 0
        self._waiting: "list[Call]" = []
        self.ran = 0
        self.refused = 0
        folder = device.flash
        self.journal = Journal(folder + "/commands.log" if folder else "", device.report)

    def command(self, name: "Any" = None) -> "Any":
        """Decorate a handler; its name is the function's unless another is given.

        Raises:
            ValueError: no name of 1 to 64 characters, or a command of that name exists.
        """
        if callable(name):
            return self._register(name.__name__, name)
        return lambda handler: self._register(name or handler.__name__, handler)

    def _register(self, name: str, handler: "Callable[..., Any]") -> "Callable[..., Any]":
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            raise ValueError("a command's name has 1 to %d characters, not %r" % (MAX_NAME, name))
        if name in self._handlers:
            raise ValueError("command %r exists: choose another name" % name)
        self._handlers[name] = handler
        return handler

    # -- what the device calls -------------------------------------------------------

    def receive(self, event: "Received") -> None:
        """Take a CALL. Raises ProtocolError when it is none."""
        command_id, name, args, expires_ms, boot = decode_call(event.payload)
        known = self.journal.find(command_id)
        if known is not None:
            # It was asked for again because no answer came: the link broke, or we restarted.
            if known:
                self._answer(known)
            return
        for waiting in self._waiting:
            if waiting[0] == command_id:
                return
        if self._left_ms(expires_ms) <= 0:
            self._refuse(command_id, EXPIRED)
        elif boot not in (0, self._device.clock.boot) and not self.journal.is_complete:
            text = "an earlier boot got it, and nothing tells whether it ran"
            self._answer(encode_result(command_id, ERROR, ["Interrupted", text]))
        elif name not in self._handlers:
            self._refuse(command_id, UNKNOWN)
        elif self._running + len(self._waiting) >= MAX_RUNNING + MAX_WAITING:
            self._refuse(command_id, BUSY)
        else:
            self._waiting.append((command_id, name, args, expires_ms))
            self._start_waiting()

    # -- running ---------------------------------------------------------------------

    def _start_waiting(self) -> None:
        while self._waiting and self._running < MAX_RUNNING:
            self._running += 1
            self._device.spawn(self._work(self._waiting.pop(0)))

    async def _work(self, call: "Call") -> None:
        try:
            await self._run(call)
        except asyncio.CancelledError:
            # The device stops; what waits was not begun, and comes again.
            self._waiting = []
            raise
        finally:
            self._running -= 1
            self._start_waiting()

    async def _run(self, call: "Call") -> None:
        command_id, name, args, expires_ms = call
        left_ms = self._left_ms(expires_ms)
        if left_ms <= 0:
            self._refuse(command_id, EXPIRED)
            return
        self.journal.begin(command_id)
        self.ran += 1
        try:
            work = _call(self._handlers[name], args)
            value = await port.wait_for_ms(work, min(left_ms, MAX_COMMAND_MS))
            result = encode_result(command_id, OK, value)
        except asyncio.CancelledError:
            self._end(command_id, _failure(command_id, "Interrupted", "the device stopped"))
            raise
        except Exception as error:
            kind, text = type(error).__name__, str(error)
            if isinstance(error, asyncio.TimeoutError) and self._left_ms(expires_ms) <= 0:
                kind, text = "Timeout", "it was stopped at its deadline"
            result = _failure(command_id, kind, text)
        self._end(command_id, result)

    def _end(self, command_id: str, result: bytes) -> None:
        self.journal.end(command_id, result)
        self._answer(result)

    def _left_ms(self, expires_ms: int) -> int:
        """Return how long a call is still good; 0 while the server's time is unknown."""
        now = self._device.clock.server_ms()
        return expires_ms - now if now else 0

    def _refuse(self, command_id: str, status: str) -> None:
        self.refused += 1
        self._answer(encode_result(command_id, status))

    def _answer(self, result: bytes) -> None:
        self._device.put(COMMANDS, RESULT, result)


async def _call(handler: "Callable[..., Any]", args: "Any") -> "Any":
    value = handler(**args) if isinstance(args, dict) else handler(*args)
    if hasattr(value, "send"):  # a coroutine, of either interpreter
        value = await value
    return value


def _failure(command_id: str, kind: str, text: str) -> bytes:
    return encode_result(command_id, ERROR, [kind[:MAX_TEXT], text[:MAX_TEXT]])
