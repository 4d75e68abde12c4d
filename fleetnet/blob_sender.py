"""The sending half of blobs: one at a time, over any sequence of links.

A session asks ``next_frame`` for one frame whenever nothing more urgent waits (its
``bulk``). Every frame about a blob has a number; the receiver echoes the highest one with
what it holds. A chunk sent three or more numbers before the echo and not held is lost
(RFC 9002 section 6.1.1). When nothing is heard for a round-trip timeout the offer is sent
again, whose answer tells everything. On TLS the same rules find nothing lost.

Memory: one frame, and a few integers for each chunk within limits.BLOB_SPAN.
Source: docs/protocol.md section 13.
"""

from fleetnet import limits
from fleetnet.blobs import (
    MISMATCH,
    RECEIVING,
    REFUSED,
    STORED,
    Offer,
    State,
    decode_state,
    put_chunk_head,
)
from fleetnet.errors import ProtocolError
from fleetnet.frame import BLOB, BLOB_CHUNK
from fleetnet.rtt import RttEstimator
from fleetnet.ticks import ticks_add, ticks_diff

# Room for id, index and number before a chunk's bytes.
_HEAD = 15

# Frames overtaken by this many later ones are lost (RFC 9002 section 6.1.1).
_REORDERING = 3

# How long an overtaken frame is waited for at least.
_LEAST_WAIT_MS = 10

# So many timeouts in a row do not lengthen the next one (RFC 9002 section 6.2.4 sends two
# probes at once, as we do): on a link that loses one in ten they mean little.
_PATIENT = 2

# Chunks on their way: at first (RFC 6928 allows ten segments), and at least, on a link that
# loses one in ten by its nature.
_INITIAL = 8
_LEAST = 4

# A round trip that is this much longer than the shortest means that our own chunks fill a
# queue on the way, in which readings wait, too: step back (RFC 6817 section 2.5).
_QUEUE_MS = 100

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Source(Protocol):
        """Where the content comes from."""

        def read_into(self, offset: int, view: memoryview) -> None:
            """Fill ``view`` with the bytes from ``offset``. Raises OSError."""


