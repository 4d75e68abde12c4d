"""Messages of the store as MQTT messages; docs/mqtt.md has the layouts."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from fleetnet.frame import READINGS
from fleetnet_server.bridge.ports import Row
from fleetnet_server.bridge.properties import JSON, Packed, pack
from fleetnet_server.bridge.settings import BATCH, Mqtt
from fleetnet_server.core.bodies import decode_event, decode_readings
from fleetnet_server.identity.policy import Names

# Why a message of the store becomes none of MQTT.
QUARANTINED, EXPIRED, TOO_OLD = "device in quarantine", "expired", "older than keep"
UNREADABLE = "unreadable"


class Publication(NamedTuple):
    """One MQTT message; ``sort`` is the key of Counters.sent, ``readings`` how many it has."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Packed
    sort: str
    readings: int = 0


class Made(NamedTuple):
    """What one message of the store became.

    Attributes:
        publications: in order; []: nothing. dropped: why, "": it was not wanted.
        latest: channel -> value as JSON.
    """

    publications: list[Publication]
    dropped: str = ""
    latest: Mapping[str, msgspec.Raw] = {}


_NOTHING = Made([])


class _Reading(msgspec.Struct):
    channel: str
    unix_ms: int | None
    value: msgspec.Raw


class _Single(msgspec.Struct):
    unix_ms: int | None
    value: msgspec.Raw


class _Batch(msgspec.Struct):
    device: str
    epoch: str
    stream: int
    seq: int
    received_ms: int
    readings: list[_Reading]


_encode = msgspec.json.encode


def _everything(patterns: Iterable[str]) -> Names | None:
    """Return None for patterns that all names fit."""
    return None if "*" in patterns else Names(patterns)


class Maker:
    """Makes MQTT messages of messages of the store; some 50 us for one with 20 readings.

    On the event loop: a thread that is as busy would take the interpreter's lock from it, for 5 ms
    at each of its system calls.
    """

    def __init__(self, settings: Mqtt, clock_ms: Callable[[], int]):
        self._settings = settings
        self._clock_ms = clock_ms
        wanted = settings.readings
        self._keep_ms = round(1000 * wanted.keep_s)
        self._devices = _everything(wanted.devices)
        self._groups = _everything(wanted.groups)
        self._channels = _everything(wanted.channels)
        self._keeps_latest = settings.state.out.is_on or settings.discovery.is_on

    def make(self, row: Row) -> Made:
        """Make what one message becomes."""
        now = self._clock_ms()
        if row.state == "quarantined":
            return Made([], QUARANTINED)
        if row.received < now - self._keep_ms:
            return Made([], TOO_OLD)
        return self._make(row, now) if self._wants(row) else _NOTHING

    def _wants(self, row: Row) -> bool:
        if self._devices is not None and row.device not in self._devices:
            return False
        return self._groups is None or row.group in self._groups

    def _make(self, row: Row, now: int) -> Made:
        settings = self._settings
        is_reading = row.kind == READINGS
        out = settings.readings.out if is_reading else settings.events
        readings = self._readings(row) if is_reading else []
        latest = {one.channel: one.value for one in readings} if self._keeps_latest else {}
        if not out.is_on or (is_reading and not readings):
            return Made([], latest=latest)
        expiry_s = None
        if out.expiry_s is not None:
            # What waited here counts, as a broker counts what waits there (3.3.2.3.3).
            expiry_s = out.expiry_s - (now - row.received) // 1000
            if expiry_s <= 0:
                return Made([], EXPIRED, latest)
        if not is_reading:
            return Made([self._event(row, expiry_s)])
        if settings.readings.mode == BATCH:
            return Made([self._batch(row, readings, expiry_s)], latest=latest)
        return Made(list(self._singles(row, readings, expiry_s)), latest=latest)

    def _readings(self, row: Row) -> list[_Reading]:
        base_ms, boot, channels, items = decode_readings(row.body)
        if boot and row.t0 is not None:
            # The offset that this message was dated with; see store/query.py.
            base_ms = row.t0 - min((item[1] for item in items), default=0)
        is_dated = row.t0 is not None
        found = [
            _Reading(channels[index], base_ms + dt_ms if is_dated else None, raw)
            for index, dt_ms, raw in items
        ]
        if self._channels is not None:
            found = [one for one in found if one.channel in self._channels]
        return found

    def _batch(self, row: Row, readings: list[_Reading], expiry_s: int | None) -> Publication:
        out = self._settings.readings.out
        return Publication(
            out.topic.fill(device=row.device, group=row.group),
            _encode(_Batch(row.device, row.epoch, row.stream, row.seq, row.received, readings)),
            out.qos, out.retain, pack(JSON, True, expiry_s, user=_key(row)),
            "readings", len(readings),
        )  # fmt: skip

    def _singles(
        self, row: Row, readings: list[_Reading], expiry_s: int | None
    ) -> Iterable[Publication]:
        wanted = self._settings.readings
        out, key = wanted.out, _key(row)
        for place, one in enumerate(readings):
            topic = out.topic.fill(device=row.device, group=row.group, channel=one.channel)
            if wanted.is_plain:
                payload = bytes(one.value)
                user = (*key, ("unix_ms", "" if one.unix_ms is None else str(one.unix_ms)))
            else:
                payload, user = _encode(_Single(one.unix_ms, one.value)), key
            properties = pack(JSON, True, expiry_s, user=(*user, ("place", str(place))))
            yield Publication(topic, payload, out.qos, out.retain, properties, "readings", 1)

    def _event(self, row: Row, expiry_s: int | None) -> Publication:
        out = self._settings.events
        _base_ms, _boot, name, raw = decode_event(row.body)
        value: Any = raw
        detail = {
            "kind": "alarm", "device": row.device, "name": name, "unix_ms": row.t0,
            "received_ms": row.received, "value": value,
        }  # fmt: skip
        properties = pack(JSON, True, expiry_s, user=_key(row))
        topic = out.topic.fill(device=row.device, kind="alarm")
        return Publication(topic, _encode(detail), out.qos, out.retain, properties, "events")


def _key(row: Row) -> tuple[tuple[str, str], ...]:
    """Name a message for good: who gets it twice can tell (docs/mqtt.md)."""
    return (
        ("device", row.device), ("epoch", row.epoch), ("stream", str(row.stream)),
        ("seq", str(row.seq)),
    )  # fmt: skip
