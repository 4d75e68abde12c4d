"""A command as it is stored, how it ends, and what the service needs of the store."""

from typing import Any, NamedTuple, Protocol

from fleetnet import commands as wire
from fleetnet_server.errors import (
    CommandError,
    CommandFailed,
    CommandTimeout,
    CommandUnknown,
    NotAllowed,
)
from fleetnet_server.identity.registry import Device

# The type, in the result of a command that was never sent, that says: the policy.
DENIED = "NotAllowed"


class Command(NamedTuple):
    """One command as the store has it; times are unix ms.

    Attributes:
        number: order of arrival; id: what both ends call it.
        args: keyword arguments (dict) or positional ones (list).
        state: "queued", "sent", or how it ended: "ok", "error" (it raised), "unknown" (no
            such command), "expired" (it never began), "lost" (no answer for a month).
        sent_boot: boot of the device that got it first; None: it was not sent yet.
        result: the value, or [type, message] of an error.
        issuer: who gave it: "program", "cli:USER".
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
    issuer: str = ""


class CommandStore(Protocol):
    """What the service needs of the store (store/commands.py)."""

    def device(self, name: str) -> Device: ...

    def add(
        self, device_id: int, name: str, args: Any, expires_ms: int, boot: int | None = None,
        issuer: str = "",
    ) -> str: ...  # fmt: skip

    def get(self, command_id: str) -> Command | None: ...

    def unsent(self, device_id: int, now_ms: int, limit: int) -> list[Command]: ...

    def unanswered(self, device_id: int, limit: int) -> list[Command]: ...

    def added_after(self, number: int) -> list[tuple[int, int]]: ...

    def mark_sent(self, command_ids: list[str], boot: int) -> None: ...

    def deny(self, command_id: str, why: str) -> None: ...

    def expire(self, now_ms: int) -> tuple[int, int]: ...

    def newest(self) -> tuple[int, int]: ...


def check_command(name: str, args: Any) -> None:
    """Raise ValueError for what no CALL can carry."""
    if not 0 < len(name) <= wire.MAX_NAME:
        raise ValueError(f"a command's name has 1 to {wire.MAX_NAME} characters")
    if not isinstance(args, list | dict):
        raise ValueError("arguments are a JSON object (by name) or a list (by position)")
    wire.encode_call("", name, args, 0)


def value_of(command: Command) -> Any:
    """Return the value of a command that ended.

    Raises:
        NotAllowed, CommandFailed, CommandTimeout, CommandUnknown, CommandError: it brought none.
    """
    if command.state == wire.OK:
        return command.result
    what = f"command {command.name!r} of device {command.device!r}"
    if command.state == wire.ERROR:
        kind, text = command.result
        if kind == DENIED and command.sent_boot is None:
            raise NotAllowed(f"{what} is not allowed: {text}")
        if kind == "Timeout":
            raise CommandTimeout(f"{what} was stopped at its deadline")
        raise CommandFailed(f"{what} failed: {kind}: {text}", kind, text)
    if command.state == wire.UNKNOWN:
        raise CommandUnknown(f"{what} is unknown to its program: is the name right?")
    if command.state == wire.EXPIRED:
        raise CommandTimeout(f"{what} expired before it began")
    raise CommandError(f"{what} is {command.state}")
