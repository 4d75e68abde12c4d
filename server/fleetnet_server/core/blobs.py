"""Blobs of devices: files and frames that arrive in chunks and are kept when complete.

A blob that is not complete is a partial: a file of what has come, and a few bytes here. It
outlives the session, so that a device goes on where it was cut, and is dropped when it was
idle for a while, or when its device begins newer ones. What one device, and what all
together can occupy is bounded; whoever finds no room is told to wait, or why it is refused.

Source: docs/protocol.md section 13.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fleetnet import frame as wire
from fleetnet.blob_receiver import BlobReceiver
from fleetnet.blobs import (
    CONTRADICTION,
    MISMATCH,
    REASONS,
    REFUSED,
    STORED,
    TOO_LARGE,
    UNKNOWN,
    Offer,
    State,
    decode_chunk,
    decode_offer,
)
from fleetnet.errors import PROTOCOL, ProtocolError
from fleetnet.events import Received
from fleetnet.handshake import CAN_BLOB, Hello
from fleetnet.limits import BLOB_WINDOW
from fleetnet_server.core.blob_ports import BlobLimits, BlobRow, BlobStore, PartialFile
from fleetnet_server.core.bodies import Message
from fleetnet_server.core.device_lines import DeviceLines
from fleetnet_server.core.events import Tell, tell_nobody
from fleetnet_server.errors import StoreUnavailable

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer

_log = logging.getLogger("fleetnet.blobs")

# Ids that a link is remembered to have spoken of; a device sends one blob after the other.
_HANDLES = 4


@dataclass(eq=False)
class _Partial:
    """A blob that is not kept yet."""

    device_id: int
    receiver: BlobReceiver
    file: PartialFile | None
    touched: float
    # Offers of this content that wait for the end, by their id, with who asked last.
    waiting: "dict[int, tuple[Offer, BlobRow, Peer]]" = field(default_factory=dict)
    is_ending: bool = False

    @property
    def offer(self) -> Offer:
        return self.receiver.offer


@dataclass(eq=False)
class _Handle:
    """What one link calls by one id; ``partial`` None once the blob is kept."""

    partial: _Partial | None
    echo: int


class Blobs:
    """Service of blobs.

    Attributes:
        stored, refused, dropped: blobs kept, refused, and partials given up.
        duplicates: chunks that came again.
        tell: hears of blobs that are kept (core/events.py).
    """

    capability = CAN_BLOB
    kinds: frozenset[int] = frozenset()
    live_kinds = frozenset((wire.BLOB, wire.BLOB_CHUNK))

    def __init__(
        self,
        store: BlobStore,
        limits: BlobLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.tell: Tell = tell_nobody
        self.stored = 0
        self.refused = 0
        self._refusal_lines = DeviceLines("blobs of it that are refused")
        self.dropped = 0
        self.duplicates = 0
        self._store = store
        self._limits = limits or BlobLimits()
        self._clock = clock
        self._partials: dict[tuple[int, bytes], _Partial] = {}
        self._bytes = 0
        self._handles: dict[Peer, dict[int, _Handle]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # -- Service -----------------------------------------------------------------------

    def opened(self, peer: "Peer", hello: Hello) -> None:
        """See Service."""

    def durable(self, peer: "Peer", message: Message) -> None:
        """See Service."""

    def closed(self, peer: "Peer") -> None:
        """See Service. Partials stay for the next link."""
        for number, handle in self._handles.pop(peer, {}).items():
            waiting = handle.partial.waiting if handle.partial is not None else {}
            if number in waiting and waiting[number][2] is peer:
                # It will be offered on the next link, if its device still wants it.
                del waiting[number]

    def received(self, peer: "Peer", event: Received) -> None:
        """See Service."""
        try:
            if event.kind & ~wire.OPTIONAL == wire.BLOB:
                self._offered(peer, decode_offer(event.payload))
            else:
                self._chunk(peer, event.payload)
        except ProtocolError as error:
            _log.warning("device %s: %s", peer.name, error)
            peer.bye(error.reason or PROTOCOL)

    async def close(self) -> None:
        """Let the blobs that are complete be kept; drop the others."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        for partial in list(self._partials.values()):
            self._drop(partial)

    # -- offers ------------------------------------------------------------------------

    def _offered(self, peer: "Peer", offer: Offer) -> None:
        handle = self._handles.get(peer, {}).get(offer.id)
        if handle is not None and self._goes_on(peer, offer, handle):
            return
        most = self._limits.blob_bytes
        if peer.rules is not None and peer.rules.max_blob is not None:
            most = min(most, peer.rules.max_blob)
        if offer.size > most:
            self._refuse(peer, offer, TOO_LARGE, f"at most {most} B")
            return
        try:
            quota = self._store.most_bytes(peer.device_id)
            if quota is not None and offer.size > quota:
                self._refuse(peer, offer, TOO_LARGE, f"the quota is {quota} B")
                return
            row = _row_of(peer, offer)
            if self._store.is_stored(row):
                self._remember(peer, offer, None)
                self._say(peer, State(offer.id, STORED))
                return
            partial = self._partial_of(peer, offer)
        except (OSError, StoreUnavailable) as error:
            _log.error("a blob of %s must wait: %s", peer.name, error)
            self._halt(peer, offer)
            return
        if partial is None:
            self._halt(peer, offer)
            return
        if (partial.offer.size, partial.offer.chunk) != (offer.size, offer.chunk):
            self._refuse(peer, offer, CONTRADICTION)
            return
        if len(partial.waiting) >= _HANDLES:
            partial.waiting.pop(next(iter(partial.waiting)))
        partial.waiting[offer.id] = (offer, row, peer)
        self._remember(peer, offer, partial)
        self._answer(peer, offer.id, self._handles[peer][offer.id])
        self._end_if_complete(partial)

    def _goes_on(self, peer: "Peer", offer: Offer, handle: _Handle) -> bool:
        """Answer an offer that was heard before on this link."""
        partial = handle.partial
        if partial is None:
            self._say(peer, State(offer.id, STORED))
            return True
        if partial.file is None or partial.offer.sha256 != offer.sha256:
            return False
        handle.echo = max(handle.echo, offer.number)
        self._answer(peer, offer.id, handle)
        self._end_if_complete(partial)
        return True

    def _partial_of(self, peer: "Peer", offer: Offer) -> _Partial | None:
        """Return the partial of an offer, a new one when it is new; None without room."""
        now = self._clock()
        key = (peer.device_id, offer.sha256)
        partial = self._partials.get(key)
        if partial is None:
            if not self._make_room(peer.device_id, offer.size, now):
                return None
            file = self._store.open_partial(*key)
            partial = _Partial(peer.device_id, BlobReceiver(offer), file, now)
            self._partials[key] = partial
            self._bytes += offer.size
            if self._store.has_content(offer.sha256, offer.size):
                # Another blob had the same content: no chunk is needed.
                partial.receiver.held = offer.count
        partial.touched = now
        return partial

    def _make_room(self, device_id: int, size: int, now: float) -> bool:
        limits = self._limits
        idle = [p for p in self._partials.values() if not p.is_ending]
        idle.sort(key=lambda p: p.touched)
        own = [p for p in idle if p.device_id == device_id]
        for partial in own[: len(own) + 1 - limits.device_partials]:
            self._drop(partial)
        for partial in idle:
            age = now - partial.touched
            is_full = (
                len(self._partials) >= limits.partials or self._bytes + size > limits.partial_bytes
            )
            if age > limits.idle_s or (is_full and age > limits.busy_s):
                self._drop(partial)
        return len(self._partials) < limits.partials and self._bytes + size <= limits.partial_bytes

    # -- chunks ------------------------------------------------------------------------

    def _chunk(self, peer: "Peer", payload: bytes) -> None:
        number_of_blob, index, number, asks, data = decode_chunk(payload)
        handle = self._handles.get(peer, {}).get(number_of_blob)
        if handle is None or (handle.partial is not None and handle.partial.file is None):
            # It was dropped meanwhile, or never offered on this link.
            if asks:
                self._say(peer, State(number_of_blob, UNKNOWN, number))
            return
        handle.echo = max(handle.echo, number)
        partial = handle.partial
        if partial is None:
            return  # a copy that came late
        credit = BLOB_WINDOW
        if partial.receiver.wants(index, len(data)):
            assert partial.file is not None
            try:
                partial.file.write(index * partial.offer.chunk, data)
            except OSError as error:
                _log.error("a blob of %s cannot be written: %s", peer.name, error)
                credit = 0
            else:
                partial.receiver.take(index)
        partial.touched = self._clock()
        if asks or not credit:
            self._answer(peer, number_of_blob, handle, credit)
        self._end_if_complete(partial)

    # -- the end -----------------------------------------------------------------------

    def _end_if_complete(self, partial: _Partial) -> None:
        if partial.receiver.is_complete and partial.waiting and not partial.is_ending:
            partial.is_ending = True
            task = asyncio.get_running_loop().create_task(self._keep(partial))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _keep(self, partial: _Partial) -> None:
        """Make a complete blob durable, and say so."""
        rows = [row for _, row, _ in partial.waiting.values()]
        is_known = self._store.has_content(partial.offer.sha256, partial.offer.size)
        try:
            is_right = await self._store.keep(rows, None if is_known else partial.file)
        except (OSError, StoreUnavailable) as error:
            # The device asks again, and finds all chunks here.
            _log.error("a complete blob must wait: %s", error)
            partial.is_ending = False
            if is_known:
                # A quota may have removed that content: no chunk of it came on this offer.
                self._drop(partial)
            return
        self._forget(partial)
        if is_right:
            self.stored += 1
        for offer, row, peer in partial.waiting.values():
            if not is_right:
                self._refuse(peer, offer, MISMATCH)
            elif row in rows:
                handle = self._handles.get(peer, {}).get(row.number)
                if handle is not None:
                    handle.partial = None
                self.tell(
                    "blob-stored", peer.name,
                    {"name": row.name, "size": row.size, "sha256": row.sha256.hex(),
                     "content_format": row.content_format},
                )  # fmt: skip
                self._say(peer, State(row.number, STORED))
            # Else it was offered while the rows were written: it will be offered again.

    def _drop(self, partial: _Partial) -> None:
        """Give up a partial."""
        self.dropped += 1
        self._forget(partial)

    def _forget(self, partial: _Partial) -> None:
        if self._partials.pop((partial.device_id, partial.offer.sha256), None) is None:
            return
        self._bytes -= partial.offer.size
        self.duplicates += partial.receiver.duplicates
        file, partial.file = partial.file, None
        if file is not None:
            try:
                file.discard()
            except OSError as error:
                _log.error("a partial blob is left over: %s", error)

    # -- answers -----------------------------------------------------------------------

    def _remember(self, peer: "Peer", offer: Offer, partial: _Partial | None) -> None:
        if not peer.is_open:
            return
        handles = self._handles.setdefault(peer, {})
        if offer.id not in handles and len(handles) >= _HANDLES:
            del handles[next(iter(handles))]
        handles[offer.id] = _Handle(partial, offer.number)

    def _answer(
        self, peer: "Peer", number: int, handle: _Handle, credit: int = BLOB_WINDOW
    ) -> None:
        assert handle.partial is not None
        self._say(peer, handle.partial.receiver.state(number, handle.echo, credit))

    def _halt(self, peer: "Peer", offer: Offer) -> None:
        """No room now: nothing is kept of the offer, it will come again."""
        self._say(peer, BlobReceiver(offer).state(offer.id, offer.number, 0))

    def _refuse(self, peer: "Peer", offer: Offer, reason: int, detail: str = "") -> None:
        self.refused += 1
        state = State(offer.id, REFUSED)
        state.reason = reason
        state.detail = f"{REASONS[reason]}: {detail}" if detail else REASONS[reason]
        if self._refusal_lines.take(peer.device_id, peer.name):
            _log.warning("blob %r of %s refused: %s", offer.name, peer.name, state.detail)
        self._say(peer, state)

    def _say(self, peer: "Peer", state: State) -> None:
        peer.send_live(wire.BLOB_STATE, state.to_payload())


def _row_of(peer: "Peer", offer: Offer) -> BlobRow:
    """Return what to keep of an offer, dated as well as it can be."""
    time_ms: int | None = offer.base_ms
    if offer.boot:
        offset = peer.boot_offset(offer.boot)
        time_ms = None if offset is None else offer.base_ms + offset
    return BlobRow(
        peer.device_id, offer.id, offer.name, offer.content_format, offer.size, offer.sha256,
        time_ms, time.time_ns() // 1_000_000,
    )  # fmt: skip
