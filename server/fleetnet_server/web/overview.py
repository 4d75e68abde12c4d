"""All devices at a glance: filtered, sorted and counted here, so that a page shows one screen."""

import time
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Query

from fleetnet_server.core.presence import OFFLINE, DevicePresence
from fleetnet_server.web import models
from fleetnet_server.web.auth import Backend, Reader
from fleetnet_server.web.ports import Listed, Row, Running
from fleetnet_server.web.problems import Json, answered

router = APIRouter(prefix="/api/v1", tags=["devices"])

Show = Literal["all", "online", "offline", "disabled", "quarantined", "expiring"]
Sort = Literal["name", "status", "last_seen", "link", "expires", "lag", "lost"]

# A screen of rows; who wants all takes /devices.
_MOST_ROWS = 200

# What deserves a look comes first.
_RANK = {"quarantined": 0, "offline": 1, "disabled": 2, "online": 3}


class _Wanted(NamedTuple):
    text: str
    show: Show
    sort: Sort
    descending: bool
    offset: int
    limit: int


class _Entry(NamedTuple):
    device: Listed
    connection: DevicePresence
    status: str

    @property
    def is_expiring(self) -> bool:
        return self.device.level not in ("", "ok")


@router.get("/overview", **answered(models.Overview))
async def overview(
    running: Backend, holder: Reader,
    text: Annotated[str, Query(max_length=100, description="in name, group or KEY=VALUE")] = "",
    show: Show = "all", sort: Sort = "name", descending: bool = False,
    offset: Annotated[int, Query(ge=0, le=1 << 31)] = 0,
    limit: Annotated[int, Query(ge=1, le=_MOST_ROWS)] = 50,
) -> Json:  # fmt: skip
    """A part of the devices, sorted by what they are or do now, and how many there are."""
    wanted = _Wanted(text.casefold(), show, sort, descending, offset, limit)
    return Json(await running.views.run(_overview, running, wanted))


def _overview(running: Running, wanted: _Wanted) -> Row:
    entries = [_entry(running, device) for device in running.views.overview.devices()]
    chosen = [one for one in entries if _is_shown(one, wanted)]
    keyed = [(_key(running, one, wanted.sort), one) for one in chosen]
    known = [pair for pair in keyed if pair[0] is not None]
    # What has no such value comes last, whatever the order; equal ones stay in order of name.
    known.sort(key=lambda pair: pair[0], reverse=wanted.descending)
    ordered = [one for _, one in known] + [one for key, one in keyed if key is None]
    shown = ordered[wanted.offset : wanted.offset + wanted.limit]
    return {
        "at_ms": time.time_ns() // 1_000_000,
        "counts": _counts(entries),
        "total": len(ordered),
        "offset": wanted.offset,
        "items": [_row(running, one) for one in shown],
    }


def _entry(running: Running, device: Listed) -> _Entry:
    connection = running.presence.of(device.name)
    status = device.state if device.state != "enabled" else connection.state
    return _Entry(device, connection, status)


def _is_shown(one: _Entry, wanted: _Wanted) -> bool:
    if wanted.show == "expiring":
        if not one.is_expiring:
            return False
    elif wanted.show not in ("all", one.status):
        return False
    text, device = wanted.text, one.device
    return (
        not text
        or text in device.name
        or text in device.group.casefold()
        or any(text in f"{key}={value}".casefold() for key, value in device.labels.items())
    )


def _key(running: Running, one: _Entry, sort: Sort) -> Any:
    """Return what is compared; None: the device has no such thing."""
    if sort == "status":
        return _RANK.get(one.status, len(_RANK))
    if sort == "last_seen":
        return _last_seen_ms(running, one)
    if sort == "link":
        return one.connection.link or None
    if sort == "expires":
        return one.device.expires_ms
    if sort == "lag":
        return one.connection.lag_ms
    if sort == "lost":
        return one.connection.lost
    return one.device.name


def _last_seen_ms(running: Running, one: _Entry) -> int | None:
    seen_ms = one.connection.last_seen_ms
    return running.views.overview.last_ms(one.device.id) if seen_ms is None else seen_ms


def _counts(entries: list[_Entry]) -> dict[str, int]:
    counts = dict.fromkeys(("online", OFFLINE, "disabled", "quarantined"), 0)
    for one in entries:
        counts[one.status] = counts.get(one.status, 0) + 1
    return {"all": len(entries), "expiring": sum(one.is_expiring for one in entries), **counts}


def _row(running: Running, one: _Entry) -> Row:
    device = one.device
    return {
        "id": device.id, "name": device.name, "state": device.state, "group": device.group,
        "labels": device.labels, "created_ms": device.created_ms,
        "expires_ms": device.expires_ms,
        "last_message_ms": running.views.registry.last_message_ms(device.id),
        "credential": running.views.registry.credential(device.id),
        "connection": one.connection._asdict(), "status": one.status,
        "expires_level": device.level, "last_seen_ms": _last_seen_ms(running, one),
    }  # fmt: skip
