"""Blobs: files, and camera frames of which the newest wins.

    await device.send_blob("log.txt", "/sd/log.txt", content_format=0)
    await device.send_frame(image.bytearray())

One blob is under way at a time, in chunks, behind readings, events and commands. It
survives cuts, and a change from DTLS to TLS and back; what the server has is not sent
again. The content is not copied: do not change a buffer, or a file, before the call is
over.
"""

import asyncio
import hashlib

from fleetnet import limits
from fleetnet.blob_sender import BlobSender
from fleetnet.blobs import JPEG, OCTET_STREAM, REASONS, STORED, Offer, State, check_name
from fleetnet.errors import BlobRefused, LimitError
from fleetnet.frame import BLOB_STATE
from fleetnet.handshake import CAN_BLOB
from fleetnet.ports import port
from fleetnet.ticks import ticks_diff
from fleetnet_device.limits import HASH_BYTES

# A greeting that took longer had its HELLO repeated: no measure of the round trip.
_GREETING_MS = 1_000

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

    from fleetnet.events import Received
    from fleetnet.handshake import Hello, Welcome
    from fleetnet_device.core import DeviceCore


class BufferSource:
    """Content in memory, which stays the caller's."""

    def __init__(self, data: "bytes | bytearray | memoryview"):
        self._view = memoryview(data)
        self.size = len(self._view)

    def read_into(self, offset: int, view: memoryview) -> None:
        """See BlobSender."""
        view[:] = self._view[offset : offset + len(view)]

    async def digest(self, scratch: memoryview) -> bytes:
        """Return the SHA-256 of the whole."""
        state = hashlib.sha256()
        for at in range(0, self.size, HASH_BYTES):
            state.update(self._view[at : at + HASH_BYTES])
            await port.sleep_ms(0)
        return state.digest()

    def close(self) -> None:
        """Nothing to let go of."""