class BlobSender:
    """Sends what ``start`` gives it; a session's ``bulk``.

    Args:
        chunk: bytes of the largest chunk, at most limits.BLOB_STREAM_CHUNK.
        on_done: called with (offer, state) when the receiver has stored or refused it.

    Attributes:
        offer: the blob under way, or None.
        sent, resent: chunks sent, and those of them that were sent before.
    """

    def __init__(self, chunk: int, on_done: "Callable[[Offer, State], None]"):
        self.offer: "Offer | None" = None
        self._timer: "int | None" = None
        self.sent = 0
        self.resent = 0
        self._on_done = on_done
        self._source: "Source | None" = None
        self._frame = memoryview(bytearray(_HEAD + min(chunk, limits.BLOB_STREAM_CHUNK)))
        self._rtt = RttEstimator()
        self._number = 0
        self._fresh = 0  # the first chunk that was never sent
        # (number, index, sent at) in order of number; the offer's index is -1
        self._flying: "list[tuple[int, int, int]]" = []
        self._lost: "list[int]" = []
        self._base = 0
        self._next = 0
        self._reset(0)

    # -- the owner's side ----------------------------------------------------------

    @property
    def buffer(self) -> memoryview:
        """Room of one chunk, the owner's while no blob is under way."""
        return self._frame[_HEAD:]

    def start(self, offer: Offer, source: "Source") -> None:
        """Begin a blob; the one before it is forgotten."""
        self.offer = offer
        self._source = source
        self._number = self._fresh = 0
        self._restart()

    def cancel(self) -> None:
        """Send no more of it."""
        self.offer = None
        self._source = None
        self._timer = None
        self._flying = []
        self._lost = []

    def open_link(self, rtt_ms: int) -> None:
        """Begin on a new link, whose round trip was ``rtt_ms`` (0: unknown)."""
        self._reset(rtt_ms)
        self._restart()

    def _reset(self, rtt_ms: int) -> None:
        self._rtt = RttEstimator()
        if rtt_ms:
            self._rtt.sample(rtt_ms)
        self._shortest = rtt_ms or 1 << 29
        self._window = _INITIAL
        self._threshold = limits.BLOB_WINDOW
        self._grown = 0

    def _restart(self) -> None:
        """Nothing is known of what the receiver holds: ask before anything is sent."""
        self._flying = []
        self._lost = []
        self._base = self._next = 0
        self._echo = 0
        self._credit = 0
        self._recovery = self._number
        self._is_known = False
        self._asked = self._number + 1
        self._asks = 1
        self._silent = self._probes = 0
        self._is_overtaken = False
        self._timer = None

    # -- what the session asks -----------------------------------------------------

    def next_frame(self, now: int) -> "tuple[int, bytes | memoryview] | None":
        """Return (kind, payload) of the next frame, valid until the next call; or None."""
        offer = self.offer
        if offer is None:
            return None
        if self._asks:
            self._asks -= 1
            offer.number = self._launch(-1, now)
            return BLOB, offer.to_payload()
        index = self._choose()
        if index < 0:
            return None
        if index < self._fresh:
            self.resent += 1
        self._fresh = max(self._fresh, index + 1)
        self.sent += 1
        self._probes = 0
        number = self._launch(index, now)
        # Every second chunk asks for an answer, and the last one that can go now.
        asks = number & 1 == 0 or self._choose(True) < 0
        try:
            return BLOB_CHUNK, self._chunk(offer, index, number, asks)
        except OSError as error:
            # The file is gone or shorter: the session must not suffer from it.
            state = State(offer.id, REFUSED)
            state.reason = MISMATCH
            state.detail = "its source cannot be read: %s" % error
            self.cancel()
            self._on_done(offer, state)
            return None

    def next_timer(self) -> "int | None":
        """Return the tick at which handle_timer wants to run, or None."""
        return self._timer

    def handle_timer(self, now: int) -> None:
        """Ask again when nothing was heard in time."""
        if self._timer is None or ticks_diff(self._timer, now) > 0:
            return
        self._timer = None
        if self._is_overtaken:
            self._give_up(self._echo, now)
            return
        self._asks = 2
        # With this gap the answer shows all that is on its way as lost or held.
        self._number += _REORDERING
        self._silent += 1
        chunks = [entry for entry in self._flying if entry[1] >= 0]
        if chunks:
            self._threshold = max(self._window >> 1, _LEAST)
            self._window = _LEAST
            self._recovery = self._number
            # One of the two is a chunk of those that are in doubt.
            self._asks = 1
            self._flying.remove(chunks[0])
            self._lost = sorted(self._lost + [chunks[0][1]])
            self._probes = 1

    def _launch(self, index: int, now: int) -> int:
        self._number += 1
        self._flying.append((self._number, index, now))
        if not self._is_overtaken:
            self._arm(now)
        return self._number

    def _arm(self, now: int) -> None:
        doublings = min(max(0, self._silent - _PATIENT), 6)
        self._timer = ticks_add(now, min(self._rtt.rto_ms() << doublings, limits.MAX_RTO_MS))

    def _choose(self, peek: bool = False) -> int:
        """Return the chunk to send now, -1 for none."""
        offer = self.offer
        if offer is None or not self._is_known or not self._credit:
            return -1
        if len(self._flying) >= min(self._window, self._credit) and not self._probes:
            return -1
        if self._lost:
            return self._lost[0] if peek else self._lost.pop(0)
        index = self._next
        if index >= offer.count or index >= self._base + limits.BLOB_SPAN:
            return -1
        if not peek:
            self._next += 1
        return index

    def _chunk(self, offer: Offer, index: int, number: int, asks: bool) -> memoryview:
        """Lay out a chunk in the one buffer: its head ends where its bytes begin."""
        head = bytearray()
        put_chunk_head(head, offer.id, index, number, asks)
        start = _HEAD - len(head)
        stop = _HEAD + offer.length_of(index)
        self._frame[start:_HEAD] = head
        assert self._source is not None
        self._source.read_into(index * offer.chunk, self._frame[_HEAD:stop])
        return self._frame[start:stop]

    # -- what the receiver says ----------------------------------------------------

    def receive(self, payload: bytes, now: int) -> None:
        """Take a BLOB_STATE.

        Raises:
            ProtocolError: it is malformed, or speaks of what was never sent.
        """
        state = decode_state(payload)
        offer = self.offer
        if offer is None or state.id != offer.id:
            return  # of a blob that is over
        if state.status == STORED or state.status == REFUSED:
            self.cancel()
            self._on_done(offer, state)
            return
        if state.echo > self._number or state.held > offer.count:
            raise ProtocolError(
                "blob %d: %d chunks held, frame %d echoed" % (offer.id, state.held, state.echo)
            )
        if state.echo < self._asked or state.echo < self._echo:
            return  # it was under way while a later one overtook it, or while we asked anew
        if state.status != RECEIVING:
            self._restart()
        else:
            self._follow(offer, state, now)

    def _follow(self, offer: Offer, state: State, now: int) -> None:
        """Bring our picture up to date with the receiver's."""
        delay_ms = self._sample(state, now)
        self._echo = state.echo
        self._credit = state.credit
        if not self._is_known:
            self._silent = 0
            self._adopt(offer, state)
        flying = []
        news = 0
        for entry in self._flying:
            if entry[1] < 0:
                if entry[0] > state.echo:
                    flying.append(entry)
            elif state.has(entry[1]):
                news += 1
            else:
                flying.append(entry)
        self._flying = flying
        self._lost = [index for index in self._lost if not state.has(index)]
        if state.held > self._base:
            self._base = state.held
            self._next = max(self._next, self._base)
        if news:
            self._silent = 0
            if delay_ms > _QUEUE_MS:
                self._step_back(state.echo)
            else:
                self._widen(news)
        self._give_up(state.echo - _REORDERING, now)

    def _give_up(self, number: int, now: int) -> None:
        """Chunks sent up to ``number`` are lost; wait for those that were overtaken by less."""
        lost = [(n, i) for n, i, _ in self._flying if n <= number and i >= 0]
        if lost:
            self._flying = [entry for entry in self._flying if entry[0] > number or entry[1] < 0]
            self._lost = sorted(self._lost + [index for _, index in lost])
            self._step_back(lost[-1][0])
        self._is_overtaken = any([n < self._echo and i >= 0 for n, i, _ in self._flying])
        if self._is_overtaken:
            # RFC 9002 section 6.1.2: later ones were answered; a quarter of a round trip more.
            self._timer = ticks_add(now, max(self._rtt.srtt_ms >> 2, _LEAST_WAIT_MS))
        else:
            self._arm(now)

    def _adopt(self, offer: Offer, state: State) -> None:
        """The first answer: go on behind what the receiver has."""
        self._is_known = True
        self._base = self._next = state.held
        last = min(offer.count, state.held + 1 + 8 * len(state.bitmap))
        for index in range(state.held, last):
            if state.has(index):
                self._next = index + 1
        self._lost = [i for i in range(state.held, self._next) if not state.has(i)]

    def _sample(self, state: State, now: int) -> int:
        """Measure the round trip; return by how much it exceeds the shortest one."""
        if state.echo <= self._echo:
            return 0
        for number, _, sent_at in self._flying:
            if number == state.echo:
                rtt_ms = max(0, ticks_diff(now, sent_at))
                self._rtt.sample(rtt_ms)
                self._shortest = min(self._shortest, rtt_ms)
                return rtt_ms - self._shortest
        return 0

    def _widen(self, news: int) -> None:
        """Widen the window by what arrived; slowly once it was too wide."""
        if self._window < self._threshold:
            self._window += news
        else:
            self._grown += news
            if self._grown >= self._window:
                self._grown = 0
                self._window += 1
        self._window = min(self._window, limits.BLOB_WINDOW)

    def _step_back(self, number: int) -> None:
        """Halve the window for what befell frame ``number``, once for each flight."""
        if number > self._recovery:
            self._recovery = self._number
            self._threshold = self._window = max(self._window >> 1, _LEAST)
            self._grown = 0
