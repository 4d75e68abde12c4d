"""All workers seen as one server: their sessions, their counters, what happens at them.

The store process keeps a mirror of every session. With it stand core's own parts, as they do in
a server of one process: presence, events, live readings. What web and the bridge ask for is there.
"""

import json
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from fleetnet.frame import OPTIONAL, READINGS
from fleetnet.handshake import Hello
from fleetnet.ports import port
from fleetnet.receiver import Gap
from fleetnet_server.core.duplicates import Duplicates
from fleetnet_server.core.events import READINGS as SHOWN
from fleetnet_server.core.live import LiveReading
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.transport import Transport
from fleetnet_server.identity.authenticate import Refusal
from fleetnet_server.store.serving import Stored
from fleetnet_server.workers.telling import NOW

if TYPE_CHECKING:
    from fleetnet_server.workers.store_process import StoreBackend

_log = logging.getLogger("fleetnet.workers")


class Mirror:
    """A session of a worker; what core/presence.py and core/taps.py ask of a Peer.

    Attributes:
        worker: whose it is. boot: of its device, 0: not told. takes_commands: its program does.
    """

    __slots__ = (
        "address", "boot", "device_id", "duplicates", "is_quarantined", "lag_ms", "lost", "name",
        "seen", "stored", "takes_commands", "via", "worker",
    )  # fmt: skip

    def __init__(self, worker: int, row: dict[str, Any]):
        self.worker = worker
        self.device_id: int = row["device"]
        self.name: str = row["name"]
        self.address: str = row["address"]
        self.boot: int = row["boot"]
        self.via: str = row["via"]
        self.is_quarantined: bool = row["is_quarantined"]
        self.takes_commands: bool = row["takes_commands"]
        self.stored = self.duplicates = self.lost = 0
        self.lag_ms: int | None = None
        self.seen = port.ticks()


class _Link(NamedTuple):
    """As much of a Transport as presence asks for."""

    kind: str


class WorkerState(NamedTuple):
    """One worker as the metrics show it.

    Attributes:
        cpu_s: seconds of a core, of all its processes one after the other.
    """

    is_up: bool
    sessions: int
    received: int
    cpu_s: float
    restarts: int


