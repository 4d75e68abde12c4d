"""All devices of a store at once, for whoever sorts them: two statements, however many they are."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fleetnet_server.identity import expiry
from fleetnet_server.store.expiry import device_certificates
from fleetnet_server.store.ports import Readable
from fleetnet_server.store.registry import DeviceTable

_DEVICES = (
    "SELECT id, name, state, grp, labels, created_ms FROM devices WHERE state != 'removed'"
    " ORDER BY name"
)

# When the newest message of each device came, unix ms.
ReadLast = Callable[[], Mapping[int, int | None]]

# One statement over all streams: 20 ms for 10,000 devices.
_LAST_S = 10.0

# 10,000 devices take some 100 ms of one core; several pages that refresh share an answer.
_KEPT_S = 1.0


class Listed(NamedTuple):
    """A device; ``expires_ms`` and ``level`` are of the certificate that it uses, None and "":
    it has none. Times are unix ms."""

    id: int
    name: str
    state: str
    group: str
    labels: dict[str, str]
    created_ms: int
    expires_ms: int | None
    level: str


class Overview:
    """Reads a store; call it on a thread. Raises StoreUnavailable.

    Args:
        read_last: reads it of all devices at once; None: of each when it is asked for.
    """

    def __init__(
        self, store: Readable, registry: DeviceTable, read_last: ReadLast | None = None
    ):
        self._store = store
        self._registry = registry
        self._read_last = read_last
        self._last_ms: dict[int, int | None] = {}
        self._last_read = -1e9
        self._kept: tuple[float, list[Listed]] = (-1e9, [])

    def devices(self) -> list[Listed]:
        """Return all registered devices by name, as they were a second ago at most."""
        at, found = self._kept
        if time.monotonic() - at < _KEPT_S:
            return found
        found = self._read()
        self._kept = (time.monotonic(), found)
        return found

    def last_ms(self, device_id: int) -> int | None:
        """Return when a device's newest message came that has had no session since the start.

        It is read once: 10,000 seeks take half a second, and what is not here sends nothing. Where
        other nodes have sessions it is read again after a while, of all devices at once.
        """
        if self._read_last is not None:
            if time.monotonic() - self._last_read > _LAST_S:
                self._last_ms = dict(self._read_last())
                self._last_read = time.monotonic()
            return self._last_ms.get(device_id)
        if device_id not in self._last_ms:
            self._last_ms[device_id] = self._registry.last_message_ms(device_id)
        return self._last_ms[device_id]

    def _read(self) -> list[Listed]:
        now_ms = time.time_ns() // 1_000_000
        dated = {one.name: one for one in device_certificates(self._store)}
        return [
            Listed(number, name, state, group, json.loads(labels), created_ms, *ends)
            for number, name, state, group, labels, created_ms in self._store.read(_DEVICES)
            for ends in (_ends(dated.get(name), now_ms),)
        ]


def _ends(dated: expiry.Dated | None, now_ms: int) -> tuple[Any, str]:
    if dated is None:
        return None, ""
    level = expiry.level(expiry.DEVICE, dated.not_before_ms, dated.not_after_ms, now_ms)
    return dated.not_after_ms, level
