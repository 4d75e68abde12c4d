"""What a worker tells the store process, so that there is one view of all workers (mirrors.py)."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fleetnet.handshake import CAN_COMMAND, Hello
from fleetnet.receiver import Gap
from fleetnet_server.core.events import FLEETING, Events
from fleetnet_server.core.presence import Presence
from fleetnet_server.core.transport import Transport
from fleetnet_server.identity.authenticate import Refusal
from fleetnet_server.store.remote_line import StoreLine

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer
    from fleetnet_server.workers.worker import WorkerBackend

# A page of metrics is a second old at most.
_COUNTS_S = 1.0

# When a device was last heard is told this often: 20,000 sessions are 80 KB.
_SEEN_EVERY = 5

# Live readings that come within this time go together; nobody sees the difference.
_LIVE_S = 0.05

# How a name of a number begins that is no counter: it ends with its worker.
NOW = "now:"


class ToldEvents(Events):
    """Events of a worker, which happen in the store process."""

    def __init__(self, line: StoreLine):
        super().__init__()
        self._line = line

    def publish(self, kind: str, device: str | None, detail: dict[str, Any]) -> None:
        """See Events; readings are told as they become durable, and live ones by Reporter."""
        if kind not in FLEETING:
            # As JSON: its integers have no end, those of msgpack have 64 bits.
            self._line.tell("event", [kind, device, json.dumps(detail)])


class ToldPresence(Presence):
    """Who is at a worker, told to the store process."""

    def __init__(self, line: StoreLine):
        super().__init__()
        self._line = line

    def opened(self, peer: "Peer", hello: Hello, transport: Transport | None) -> None:
        """See Presence."""
        super().opened(peer, hello, transport)
        self._line.tell("opened", self.row(peer))

    def row(self, peer: "Peer") -> dict[str, Any]:
        """Return what the store process is told of a session."""
        shown = self.of(peer.name)
        return {
            "device": peer.device_id, "name": peer.name, "address": peer.address, "via": peer.via,
            "link": shown.link, "is_quarantined": peer.is_quarantined,
            "software": shown.software, "boot": shown.boot, "identity": shown.identity,
            "takes_commands": bool(peer.capabilities & CAN_COMMAND),
        }  # fmt: skip

    def ended(self, peer: "Peer", why: str) -> None:
        """See Presence."""
        super().ended(peer, why)
        self._line.tell("ended", [peer.device_id, why])

    def refused(self, peer: "Peer", refusal: Refusal) -> None:
        """See Presence."""
        super().refused(peer, refusal)
        self._line.tell("refused", [refusal.reason, refusal.name, peer.address])

    def gave_up(self, peer: "Peer", gap: Gap) -> None:
        """See Presence."""
        super().gave_up(peer, gap)
        self._line.tell("gap", [peer.device_id, gap.stream, gap.first, gap.last])


class Reporter:
    """Tells a worker's counters, and the live readings of its devices."""

    def __init__(self, backend: "WorkerBackend", line: StoreLine):
        self._backend = backend
        self._line = line
        self._seen: dict[int, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; whoever joins the store process tells everything anew."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._count()), loop.create_task(self._show())]
        self._line.on_joined = self.tell_all

    async def stop(self) -> None:
        """End, with the last numbers told."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._line.tell("counts", counts_of(self._backend))

    def tell_all(self) -> None:
        """Tell who is here, and how much was counted."""
        presence = self._backend.presence
        assert isinstance(presence, ToldPresence)
        for peer in list(self._backend.sessions.live.values()):
            if peer.is_open:
                self._line.tell("opened", presence.row(peer))
        self._line.tell("counts", counts_of(self._backend))

    async def _count(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(_COUNTS_S)
            self._line.tell("counts", counts_of(self._backend))
            turn += 1
            if turn % _SEEN_EVERY == 0:
                self._line.tell("seen", self._newly_seen())

    def _newly_seen(self) -> list[int]:
        """Return the devices of which something was heard since the last time."""
        now = {peer.device_id: peer.seen for peer in self._backend.sessions.live.values()}
        before, self._seen = self._seen, now
        return [device for device, seen in now.items() if before.get(device) != seen]

    async def _show(self) -> None:
        watcher = self._backend.live.watch()
        try:
            async for first in watcher:
                await asyncio.sleep(_LIVE_S)
                rows = [
                    [one.device, one.channel, one.unix_ms, json.dumps(one.value)]
                    for one in (first, *watcher.take())
                ]
                self._line.tell("live", rows)
        finally:
            watcher.close()


def counts_of(backend: "WorkerBackend") -> dict[str, float]:
    """Return all that a worker counts, as one level of names."""
    router, gate, blobs = backend.router, backend.sessions.gate, backend.blobs
    found: dict[str, float] = {
        "received": router.received,
        "problems": router.problems,
        "readings": router.readings,
        "links_refused": gate.links.refused,
        "sessions_full": gate.full,
        "herd_held": gate.herd.held,
        "herd_refused": gate.herd.refused,
        "blobs_stored": blobs.stored,
        "blobs_refused": blobs.refused,
        "blobs_dropped": blobs.dropped,
        "live_refused": backend.live.refused,
        "audit_lost": backend.audit.lost,
        "cpu_s": time.process_time(),
        f"{NOW}herd_away": gate.herd.away,
        f"{NOW}is_shut": router.is_shut,
        f"{NOW}backlog": backend.writer.backlog,
        f"{NOW}sessions": len(backend.sessions.live),
    }
    found.update(_of_handshakes(backend))
    return found


def _of_handshakes(backend: "WorkerBackend") -> Iterator[tuple[str, float]]:
    presence = backend.presence
    for link, count in presence.handshakes.items():
        yield f"handshakes:{link}", count
    for (link, reason), count in presence.handshakes_refused.items():
        yield f"handshakes_refused:{link}:{reason}", count
    for link, door in backend.listeners.doors.items():
        yield f"limited:{link}", door.limited
        yield f"overloaded:{link}", door.overloaded
        yield f"displaced:{link}", door.displaced
        yield f"{NOW}pending:{link}", len(door)