class Mirrors:
    """See the module; made by the store process's back-end.

    Attributes:
        restarts: by worker, from the supervisor. audit_lost: rows that found no room at workers.
    """

    def __init__(self, backend: "StoreBackend", workers: int):
        self._backend = backend
        self._workers = workers
        self._of: dict[int, Mirror] = {}
        # Whose device is on its way to another worker.
        self._taken: dict[int, Mirror] = {}
        self._duplicates = Duplicates()
        self._now: dict[int, dict[str, float]] = {}
        self._before: dict[int, Counter[str]] = {}
        self.restarts = [0] * workers
        self.audit_lost = 0

    def states(self) -> list[WorkerState]:
        """Return every worker, by its number."""
        found = []
        for worker in range(self._workers):
            now, before = self._now.get(worker), self._before.get(worker, Counter())
            sums = before + Counter(now or {})
            found.append(
                WorkerState(
                    now is not None, int((now or {}).get(f"{NOW}sessions", 0)),
                    int(sums["received"]), sums["cpu_s"], self.restarts[worker],
                )
            )  # fmt: skip
        return found

    def takes_commands(self, device_id: int) -> bool:
        """Say whether a device is here, and its program takes commands."""
        mirror = self._of.get(device_id)
        return mirror is not None and mirror.takes_commands

    # -- what the workers tell -------------------------------------------------------------

    def hear(self, worker: int, kind: str, data: Any) -> None:
        """Take one piece of news (telling.py)."""
        try:
            getattr(self, f"_hear_{kind}")(worker, data)
        except Exception:
            _log.exception("%s of worker %d was not understood", kind, worker)

    def left(self, worker: int) -> None:
        """A worker has ended, and its sessions with it."""
        for mirror in [one for one in self._of.values() if one.worker == worker]:
            self._end(mirror, "its worker ended")
        now = self._now.pop(worker, {})
        kept = self._before.setdefault(worker, Counter())
        kept.update({key: value for key, value in now.items() if not key.startswith(NOW)})
        self._sum_up()

    def _hear_opened(self, worker: int, row: dict[str, Any]) -> None:
        old = self._of.get(row["device"]) or self._taken.pop(row["device"], None)
        mirror = self._of[row["device"]] = Mirror(worker, row)
        if old is not None and old.worker != worker:
            self._replaced(old, mirror)
        hello = Hello()
        hello.software, hello.boot = row["software"], row["boot"]
        hello.identity = row["identity"]
        # Through a hub there is no link of its own.
        link = None if row["via"] else cast("Transport", _Link(row["link"]))
        self._backend.presence.opened(cast("Peer", mirror), hello, link)

    def _hear_ended(self, worker: int, data: list[Any]) -> None:
        device, why = data
        mirror = self._of.get(device)
        if mirror is not None and mirror.worker == worker:
            self._end(mirror, why)
            if self._backend.worker_of(device) not in (None, worker):
                self._taken[device] = mirror
            else:
                self._duplicates.ended(device)

    def _replaced(self, old: Mirror, new: Mirror) -> None:
        """A session at one worker took the place of one at another, as core/sessions.py says it."""
        audit = self._backend.audit
        audit.note_repeated(
            "server", "session-replaced", new.name, {"old": old.address, "new": new.address}
        )
        if not self._duplicates.replaces(new.device_id, old.boot, new.boot):
            return
        where = {"addresses": sorted((old.address, new.address))}
        if audit.note_repeated("server", "duplicate-identity", new.name, where):
            _log.warning(
                "two devices use one identity (%s, at %s): revoke it and give both new ones",
                new.name, where["addresses"],
            )  # fmt: skip

    def _end(self, mirror: Mirror, why: str) -> None:
        del self._of[mirror.device_id]
        self._backend.presence.ended(cast("Peer", mirror), why)
        self._backend.live.closed(cast("Peer", mirror))

    def _hear_refused(self, worker: int, data: list[Any]) -> None:
        reason, name, address = data
        self._backend.presence.refused(cast("Peer", _Address(address)), Refusal(reason, "", name))

    def _hear_gap(self, worker: int, data: list[Any]) -> None:
        device, stream, first, last = data
        mirror = self._of.get(device)
        if mirror is not None:
            self._backend.presence.gave_up(cast("Peer", mirror), Gap(stream, first, last))

    def _hear_event(self, worker: int, data: list[Any]) -> None:
        kind, device, text = data
        detail = json.loads(text)
        if kind == "command-ended":
            self._backend.commands.note_ended(detail["command"])
        else:
            self._backend.events.publish(kind, device, detail)

    def _hear_live(self, worker: int, rows: list[list[Any]]) -> None:
        fresh: dict[str, list[LiveReading]] = {}
        for device, channel, unix_ms, value in rows:
            reading = LiveReading(device, channel, unix_ms, json.loads(value))
            fresh.setdefault(device, []).append(reading)
        for device, readings in fresh.items():
            self._backend.live.take(device, readings)

    def _hear_seen(self, worker: int, devices: list[int]) -> None:
        now = port.ticks()
        for device in devices:
            mirror = self._of.get(device)
            if mirror is not None:
                mirror.seen = now

    def _hear_revoked(self, worker: int, data: None) -> None:
        self._backend.revoked()

    def _hear_counts(self, worker: int, counts: dict[str, float]) -> None:
        self._now[worker] = counts
        self._sum_up()

    # -- the sums --------------------------------------------------------------------------

    def _sum_up(self) -> None:
        """Write what all workers counted, those that ended included, where it is asked for."""
        sums: Counter[str] = Counter()
        for kept in self._before.values():
            sums.update(kept)
        for counts in self._now.values():
            for key, value in counts.items():
                sums[key] += value  # type: ignore[assignment]
        backend = self._backend
        router, gate, blobs = backend.router, backend.sessions.gate, backend.blobs
        router.received, router.problems = int(sums["received"]), int(sums["problems"])
        router.readings, router.is_shut = int(sums["readings"]), bool(sums[f"{NOW}is_shut"])
        gate.links.refused, gate.full = int(sums["links_refused"]), int(sums["sessions_full"])
        gate.herd.held, gate.herd.refused = int(sums["herd_held"]), int(sums["herd_refused"])
        blobs.stored, blobs.refused = int(sums["blobs_stored"]), int(sums["blobs_refused"])
        blobs.dropped = int(sums["blobs_dropped"])
        backend.live.refused = int(sums["live_refused"])
        self.audit_lost = int(sums["audit_lost"])
        presence = backend.presence
        for key, value in sums.items():
            what, _, rest = key.removeprefix(NOW).partition(":")
            link, _, reason = rest.partition(":")
            if what == "handshakes":
                presence.handshakes[link] = int(value)
            elif what == "handshakes_refused":
                presence.handshakes_refused[link, reason] = int(value)
            elif what in ("limited", "overloaded", "displaced", "pending"):
                setattr(backend.doors.setdefault(link, Door()), what, int(value))

    def on_batch(self, done: Stored) -> None:
        """A commit ended: count it, and show its readings to whoever wants them."""
        of, router = self._of, self._backend.router
        stored = 0
        now, newest = port.ticks(), {}
        for message, _token, is_new in done:
            newest[message.device_id] = message
            mirror = of.get(message.device_id)
            stored += is_new
            if mirror is not None:
                mirror.stored += is_new
                mirror.duplicates += not is_new
        router.stored += stored
        router.duplicates += len(done) - stored
        for device, message in newest.items():
            mirror = of.get(device)
            if mirror is not None:
                mirror.seen = now
                if message.kind & ~OPTIONAL == READINGS:
                    mirror.lag_ms = None if message.t1 is None else message.received - message.t1
        if self._backend.events.wants_any(SHOWN):
            shown = [
                (message, cast("Peer", of.get(message.device_id)), is_new)
                for message, _token, is_new in done
                if message.device_id in of
            ]
            self._backend.tap.on_batch(shown)


class _Address(NamedTuple):
    """As much of a Peer as a refusal asks for."""

    address: str


class Door:
    """The sums of net.admission.Door."""

    def __init__(self) -> None:
        self.limited = self.overloaded = self.displaced = self.pending = 0

    def __len__(self) -> int:
        return self.pending
