"""Readings: `fleetnet query`, a page at a time, and the newest live ones."""

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from fleetnet_server.identity.names import MAX_NAME
from fleetnet_server.web import models
from fleetnet_server.web.auth import Backend, Reader
from fleetnet_server.web.devices import unknown
from fleetnet_server.web.paging import Cursor, Limit, page, read_cursor
from fleetnet_server.web.problems import Json, answered

router = APIRouter(prefix="/api/v1", tags=["readings"])

_STEPS_MS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}


@router.get("/readings", **answered(models.Page[models.Reading], 404))
async def query(
    running: Backend, holder: Reader,
    device: models.DeviceFilter = None, channel: models.TextFilter = None,
    start: models.Milliseconds = None, end: models.Milliseconds = None,
    limit: Limit = 1000, cursor: Cursor = None,
) -> Json:  # fmt: skip
    """Stored readings in order of time; `start` is included, `end` is not.

    Readings that have no date yet are left out. A page may be short, or empty, while `next` is
    not null: a search ends after a second and goes on with the next page.
    """
    position = read_cursor("readings", cursor, int, int)
    if device is not None and await running.views.run(running.views.device, device) is None:
        raise unknown(device)
    rows, position_after = await running.views.run(
        running.views.readings, device, channel, start or 0,
        models.MOST_MS if end is None else end, limit,
        None if position is None else (position[0], position[1]),
    )  # fmt: skip
    return page("readings", rows, position_after)


@router.get("/summaries", **answered(models.Page[models.Summary], 404))
async def summaries(
    running: Backend, holder: Reader,
    device: Annotated[str, Query(pattern=models.NAME, max_length=MAX_NAME)],
    channel: Annotated[str, Query(min_length=1, max_length=64)],
    start: Annotated[int, Query(ge=0, le=models.MOST_MS, description="unix ms")],
    end: models.Milliseconds = None,
    step: Literal["minute", "hour", "day"] = "hour",
    limit: Limit = 1000, cursor: Cursor = None,
) -> Json:  # fmt: skip
    """Lowest, mean and highest number of a channel, in order of time; `end`: default is now.

    What retention summed up already is among them. Steps without numbers are left out. `limit`
    counts steps of time: a page may be short, or empty, while `next` is not null.
    """
    position = read_cursor("summaries", cursor, int)
    if await running.views.run(running.views.device, device) is None:
        raise unknown(device)
    end_ms = time.time_ns() // 1_000_000 if end is None else end
    rows, position_after = await running.views.run(
        running.views.summaries, device, channel, position[0] if position else start,
        end_ms, _STEPS_MS[step], limit,
    )  # fmt: skip
    return page("summaries", rows, position_after)


@router.get("/devices/{name}/live", **answered(models.Live, 404))
async def live(running: Backend, holder: Reader, name: models.DeviceName) -> Json:
    """The newest best-effort reading of each channel of a device that is online."""
    if await running.views.run(running.views.device, name) is None:
        raise unknown(name)
    found = running.live.latest(name)
    readings = [
        {"channel": one.channel, "unix_ms": one.unix_ms, "value": one.value}
        for one in found.values()
    ]
    return Json({"device": name, "readings": readings})
