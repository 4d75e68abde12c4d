"""New identities for devices, over the sessions that they have.

A device gets another certificate when a third of the life of its present one is left, when the
CA or the server's pins are not those that it was told of, and when somebody asks
(`fleetnet device renew`). The old identity stays good until the device has come with the new
one. Source: docs/protocol.md section 14.

    INSTALL or REQUEST ... REQUESTED ... INSTALL      an offer, on the disk before it is sent
    HELLO with the number                             it works: RETIRE
    RETIRED                                           the older certificates are revoked

Keys that are made here are sent and forgotten. What the end of a session cut off is replaced by
the next number on the next one; a request for a CSR is repeated.
"""

import asyncio
import heapq
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from fleetnet import credential as wire
from fleetnet.credential import Credential
from fleetnet.errors import CredentialError, ProtocolError
from fleetnet.events import Received
from fleetnet.frame import COMMANDS, CREDENTIAL, CREDENTIAL_STATE
from fleetnet.handshake import CAN_MAKE_KEY, CAN_ROTATE, Hello
from fleetnet_server.core.bodies import Message
from fleetnet_server.core.device_lines import DeviceLines
from fleetnet_server.core.rotation_line import Line
from fleetnet_server.core.rotation_ports import (
    Audit,
    IdentityStore,
    Issued,
    Wanted,
    WantedSource,
)
from fleetnet_server.errors import StoreUnavailable

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer

_log = logging.getLogger("fleetnet.rotation")

# A key takes a small board a minute; a device that is silent for so long will stay so.
_PATIENCE_MS = 600_000
_SPARE = 64  # entries of the heap that may be out of date
_RETRY_MS = 5_000  # after a store or an authority that failed

# A store that was put back from a backup may lack some. The number is the device's own to say:
# one at the end of the range would leave none for the next offer, for ever.
_MOST_AHEAD = 1024


