"""Files and frames of devices: `fleetnet blob list, get`, and the newest image of a camera."""

import asyncio
from pathlib import Path as FilePath
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Path
from starlette.responses import FileResponse, Response

from fleetnet_server.web import models
from fleetnet_server.web.auth import Backend, Reader
from fleetnet_server.web.devices import unknown
from fleetnet_server.web.paging import Cursor, Limit, page, read_cursor
from fleetnet_server.web.ports import Row
from fleetnet_server.web.problems import Json, ProblemError, answered, documented

router = APIRouter(prefix="/api/v1", tags=["blobs"])

# IANA CoAP content formats (RFC 7252 section 12.3 and its registry). What a browser would run
# (HTML, SVG) is not among them, whatever the device says.
_MEDIA_TYPES = {
    0: "text/plain; charset=utf-8", 22: "image/jpeg", 23: "image/png", 50: "application/json",
    60: "application/cbor",
}  # fmt: skip
_BYTES = "application/octet-stream"

BlobId = Annotated[int, Path(ge=1, le=(1 << 63) - 1)]

_content = {
    "response_model": None,
    "response_class": Response,
    "responses": {
        200: {"content": {"*/*": {}}, "description": "The content"},
        206: {"content": {"*/*": {}}, "description": "A part of it"},
        416: {"description": "No such part"},
        **documented(404),
    },
}


@router.get("/blobs", **answered(models.Page[models.Blob]))
async def list_blobs(
    running: Backend, holder: Reader,
    device: models.DeviceFilter = None, name: models.TextFilter = None,
    limit: Limit = 100, cursor: Cursor = None,
) -> Json:  # fmt: skip
    """List blobs, the newest first."""
    position = read_cursor("blobs", cursor, int)
    rows, position_after = await running.views.run(
        running.views.blobs, device, name, position[0] if position else None, limit
    )
    return page("blobs", rows, position_after)


@router.get("/blobs/{blob_id}", **answered(models.Blob, 404))
async def show_blob(running: Backend, holder: Reader, blob_id: BlobId) -> Json:
    """Show one blob."""
    found = await running.views.run(running.views.blob, blob_id)
    if found is None:
        raise ProblemError(404, f"no blob {blob_id}")
    return Json(found[0])


@router.get("/blobs/{blob_id}/content", **_content)  # type: ignore[arg-type]
async def get_content(running: Backend, holder: Reader, blob_id: BlobId) -> Response:
    """Return the content of a blob, to be saved as a file."""
    found = await running.views.run(running.views.blob, blob_id)
    if found is None:
        raise ProblemError(404, f"no blob {blob_id}")
    return await _file(*found, "attachment")


@router.get("/devices/{name}/frame", **_content)  # type: ignore[arg-type]
async def latest_frame(running: Backend, holder: Reader, name: models.DeviceName) -> Response:
    """Return the newest image (JPEG or PNG) of a device."""
    device = await running.views.run(running.views.device, name)
    if device is None:
        raise unknown(name)
    found = await running.views.run(running.views.latest_frame, device.id)
    if found is None:
        raise ProblemError(404, f"device {name!r} has sent no image")
    return await _file(*found, "inline")


async def _file(row: Row, path: FilePath, disposition: str) -> Response:
    try:
        # Given on: a quota may remove it before the answer would look again.
        found = await asyncio.to_thread(path.stat)
    except OSError:
        raise ProblemError(404, f"the content of blob {row['id']} is missing") from None
    media_type = _MEDIA_TYPES.get(row["content_format"], _BYTES)
    # The device chose the name: percent-encoded, nothing of it can end the header (RFC 6266).
    name = quote(row["name"].encode(errors="replace"), safe="")
    headers = {
        "Content-Disposition": f"{disposition}; filename*=UTF-8''{name}",
        "X-Blob-Id": str(row["id"]),
        "X-Blob-Time-Ms": str(row["time_ms"] or ""),
        "ETag": f'"{row["sha256"]}"',
    }
    return FileResponse(path, media_type=media_type, headers=headers, stat_result=found)
