"""What a page about a device shows of its past: curves, log, and what it reported as events."""

import time

from fastapi import APIRouter, Query

from fleetnet_server.web import models
from fleetnet_server.web.auth import Backend, Reader
from fleetnet_server.web.devices import unknown
from fleetnet_server.web.paging import Cursor, Limit, page, read_cursor
from fleetnet_server.web.ports import Running
from fleetnet_server.web.problems import Json, ProblemError, answered

router = APIRouter(prefix="/api/v1", tags=["readings"])

_HOUR_MS = 3_600_000


@router.get("/devices/{name}/curves", **answered(models.Curves, 404))
async def curves(
    running: Backend, holder: Reader, name: models.DeviceName,
    start: models.Milliseconds = None, end: models.Milliseconds = None,
    # More than a screen has columns.
    points: int = Query(300, ge=1, le=2000, description="of each channel, at most"),
) -> Json:  # fmt: skip
    """Numbers of all channels of a device, summed up by time; default: the last hour."""
    await _must_exist(running, name)
    end_ms = time.time_ns() // 1_000_000 if end is None else end
    start_ms = max(0, end_ms - _HOUR_MS) if start is None else start
    if start_ms >= end_ms:
        raise ProblemError(422, "start has to be before end")
    found = await running.views.run(running.views.history.curves, name, start_ms, end_ms, points)
    return Json(found)


@router.get("/devices/{name}/log", **answered(models.Page[models.LogLine], 404))
async def log(
    running: Backend, holder: Reader, name: models.DeviceName,
    limit: Limit = 100, cursor: Cursor = None,
) -> Json:  # fmt: skip
    """Lines of a device's log, the newest first; a message's lines are not divided."""
    await _must_exist(running, name)
    position = read_cursor("log", cursor, int, int)
    rows, position_after = await running.views.run(
        running.views.history.log, name, list(position) if position else None, limit
    )
    return page("log", rows, position_after)


@router.get("/alarms", **answered(models.Page[models.Alarm], 404))
async def alarms(
    running: Backend, holder: Reader,
    device: models.DeviceFilter = None, limit: Limit = 100, cursor: Cursor = None,
) -> Json:  # fmt: skip
    """What devices reported as events, the newest first.

    A page may be short, or empty, while `next` is not null, as of readings.
    """
    if device is not None:
        await _must_exist(running, device)
    position = read_cursor("alarms", cursor, int, int)
    rows, position_after = await running.views.run(
        running.views.history.alarms, device, list(position) if position else None, limit
    )
    return page("alarms", rows, position_after)


async def _must_exist(running: Running, name: str) -> None:
    if await running.views.run(running.views.device, name) is None:
        raise unknown(name)
