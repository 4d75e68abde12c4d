"""What core needs of the store, injected by app: core imports no store."""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from fleetnet_server.core.bodies import Message

Token = TypeVar("Token", contravariant=True)


class SessionAbout(NamedTuple):
    """What others may know of a session.

    Attributes:
        link: "tls", "dtls" or "hub". address: of the client, without its port.
        software: its own words in HELLO.
        is_here: False: a hub only carries messages of a device that has its session elsewhere,
            or none. No lease is taken for it.
    """

    link: str
    address: str
    software: str = ""
    is_here: bool = True


class SessionStart(NamedTuple):
    """What a session begins with.

    Attributes:
        epoch_id: the store's number of the device's epoch.
        marks: stream -> last durable sequence in it.
    """

    epoch_id: int
    marks: dict[int, int]


class Committed(NamedTuple):
    """What became of a batch, where several servers share a store.

    Attributes:
        new: indexes of the messages that were not stored before, in order.
        lost: indexes of those that were not stored, and never will be: the lease that they
            came under is another server's.
    """

    new: Sequence[int]
    lost: frozenset[int] = frozenset()


class MessageStore(Protocol):
    """Reads and small notes; none of them waits for a disk write.

    Where several servers share a store, a device is at one of them: it has a lease. A message is
    stored only while the lease is held under which it came: the device's own, or, for one that
    a hub carried (relay_ports.Relayed), the hub's. Otherwise what a slow server lost could be
    followed by what it still stores, behind which the device would go on.

    Attributes:
        on_lost: called on the loop's thread with a device that another server has now.
    """

    on_lost: Callable[[int], None] | None

    def begin(
        self, device_id: int, epoch: bytes, about: SessionAbout
    ) -> SessionStart | Awaitable[SessionStart]:
        """Begin a session, at once or soon; what is stored of the device is read by then.

        Called again for a device when nothing of its session before is waiting for a commit.
        One at a time for each device.

        Raises:
            StoreUnavailable: now, or when awaited.
        """

    def end(self, device_id: int) -> None:
        """The device has no session here any more, and nothing of it waits for a commit.

        Harmless for one that never began.
        """

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
        """Return when everything put before is durable, or lost for this server."""
