"""From a received message to the store, and from the commit to its acknowledgement."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from fleetnet.events import Received
from fleetnet.frame import OPTIONAL, READINGS
from fleetnet.ports import port
from fleetnet_server.core.bodies import POLICY, Message, inspect_body, new_message
from fleetnet_server.core.device_lines import DeviceLines
from fleetnet_server.core.policing import inspect_restricted
from fleetnet_server.core.ports import MessageWriter
from fleetnet_server.core.services import Services

if TYPE_CHECKING:
    from fleetnet_server.core.origin import Origin
    from fleetnet_server.core.peer import Peer

_log = logging.getLogger("fleetnet.router")

# Bodies that wait for a commit. Above the high mark every window is shut, so that a store
# that stands still costs this much memory and no more; below the low mark they reopen.
_HIGH_BYTES = 64 << 20
_LOW_BYTES = 32 << 20

# What a waiting message costs besides its body: tuple, numbers, places in two lists. Measured.
_MESSAGE_BYTES = 400


class Router:
    """Takes messages of all peers; ``on_durable`` is the writer's callback.

    Attributes:
        writer: set by app before the first message.
        received, stored, duplicates, problems: counters of messages. readings: in those that
            were received and are good. lost: those that another server stores.
        is_shut: the windows are shut because the store is behind.
        services: hear of messages of their kinds once these are durable.
        on_shut: hears of is_shut; on_denied: of messages that a policy does not allow;
            on_batch: of every commit, when its messages are acknowledged.
            on_too_fast: of devices that go on sending when their windows are closed;
            on_taken: of those that another server has now.
    """

    def __init__(self) -> None:
        self.writer: MessageWriter[Peer] | None = None
        self.received = 0
        self.stored = 0
        self.duplicates = 0
        self.problems = 0
        self.lost = 0
        self.readings = 0
        self.is_shut = False
        self.services = Services(())
        self.on_shut: Callable[[bool], None] | None = None
        self.on_denied: Callable[[Peer, str], None] | None = None
        self.on_batch: Callable[[list[tuple[Message, Peer, bool]]], None] | None = None
        self.on_too_fast: Callable[[Peer], None] | None = None
        self.on_taken: Callable[[Peer], None] | None = None
        self._waiting_bytes = 0
        self._problem_lines = DeviceLines("messages that break the rules")

    def take(self, peer: "Peer", event: Received) -> None:
        """Check one message and hand it to the writer."""
        assert self.writer is not None
        payload = event.payload
        received_ms = int(time.time() * 1000)
        rules = peer.rules
        if peer.pace is not None:
            if not peer.pace.is_over:
                peer.pace.count()
            if peer.pace.is_over:
                # Neither stored nor acknowledged, nor is anything behind it: nothing is lost.
                if self.on_too_fast is not None:
                    self.on_too_fast(peer)
                return
        if rules is None:
            found = inspect_body(event.kind, payload, peer.boot_offset, received_ms, None, self)
        else:
            found = inspect_restricted(
                rules, event.kind, payload, peer.boot_offset, received_ms, self
            )
        t0, t1, problem, body = found
        if problem is not None:
            self.problems += 1
            self._explain(peer, event, problem)
        self.received += 1
        peer.pending += 1
        self._waiting_bytes += len(body) + _MESSAGE_BYTES
        message = new_message(
            peer.device_id,
            peer.epoch_id,
            event.stream,
            event.seq,
            event.kind,
            t0,
            t1,
            received_ms,
            body,
            problem,
        )
        if peer.via:
            message = cast("Origin", peer).as_stored(message)
        self.writer.put(message, peer)
        if self._waiting_bytes > _HIGH_BYTES and not self.is_shut:
            self._shut(True)

    def on_durable(self, done: "list[tuple[Message, Peer, bool]]") -> None:
        """Acknowledge a committed batch."""
        heads: dict[tuple[Peer, int], Message] = {}
        size = stored = 0
        kinds = self.services.kinds
        told: list[tuple[Peer, Message]] = []
        for message, peer, is_new in done:
            heads[peer, message.stream] = message
            peer.pending -= 1
            size += len(message.body) + _MESSAGE_BYTES
            stored += is_new
            peer.stored += is_new
            if is_new and message.kind in kinds and not peer.is_quarantined:
                told.append((peer, message))
        self.stored += stored
        self.duplicates += len(done) - stored
        self._waiting_bytes -= size
        now = port.ticks()
        for (peer, stream), head in heads.items():
            if head.kind & ~OPTIONAL == READINGS:
                peer.lag_ms = None if head.t1 is None else head.received - head.t1
            peer.acknowledge(stream, head.seq, now)
        for peer, message in told:
            self.services.durable(peer, message)
        if stored != len(done):
            for _message, peer, is_new in done:
                peer.duplicates += not is_new
        if self.on_batch is not None:
            self.on_batch(done)
        self._reopen()

    def on_lost(self, lost: "list[tuple[Message, Peer]]") -> None:
        """Forget messages that came under a lease which is another server's by now."""
        counts = Counter(peer for _, peer in lost)
        self.lost += len(lost)
        self._waiting_bytes -= sum(len(message.body) + _MESSAGE_BYTES for message, _ in lost)
        for peer, count in counts.items():
            peer.forget(count)
        for holder in {peer.holder for peer in counts}:
            if self.on_taken is not None:
                self.on_taken(holder)
        self._reopen()

    def _reopen(self) -> None:
        if self.is_shut and self._waiting_bytes < _LOW_BYTES:
            self._shut(False)

    def _explain(self, peer: "Peer", event: Received, problem: str) -> None:
        if problem.startswith(POLICY):
            if self.on_denied is not None:
                self.on_denied(peer, problem)
            return
        if self._problem_lines.take(peer.device_id, peer.name):
            _log.warning(
                "device %s, stream %d, message %d: %s; it is stored as it came",
                peer.name, event.stream, event.seq, problem,
            )  # fmt: skip

    def _shut(self, is_shut: bool) -> None:
        self.is_shut = is_shut
        _log.warning(
            "store is behind: devices wait" if is_shut else "store has caught up: devices go on"
        )
        if self.on_shut is not None:
            self.on_shut(is_shut)