class FileSource:
    """Content of a file."""

    def __init__(self, path: str):
        self._file: "IO[bytes]" = open(path, "rb")
        self.size = self._file.seek(0, 2)

    def read_into(self, offset: int, view: memoryview) -> None:
        """See BlobSender."""
        self._file.seek(offset)
        got: int = self._file.readinto(view)  # type: ignore[attr-defined]
        if got != len(view):
            raise OSError("file is shorter than it was")

    async def digest(self, scratch: memoryview) -> bytes:
        """Return the SHA-256 of the whole, read through ``scratch``."""
        state = hashlib.sha256()
        unseen = 0
        for at in range(0, self.size, len(scratch)):
            piece = scratch[: min(len(scratch), self.size - at)]
            self.read_into(at, piece)
            state.update(piece)
            unseen += len(piece)
            if unseen >= HASH_BYTES:
                unseen = 0
                await port.sleep_ms(0)
        return state.digest()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Turn:
    """A frame that waits for the one under way."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.is_mine = False


class Part:
    """See the module.

    Attributes:
        stored: blobs that the server keeps; refused: those that it would not.
        replaced: frames that gave way to newer ones.
    """

    capability = CAN_BLOB
    kinds = (BLOB_STATE,)

    def __init__(self, device: "DeviceCore"):
        self.stored = 0
        self.refused = 0
        self.replaced = 0
        self._device = device
        # A blob that began over TLS may have to go on over DTLS: one size fits both.
        self._chunk = limits.BLOB_CHUNK
        if device.credentials.transport == "tls":
            self._chunk = limits.BLOB_STREAM_CHUNK
        self._sender = BlobSender(self._chunk, self._done)
        self._id = int.from_bytes(port.random_bytes(4), "big") % limits.MAX_BLOB
        self._lock = asyncio.Lock()
        self._over = asyncio.Event()
        self._outcome: "State | None" = None
        self._is_framing = False
        self._waiting: "Turn | None" = None
        self._greeted = 0
        device.session.bulk = self._sender

    @property
    def sent(self) -> int:
        """Chunks sent so far; ``resent``: those of them that were sent before."""
        return self._sender.sent

    @property
    def resent(self) -> int:
        """See ``sent``."""
        return self._sender.resent

    # -- what a program calls ------------------------------------------------------

    async def send_blob(
        self,
        name: str,
        source: "bytes | bytearray | memoryview | str",
        content_format: int = OCTET_STREAM,
    ) -> str:
        """Send a blob; return its SHA-256 (hex) when the server has it on its disk.

        Waits while the device is offline, for ever: bound it with asyncio.wait_for.
        Cancelling it gives the blob up.

        Args:
            name: 1 to 64 characters, not unique.
            source: a buffer, or the path of a file; not to be changed meanwhile.
            content_format: IANA CoAP number (22 JPEG, 42 bytes, 50 JSON, 0 text).

        Raises:
            BlobRefused: the server will not keep it. LimitError: above 1 GiB.
            ValueError: the name. OSError: the file.
        """
        check_name(name)
        base_ms, boot = self._device.clock.stamp()
        async with self._lock:
            opened = FileSource(source) if isinstance(source, str) else BufferSource(source)
            try:
                if opened.size > limits.MAX_BLOB:
                    raise LimitError("blob of %d B, limit %d B" % (opened.size, limits.MAX_BLOB))
                digest = await opened.digest(self._sender.buffer)
                self._id = self._id % limits.MAX_BLOB + 1
                offer = Offer(self._id, opened.size, self._chunk, digest, name)
                offer.content_format = content_format
                offer.base_ms = base_ms
                offer.boot = boot
                await self._send(offer, opened)
            finally:
                opened.close()
        return digest.hex()

    async def send_frame(
        self, buffer: "bytes | bytearray | memoryview", name: str = "frame"
    ) -> bool:
        """Send a JPEG; True when it is on the server's disk, False when a newer one came.

        One frame is under way and one waits. A third takes the place of the one that
        waits. ``buffer`` is not copied: it must not change before this returns.

        Raises:
            BlobRefused, ValueError: as send_blob.
        """
        if self._is_framing and not await self._wait_for_turn():
            self.replaced += 1
            return False
        self._is_framing = True
        try:
            await self.send_blob(name, buffer, JPEG)
        finally:
            self._next_turn()
        return True

    async def _wait_for_turn(self) -> bool:
        if self._waiting is not None:
            self._waiting.event.set()
        turn = self._waiting = Turn()
        is_over = False
        try:
            await turn.event.wait()
            is_over = True
        finally:
            if self._waiting is turn:
                self._waiting = None
            elif turn.is_mine and not is_over:
                self._next_turn()  # cancelled between the call and its turn
        return turn.is_mine

    def _next_turn(self) -> None:
        turn = self._waiting
        self._waiting = None
        self._is_framing = turn is not None
        if turn is not None:
            turn.is_mine = True
            turn.event.set()

    async def _send(self, offer: Offer, source: "Any") -> None:
        self._outcome = None
        self._over.clear()
        self._sender.start(offer, source)
        self._device.wake()
        try:
            await self._over.wait()
        finally:
            self._sender.cancel()
        self._judge(offer, self._outcome)

    def _judge(self, offer: Offer, state: "State | None") -> None:
        if state is None:
            raise BlobRefused("blob %s: the server takes no blobs" % offer.name)
        if state.status != STORED:
            self.refused += 1
            why = state.detail or REASONS.get(state.reason) or "reason %d" % state.reason
            raise BlobRefused("blob %s of %d B: %s" % (offer.name, offer.size, why), state.reason)
        self.stored += 1

    def _done(self, offer: Offer, state: State) -> None:
        self._outcome = state
        self._over.set()

    # -- what the device's core calls ------------------------------------------------

    def greet(self, hello: "Hello") -> None:
        """A link begins."""
        self._device.session.bulk = self._sender
        self._greeted = port.ticks()

    def opened(self, welcome: "Welcome") -> None:
        """The session is open."""
        if not welcome.capabilities & CAN_BLOB:
            self._sender.cancel()
            self._over.set()
            return
        took_ms = ticks_diff(port.ticks(), self._greeted)
        self._sender.open_link(took_ms if took_ms < _GREETING_MS else 0)

    def receive(self, event: "Received") -> None:
        """Take a BLOB_STATE."""
        self._sender.receive(event.payload, port.ticks())
