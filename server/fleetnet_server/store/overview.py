"""All devices of a store at once, for whoever sorts them: two statements, however many they are."""

import json
import time
from typing import Any, NamedTuple

from fleetnet_server.identity import expiry
from fleetnet_server.store.expiry import Readable, device_certificates
from fleetnet_server.store.registry import DeviceTable

_DEVICES = (
    "SELECT id, name, state, grp, labels, created_ms FROM devices WHERE state != 'removed'"
    " ORDER BY name"
)

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
    """Reads a store; call it on a thread. Raises StoreUnavailable."""

    def __init__(self, store: Readable, registry: DeviceTable):
        self._store = store
        self._registry = registry
        self._last_ms: dict[int, int | None] = {}
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

        It is read once: 10,000 seeks take half a second, and what is not here sends nothing.
        """
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
