"""What metrics tell that is no counter: it is looked up now and then, on a thread."""

import os
import shutil
import time
from pathlib import Path

import structlog

from fleetnet.errors import FleetError
from fleetnet_server.identity import expiry
from fleetnet_server.web.ports import Running

_log = structlog.get_logger("fleetnet.web")

# What needs a look into store and files is looked up once in this time: two scrapes' worth.
_PERIOD_S = 30.0


class LookedUp:
    """The values of the last look.

    Attributes:
        devices: registered ones by state. certificates: of devices by urgency.
        ends: of the server's and the CAs' certificates; nearest: unix seconds by kind.
        bytes: sizes by file. free_bytes: room on the store's disk.
    """

    def __init__(self, running: Running):
        self._running = running
        self._until = 0.0
        self.devices: dict[str, int] = {}
        self.certificates: dict[str, int] = {}
        self.ends: list[expiry.Expiry] = []
        self.nearest: dict[str, float] = {}
        self.bytes: dict[str, int] = {}
        self.free_bytes = 0

    async def refresh(self) -> None:
        """Look again when it is time.

        What cannot be looked up keeps its last value: a store or a certificate in trouble must
        not take away the metrics that tell of it.
        """
        now = time.monotonic()
        if now < self._until:
            return
        self._until = now + _PERIOD_S
        for look in (self._look_at_files, self._look_at_store, self._look_at_certificates):
            try:
                await self._running.views.run(look)
            except (FleetError, OSError) as error:
                _log.warning("metrics keep an older value", reason=str(error))

    def _look_at_store(self) -> None:
        self.devices = self._running.views.device_states()

    def _look_at_certificates(self) -> None:
        running = self._running
        found = running.views.expiries()
        self.certificates = expiry.summary(one for one in found if one.kind == expiry.DEVICE)
        self.ends = [one for one in found if one.kind != expiry.DEVICE]
        nearest: dict[str, float] = {}
        for one in found:
            at_s = one.not_after_ms / 1000
            nearest[one.kind] = min(at_s, nearest.get(one.kind, at_s))
        self.nearest = nearest

    def _look_at_files(self) -> None:
        running = self._running
        path = running.settings.store_place(running.folder)
        where = running.folder  # of the blobs; a database of PostgreSQL is watched by its own tools
        if isinstance(path, Path):
            self.bytes = {"main": _size(path), "wal": _size(path.with_name(path.name + "-wal"))}
            where = path.parent
        self.free_bytes = shutil.disk_usage(where).free


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
