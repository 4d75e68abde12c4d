"""Identities and their ends: `fleetnet device show`, `fleetnet cert list`."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from fleetnet_server.identity import expiry
from fleetnet_server.web import models
from fleetnet_server.web.auth import Backend, Reader
from fleetnet_server.web.devices import unknown
from fleetnet_server.web.paging import Cursor, Limit, page, read_cursor
from fleetnet_server.web.problems import Json, answered

router = APIRouter(prefix="/api/v1", tags=["identities"])


@router.get("/devices/{name}/identities", **answered(models.Identities, 404))
async def identities(running: Backend, holder: Reader, name: models.DeviceName) -> Json:
    """Return certificates and identities of a device, the newest first."""
    device = await running.views.run(running.views.device, name)
    if device is None:
        raise unknown(name)
    return Json(
        {
            "certificates": await running.views.run(running.views.certificates, device.id),
            "identities": await running.views.run(running.views.identities, device.id),
        }
    )


@router.get("/certificates", **answered(models.Page[models.Expiry]))
async def list_certificates(
    running: Backend, holder: Reader,
    level: Annotated[Literal["ok", "soon", "urgent", "expired"] | None, Query()] = None,
    limit: Limit = 100, cursor: Cursor = None,
) -> Json:  # fmt: skip
    """Return when each certificate ends, the nearest first; `level`: only these."""
    position = read_cursor("certificates", cursor, int)
    first = position[0] if position else 0
    found: list[expiry.Expiry] = await running.views.run(running.views.expiries)
    wanted = [one for one in found if level in (None, one.level)]
    rows = [one._asdict() for one in wanted[first : first + limit]]
    more = first + limit < len(wanted)
    return page("certificates", rows, [first + limit] if more else None)