class Rotations:
    """The service (core/services.py); made on a running loop, looked after by a Lookout.

    Args:
        rate: most new identities a second, for all devices together.

    Attributes:
        offered, worked, failures, retired: counters.
        unable: why devices that need a new identity cannot get one, by name.
        on_revoked: called when older certificates were revoked.
    """

    capability = CAN_ROTATE | CAN_MAKE_KEY
    kinds = frozenset((CREDENTIAL_STATE,))
    live_kinds: frozenset[int] = frozenset()

    def __init__(
        self,
        store: IdentityStore,
        source: WantedSource,
        rate: float,
        audit: Audit | None = None,
    ):
        self._store = store
        self._source = source
        self._period_s = 1 / rate
        self._audit = audit
        self._loop = asyncio.get_running_loop()
        self._lines: dict[int, Line] = {}
        self._queue: deque[Line] = deque()
        self._wake = asyncio.Event()
        self._due: list[tuple[int, int, Line]] = []  # unix ms, order, line
        self._order = 0
        self._wanted = source.current()
        self._seen = store.newest()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopped = False
        self._complaint = ("", 0.0)
        self._worker = self._loop.create_task(self._work())
        self.offered = self.worked = self.failures = self.retired = 0
        self.unable: dict[str, str] = {}
        self._log_lines = DeviceLines("its identities")
        self.on_revoked: Callable[[], None] | None = None

    # -- see Service and Looking ---------------------------------------------------------

    def opened(self, peer: "Peer", hello: Hello) -> None:
        """Note which identity works, then see whether the device needs another one."""
        facts = self._store.facts(peer.device_id, peer.serial, peer.psk_identity)
        if not peer.serial and not facts.is_first:
            return
        newest = facts.identities[0].number if facts.identities else 0
        if hello.identity > newest + _MOST_AHEAD:
            self._log_about(peer, "says identity %d, after %d", hello.identity, newest)
            return
        line = self._lines[peer.device_id] = Line(peer, hello.identity, facts, _now_ms())
        if peer.serial and (facts.has_claim or not line.is_known):
            self._spawn(line, self._note_worked(line))
        else:
            self._go_on(line)

    def received(self, peer: "Peer", event: Received) -> None:
        """A CREDENTIAL_STATE that nobody would repeat is not one."""

    def durable(self, peer: "Peer", message: Message) -> None:
        """A CREDENTIAL_STATE is stored: go on with that identity's story."""
        line = self._lines.get(peer.device_id)
        if line is None or line.peer is not peer:
            return
        body = message.body.encode() if isinstance(message.body, str) else message.body
        try:
            state = wire.decode_credential_state(body)
        except ProtocolError as error:
            self._log_about(peer, "sent an unreadable CREDENTIAL_STATE: %s", error)
            return
        self._hear(line, state)

    def _log_about(self, peer: "Peer", text: str, *values: object) -> None:
        if self._log_lines.take(peer.device_id, peer.name):
            _log.warning("device %s %s", peer.name, text % values)

    def _hear(self, line: Line, state: wire.CredentialState) -> None:
        number = state.number
        if state.state == wire.RETIRED:
            if number == line.number:
                self._spawn(line, self._retire(line))
        elif number == line.number:
            self._log_about(line.peer, "keeps older identities: %s", state.reason)
        elif number not in (line.offered, line.cut_off):
            self._log_about(line.peer, "speaks of identity %d, long gone", number)
        elif state.state == wire.FAILED:
            self._spawn(line, self._note_failed(line, number, state.reason))
        elif number == line.offered and line.awaits_csr:
            line.awaits_csr = False
            self._spawn(line, self._answer_csr(line, state.csr))

    def closed(self, peer: "Peer") -> None:
        """The next HELLO tells what became of an offer."""
        line = self._lines.get(peer.device_id)
        if line is not None and line.peer is peer:
            del self._lines[peer.device_id]

    def look(self) -> None:
        """Find what is due by now, what was asked for, and what the CA or the server changed."""
        wanted = self._source.current()
        if wanted is not self._wanted:
            self._wanted = wanted
            for line in list(self._lines.values()):
                self._consider(line)
        self._seen, asked = self._store.asked_after(self._seen)
        for device_id, asked_ms in asked:
            found = self._lines.get(device_id)
            if found is not None:
                found.ask(asked_ms)
                self._consider(found)
        now_ms = _now_ms()
        while self._due and self._due[0][0] <= now_ms:
            when_ms, _, line = heapq.heappop(self._due)
            if self._is_live(line) and line.look_ms == when_ms:
                line.look_ms = 0
                self._look_at(line, now_ms)

    async def stop(self) -> None:
        """Offer nothing more, and wait for what is under way."""
        self._is_stopped = True
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        # Not cancelled: a thread that commits cannot be, and the store is closed next.
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- when ------------------------------------------------------------------------------

    def _look_at(self, line: Line, now_ms: int) -> None:
        """Something of this line may be due: a frame that had no room, an answer, an offer."""
        patience_ms = line.offered_ms + _PATIENCE_MS
        if line.unsent:
            self._send(line, line.unsent)
        elif not line.is_known:
            self._spawn(line, self._note_worked(line))
        elif not line.offered:
            self._consider(line)
        elif now_ms >= patience_ms:
            self._spawn(line, self._note_failed(line, line.offered, "no answer in ten minutes"))
        else:
            self._look_later(line, patience_ms)

    def _consider(self, line: Line) -> None:
        """Queue a line that needs another identity now, or note when it will."""
        wanted = self._wanted
        if wanted is None or line.is_queued or line.offered or not line.is_known:
            return
        now_ms = _now_ms()
        why = line.need(wanted, now_ms)
        if why and not line.peer.capabilities & CAN_ROTATE:
            self._warn_unable(line, why)
        elif why and now_ms >= line.not_before_ms:
            line.is_queued = True
            self._queue.append(line)
            self._wake.set()
        else:
            self._look_later(line, max(line.not_before_ms if why else line.due_ms, now_ms + 1))

    def _look_later(self, line: Line, when_ms: int) -> None:
        """Look at a line then; whoever looks before that looks later again."""
        if line.look_ms and line.look_ms <= when_ms:
            return
        line.look_ms = when_ms
        self._order += 1
        heapq.heappush(self._due, (when_ms, self._order, line))
        if len(self._due) > 2 * len(self._lines) + _SPARE:
            # Sessions come and go; what is due in months must not keep them.
            due = [one for one in self._due if self._is_live(one[2]) and one[2].look_ms == one[0]]
            heapq.heapify(due)
            self._due = due

    def _warn_unable(self, line: Line, why: str) -> None:
        if line.peer.name not in self.unable:
            _log.warning(
                "device %s needs a new identity (%s) and cannot take one over its link: give it a "
                "place for files (device.flash), or a new bundle", line.peer.name, why,
            )  # fmt: skip
        self.unable[line.peer.name] = why

    async def _work(self) -> None:
        """Serve the queue in its order, at the pace that was set."""
        free_at = 0.0
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            line = self._queue.popleft()
            line.is_queued = False
            wanted = self._wanted
            if not self._is_live(line) or wanted is None or line.offered:
                continue
            why = line.need(wanted, _now_ms())
            if why:
                free_at = max(free_at, self._loop.time()) + self._period_s
                await asyncio.shield(self._spawn(line, self._offer(line, wanted, why)))
                await asyncio.sleep(free_at - self._loop.time())

    # -- offers ------------------------------------------------------------------------------

    async def _offer(self, line: Line, wanted: Wanted, why: str) -> None:
        """Commit an offer, then send it.

        Where only anchors or pins changed the device keeps its pair, and gets these.
        """
        peer, number = line.peer, line.next_number
        device_id = peer.device_id
        issued: Issued | None = None
        keeps_pair = line.keeps_pair(wanted, _now_ms())
        line.awaits_csr = not keeps_pair and bool(peer.capabilities & CAN_MAKE_KEY)
        if not keeps_pair and not line.awaits_csr:
            issued = await asyncio.to_thread(wanted.issue, peer.name)
        line.begin(number, _now_ms())
        serial = peer.serial if keeps_pair else None
        offer = self._store.offer
        if not await asyncio.to_thread(
            offer, device_id, number, wanted, issued, serial, peer.serial
        ):
            line.end()  # its session is about to be ended
            return
        self.offered += 1
        self._note("identity-offered", peer.name, number, why=why)
        if line.awaits_csr:
            self._send(line, wire.encode_credential(Credential(wire.REQUEST, number)))
        else:
            self._install(line, wanted, issued)

    async def _answer_csr(self, line: Line, csr: bytes) -> None:
        peer, number, wanted = line.peer, line.offered, self._wanted
        assert wanted is not None
        try:
            if not csr:
                issued = await asyncio.to_thread(wanted.issue, peer.name)
            else:
                issued = await asyncio.to_thread(wanted.sign, csr, peer.name)
        except CredentialError as error:
            refusal = Credential(wire.REFUSED, number, reason=str(error))
            self._send(line, wire.encode_credential(refusal))
            await self._note_failed(line, number, str(error))
            return
        certify = self._store.certify
        if await asyncio.to_thread(certify, peer.device_id, number, wanted, issued, peer.serial):
            self._install(line, wanted, issued)

    def _install(self, line: Line, wanted: Wanted, issued: Issued | None) -> None:
        pair = (issued.certificate, issued.key) if issued is not None else (b"", b"")
        body = wire.encode_credential(
            Credential(wire.INSTALL, line.offered, *pair, wanted.anchors, wanted.pin_values)
        )
        self._send(line, body)

    def _send(self, line: Line, body: bytes) -> None:
        """Send, now or when there is room; the session's end forgets it."""
        line.unsent = b""
        if self._is_live(line) and not line.peer.send(COMMANDS, CREDENTIAL, body):
            line.unsent = body
            self._look_later(line, _now_ms() + 250)
        elif line.offered:
            self._look_later(line, line.offered_ms + _PATIENCE_MS)

    # -- how it ends ---------------------------------------------------------------------------

    async def _note_worked(self, line: Line) -> None:
        peer = line.peer
        await asyncio.to_thread(self._store.worked, peer.device_id, line.number, peer.serial)
        self.unable.pop(peer.name, None)
        if line.number:
            self.worked += 1
            self._note("identity-works", peer.name, line.number)
        if self._is_live(line):
            line.take(self._store.facts(peer.device_id, peer.serial, ""), _now_ms())
            self._go_on(line)

    def _go_on(self, line: Line) -> None:
        """The identity of this session is on the disk as working."""
        if line.must_retire and line.peer.capabilities & CAN_ROTATE:
            self._send(line, wire.encode_credential(Credential(wire.RETIRE, line.number)))
        self._consider(line)

    async def _retire(self, line: Line) -> None:
        peer = line.peer
        revoked = await asyncio.to_thread(self._store.retire, peer.device_id, line.number)
        self.retired += 1
        if revoked and self.on_revoked is not None:
            self.on_revoked()
        serials = [f"{serial:x}" for serial in revoked]
        self._note("identity-retired", peer.name, line.number, revoked=serials)

    async def _note_failed(self, line: Line, number: int, reason: str) -> None:
        peer = line.peer
        if number == line.offered:
            line.end()
        tries = await asyncio.to_thread(self._store.failed, peer.device_id, number, reason)
        self.failures += 1
        line.has_failed(_now_ms(), tries)
        _log.warning(
            "device %s keeps its identity, the new one (%d) failed: %s; the next try is in %d min",
            peer.name, number, reason, max(0, line.not_before_ms - _now_ms()) // 60_000,
        )  # fmt: skip
        self._note("identity-failed", peer.name, number, reason=reason, tries=tries)
        self._consider(line)

    # -- the rest ------------------------------------------------------------------------------

    def _is_live(self, line: Line) -> bool:
        return self._lines.get(line.peer.device_id) is line and not self._is_stopped

    def _note(self, action: str, device: str, number: int, **detail: Any) -> None:
        _log.info("device %s: %s (%d)", device, action, number)
        if self._audit is not None:
            self._audit.note("server", action, device, {"number": number, **detail})

    async def _guarded(self, line: Line, work: Coroutine[Any, Any, None]) -> None:
        """Run a step; one that fails is tried again, and disturbs no other device."""
        try:
            await work
            return
        except (StoreUnavailable, CredentialError) as error:
            self._complain(line.peer.name, str(error))
        except Exception:
            _log.exception("identity of %s: a step failed", line.peer.name)
        line.end()
        line.not_before_ms = max(line.not_before_ms, _now_ms() + _RETRY_MS)
        self._look_later(line, line.not_before_ms)

    def _complain(self, device: str, text: str) -> None:
        """Once a minute: what is missing for one device is missing for all."""
        now = self._loop.time()
        if text != self._complaint[0] or now >= self._complaint[1] + 60:
            self._complaint = (text, now)
            _log.error("identity of %s, and of others, waits: %s", device, text)

    def _spawn(self, line: Line, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = self._loop.create_task(self._guarded(line, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
