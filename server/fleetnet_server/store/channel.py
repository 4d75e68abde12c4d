"""The wire between a worker and the store process of `fleetnet serve --workers`.

Each message is msgpack behind its length in four bytes. The socket is in the fleet folder, whose
rights are its protection: both ends are processes of one server. A worker has two connections:
one on which its writer's thread commits and waits, and one for everything else.
"""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from fleetnet_server.core.ports import SessionAbout

# In the fleet folder.
SOCKET = "workers.sock"

# A batch of 2,048 of the largest messages, 64 KiB each, and what is around them.
MAX_BYTES = 160 << 20

_HEAD = 4  # bytes of a length


class Join(msgspec.Struct, tag="join", array_like=True):
    """A worker's first message: who it is, and what it has.

    Attributes:
        leases: device -> fence of its lease.
    """

    worker: int
    leases: dict[int, int]


class Commit(msgspec.Struct, tag="commit", array_like=True):
    """Store a batch.

    Attributes:
        worker: who asks. number: grows with every batch of one worker.
        messages: each a core.bodies.Message, as the list of its fields when it arrives: a body is
            text or bytes, which msgspec's typed decoder cannot tell.
        carriers: index of a message -> (hub's epoch, its stream, sequence), see Relayed.
        leases: device -> fence, of all devices whose messages are in the batch, or whose hub's.
        holders: index of a message -> device whose lease counts, where that is not its own.
        gaps: (device, epoch, stream, first, last). boots: (device, boot, offset in ms).
        audit: rows of the audit log, see SqliteStore.defer_audit.
    """

    worker: int
    number: int
    messages: list[Any]
    carriers: dict[int, tuple[int, int, int]]
    leases: dict[int, int]
    holders: dict[int, int]
    gaps: list[tuple[int, int, int, int, int]]
    boots: list[tuple[int, int, int]]
    audit: list[tuple[int, str, str, str | None, str]]


class Done(msgspec.Struct, tag="done", array_like=True):
    """A batch is on the disk.

    Attributes:
        new: indexes of the messages that were not stored before; None: all.
        lost: indexes of those whose device is at another worker by now.
    """

    number: int
    new: list[int] | None
    lost: list[int]


class Begin(msgspec.Struct, tag="begin", array_like=True):
    """Take the lease of a device, see MessageStore.begin."""

    number: int
    device: int
    epoch: bytes
    about: SessionAbout


class Begun(msgspec.Struct, tag="begun", array_like=True):
    """A session may begin; ``fence`` 0: without a lease, for a hub that only carries."""

    number: int
    epoch_id: int
    marks: dict[int, int]
    fence: int


class Failed(msgspec.Struct, tag="failed", array_like=True):
    """A Begin cannot be answered now."""

    number: int
    why: str


class End(msgspec.Struct, tag="end", array_like=True):
    """Give a lease back."""

    device: int
    fence: int


class Lost(msgspec.Struct, tag="lost", array_like=True):
    """Another worker has the device now; ``fence``: of the lease that is over."""

    device: int
    fence: int


class News(msgspec.Struct, tag="news", array_like=True):
    """What a worker and the store process tell each other besides (workers/)."""

    kind: str
    data: Any


Frame = Join | Commit | Done | Begin | Begun | Failed | End | Lost | News

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytes:
    """Return a message as it goes over the wire. Raises ValueError: it is larger than any."""
    body = _encoder.encode(frame)
    if len(body) > MAX_BYTES:
        raise ValueError(f"a message of {len(body)} B between processes, limit {MAX_BYTES} B")
    return len(body).to_bytes(_HEAD, "big") + body


class Frames:
    """Cuts what arrives into messages."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the messages that are complete now.

        Raises:
            ValueError: the other end does not speak this protocol.
        """
        waiting = self._bytes
        waiting += data
        while len(waiting) >= _HEAD:
            size = int.from_bytes(waiting[:_HEAD], "big")
            if size > MAX_BYTES:
                raise ValueError(f"a message of {size} B between processes, limit {MAX_BYTES} B")
            if len(waiting) < _HEAD + size:
                return
            try:
                frame = _decoder.decode(bytes(waiting[_HEAD : _HEAD + size]))
            except msgspec.MsgspecError as error:
                raise ValueError(f"unreadable message between processes: {error}") from error
            del waiting[: _HEAD + size]
            yield frame


def address_of(folder: int) -> str:
    """Return the address of the socket in a folder that is open as ``folder``.

    A Unix socket's own address has 107 bytes at most, and a fleet folder may lie deeper.
    """
    return f"/proc/self/fd/{folder}/{SOCKET}"


def listen(folder: Path) -> socket.socket:
    """Return the listening socket of the store process, in the place of an older one.

    Raises:
        OSError: the folder cannot be written.
    """
    (folder / SOCKET).unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        made.bind(address_of(number))
        os.chmod(folder / SOCKET, 0o600)
        made.listen()
    except OSError:
        made.close()
        raise
    finally:
        os.close(number)
    return made


def connect(folder: Path, timeout_s: float | None = None) -> socket.socket:
    """Return a connection to the store process.

    Raises:
        OSError: it does not run.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        made.settimeout(timeout_s)
        made.connect(address_of(number))
    except OSError:
        made.close()
        raise
    finally:
        os.close(number)
    return made
