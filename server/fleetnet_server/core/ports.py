"""What core needs of the store, injected by app: core imports no store."""

from typing import Protocol, TypeVar

from fleetnet_server.core.bodies import Message

Token = TypeVar("Token", contravariant=True)


class MessageStore(Protocol):
    """Reads and small notes; none of them waits for a disk write."""

    def epoch_id(self, device_id: int, epoch: bytes) -> int:
        """Return the store's number of a device's epoch."""

    def watermarks(self, device_id: int, epoch: bytes) -> dict[int, int]:
        """Return stream -> last durable sequence."""

    def note_gap(self, device_id: int, epoch_id: int, stream: int, first: int, last: int) -> None:
        """Keep that messages ``first`` .. ``last`` will never come."""

    def set_boot(self, device_id: int, boot: int, offset_ms: int) -> None:
        """Keep unix time minus uptime of a boot, which dates its readings."""

    def boot_offset(self, device_id: int, boot: int) -> int | None:
        """Return what set_boot kept, or None."""


class MessageWriter(Protocol[Token]):
    """Group commit; the token comes back when its message is durable."""

    def put(self, message: Message, token: Token) -> None:
        """Queue a message for the next commit."""

    async def flush(self) -> None:
        """Return when everything put before is durable."""
