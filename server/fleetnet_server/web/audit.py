"""The audit log: `fleetnet audit`."""

from fastapi import APIRouter

from fleetnet_server.web import models
from fleetnet_server.web.auth import Admin, Backend
from fleetnet_server.web.paging import Cursor, Limit, page, read_cursor
from fleetnet_server.web.problems import Json, answered

router = APIRouter(prefix="/api/v1", tags=["audit"])


@router.get("/audit", **answered(models.Page[models.AuditEntry]))
async def audit(
    running: Backend, holder: Admin,
    device: models.DeviceFilter = None, action: models.TextFilter = None,
    limit: Limit = 100, cursor: Cursor = None,
) -> Json:  # fmt: skip
    """Who decided what about which device, the newest first."""
    position = read_cursor("audit", cursor, int)
    rows, position_after = await running.views.run(
        running.views.audit, device, action, position[0] if position else None, limit
    )
    return page("audit", rows, position_after)
