"""What the stores in SQLite and in PostgreSQL have in common: a registry, and what waits.

What the event loop has to write (a gap, the offset of a boot, a row of the audit log) waits in
memory and goes into the next commit, before the messages that need it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

from fleetnet_server.identity.registry import Device
from fleetnet_server.store.registry import PROGRAM, DeviceTable

# unix ms, actor, action, device, detail as JSON
AuditRow = tuple[int, str, str, str | None, str]

# device, epoch, stream, first and last sequence, unix ms
GapRow = tuple[int, int, int, int, int, int]

# (device, boot) -> unix ms minus uptime ms
Boots = dict[tuple[int, int], int]

# Rows of the audit log that may wait for a store that is away: some 1 MB.
MAX_AUDIT = 4096


class Deferred(NamedTuple):
    """What waits for a commit."""

    gaps: Sequence[GapRow]
    audit: Sequence[AuditRow]
    offsets: Boots


class FleetStore:
    """The half of a store that is the same in every database.

    Implements fleetnet_server.identity.registry.Registry. Use as a context manager, or call
    ``close``.

    Attributes:
        on_deferred: called on the loop's thread when something waits for the next commit
            without a message (set by Writer).
        registry: its devices and certificates.
    """

    registry: DeviceTable

    def __init__(self) -> None:
        self.on_deferred: Callable[[], None] | None = None
        self._deferring = threading.Lock()
        # By epoch, stream and first number; and of each stream the first number of the newest.
        self._gaps: dict[tuple[int, int, int], GapRow] = {}
        self._newest_gap: dict[tuple[int, int], int] = {}
        self._audit: list[AuditRow] = []
        self._offsets: dict[tuple[int, int], int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is deferred, and close."""
        raise NotImplementedError

    # Registry

    def lookup(self, name: str) -> Device | None:
        """Return the device of that name, None when it is not registered, or was removed."""
        return self.registry.lookup(name)

    def was_removed(self, name: str) -> bool:
        """Say whether somebody removed a device of that name."""
        return self.registry.was_removed(name)

    def has_own_certificate(self, device_id: int) -> bool:
        """See Registry."""
        return self.registry.has_own_certificate(device_id)

    def admit(self, name: str, state: str, serial: int, policy: str) -> None:
        """Register a device that came by itself, and commit; see DeviceTable.admit."""
        self.registry.admit(name, state, serial, policy)

    def devices(self) -> list[Device]:
        """Return every device by name."""
        return self.registry.devices()

    def add_device(self, name: str, actor: str = PROGRAM) -> Device:
        """Register a device, enabled, and commit. Raises as DeviceTable.add."""
        return self.registry.add(name, actor)

    def set_enabled(self, name: str, enabled: bool) -> None:
        """Enable or disable a device, and commit. Raises StoreError when it is unknown."""
        self.registry.set_enabled(name, enabled)

    def add_certificate(self, device_id: int, serial: int, not_after_ms: int) -> None:
        """Note a certificate that was issued to a device, and commit."""
        self.registry.add_certificate(device_id, serial, not_after_ms)

    def revoke_certificate(self, serial: int) -> None:
        """Refuse a certificate from now on, and commit. Raises StoreError when it is unknown."""
        self.registry.revoke_certificate(serial)

    # What waits for the next commit

    def note_gap(self, device_id: int, epoch_id: int, stream: int, first: int, last: int) -> None:
        """Note that a device dropped messages ``first`` to ``last``, with the next commit.

        One that follows on another that waits becomes a part of it: while the store is away a
        device whose memory is full gives up message after message, and says so each time.
        """
        now_ms = time.time_ns() // 1_000_000
        of = (epoch_id, stream)
        with self._deferring:
            newest = self._gaps.get((*of, self._newest_gap.get(of, -1)))
            if newest is not None and newest[4] + 1 == first:
                first = newest[3]
            known = self._gaps.get((*of, first))
            last = last if known is None else max(last, known[4])
            self._gaps[(*of, first)] = (device_id, *of, first, last, now_ms)
            self._newest_gap[of] = first
        self._deferred()

    def set_boot(self, device_id: int, boot: int, offset_ms: int) -> None:
        """Tell the offset (unix ms minus uptime ms) of a boot, with the next commit.

        Dates the stored messages of that boot that have no date yet. A later call refines
        the offset for later messages only.
        """
        with self._deferring:
            self._offsets[(device_id, boot)] = offset_ms
        self._deferred()

    def defer_audit(self, row: AuditRow) -> bool:
        """Write (unix ms, actor, action, device, detail as JSON) with the next commit.

        False: MAX_AUDIT rows wait already, and this one was not taken.
        """
        if len(self._audit) >= MAX_AUDIT:
            return False
        self._audit.append(row)
        self._deferred()
        return True

    @property
    def audit_room(self) -> int:
        """How many rows ``defer_audit`` would take now."""
        return MAX_AUDIT - len(self._audit)

    @property
    def has_deferred(self) -> bool:
        """Something waits for the next commit."""
        return bool(self._gaps or self._offsets or self._audit)

    def _waiting(self) -> Deferred:
        with self._deferring:
            return Deferred(list(self._gaps.values()), self._audit[:], dict(self._offsets))

    def _settle(self, stored: Deferred) -> None:
        """What ``_waiting`` returned, or the begin of it, is on the disk."""
        del self._audit[: len(stored.audit)]
        with self._deferring:  # a gap that grew meanwhile, or a newer offset, stays
            for gap in stored.gaps:
                if self._gaps.get(gap[1:4]) == gap:
                    del self._gaps[gap[1:4]]
                    if self._newest_gap.get(gap[1:3]) == gap[3]:
                        del self._newest_gap[gap[1:3]]
            for boot, offset in stored.offsets.items():
                if self._offsets.get(boot) == offset:
                    del self._offsets[boot]

    def _deferred(self) -> None:
        if self.on_deferred is not None:
            self.on_deferred()
