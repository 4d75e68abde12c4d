"""Who may come in: `fleetnet device add --no-bundle, claim, renew` and `fleetnet token`."""

import asyncio
import time

from fastapi import APIRouter
from starlette.responses import Response

from fleetnet_server.errors import StoreError
from fleetnet_server.identity.bundle import claim_config
from fleetnet_server.web import access_models as models
from fleetnet_server.web.auth import Admin, Backend
from fleetnet_server.web.devices import shown_device, unknown
from fleetnet_server.web.models import Device, DeviceName, Page
from fleetnet_server.web.paging import Cursor, Limit, page, read_cursor, slice_by_name
from fleetnet_server.web.problems import Json, ProblemError, answered, documented

router = APIRouter(prefix="/api/v1", tags=["access"])

_DAY_MS = 86_400_000


@router.post("/devices", **answered(Device, 409, status=201))
async def add_device(running: Backend, holder: Admin, wanted: models.NewDevice) -> Json:
    """Register a device; it comes by a claim, or with a certificate of an imported CA.

    Bundles with a private key are made by `fleetnet device add` alone: no key crosses HTTP.
    """
    access = running.views.access
    try:
        await running.views.run(access.add_device, wanted.name, holder.actor)
    except StoreError as error:
        raise ProblemError(409, str(error)) from error
    return await shown_device(running, wanted.name, 201)


@router.post("/devices/{name}/claim", **answered(models.Claimed, 409, status=201))
async def claim(running: Backend, holder: Admin, name: DeviceName, wanted: models.NewClaim) -> Json:
    """Make a one-time token by which a device fetches its first certificate; shown this once.

    `config` is the device's config.json. A device that is new is registered. A claim that the
    device had before is replaced. 409: `enrol_port` is closed.
    """
    settings = running.settings
    if not settings.enrol_port:
        raise ProblemError(409, "enrolment is closed: set enrol_port, and start the server anew")
    expires_ms = time.time_ns() // 1_000_000 + int(wanted.days * _DAY_MS)
    token = await running.views.run(running.views.access.claim, name, expires_ms, holder.actor)
    config = await asyncio.to_thread(
        claim_config, running.folder, settings, name, wanted.transport, token
    )
    shown = {"device": name, "token": token, "expires_ms": expires_ms, "config": config}
    return Json(shown, 201)


@router.get("/claims", **answered(Page[models.Claim]))
async def list_claims(
    running: Backend, holder: Admin, limit: Limit = 100, cursor: Cursor = None
) -> Json:
    """List the claims that wait for their device, by its name."""
    position = read_cursor("claims", cursor, str)
    found = await running.views.run(running.views.access.claims)
    return page("claims", *slice_by_name(found, "device", position, limit))


@router.post("/devices/{name}/renew", **answered(models.Asked, 404))
async def renew(running: Backend, holder: Admin, name: DeviceName) -> Json:
    """Ask for a new key and certificate of a device, over its session or its next one."""
    device = await running.views.run(running.views.device, name)
    if device is None:
        raise unknown(name)
    await running.views.run(running.views.access.renew, device, holder.actor)
    return Json({"asked": [name]})


@router.get("/tokens", **answered(Page[models.Token]))
async def list_tokens(
    running: Backend, holder: Admin, limit: Limit = 100, cursor: Cursor = None
) -> Json:
    """List the tokens by name; never the tokens themselves."""
    position = read_cursor("tokens", cursor, str)
    found = await running.views.run(running.views.access.tokens)
    rows, after = slice_by_name(found, "name", position, limit)
    return page("tokens", [row | {"scopes": sorted(row["scopes"])} for row in rows], after)


@router.post("/tokens", **answered(models.MadeToken, 409, status=201))
async def add_token(running: Backend, holder: Admin, wanted: models.NewToken) -> Json:
    """Make a token and show it, this once."""
    expires_ms = None
    if wanted.expires_s is not None:
        expires_ms = time.time_ns() // 1_000_000 + round(1000 * wanted.expires_s)
    scopes: list[str] = sorted(set(wanted.scopes))
    try:
        token = await running.views.run(
            running.views.access.add_token, wanted.name, scopes, holder.actor, expires_ms
        )
    except StoreError as error:
        raise ProblemError(409, str(error)) from error
    shown = {"name": wanted.name, "token": token, "scopes": scopes, "expires_ms": expires_ms}
    return Json(shown, 201)


@router.delete(
    "/tokens/{name}", status_code=204, response_model=None, response_class=Response,
    responses=documented(404),
)  # fmt: skip
async def revoke_token(running: Backend, holder: Admin, name: models.TokenName) -> Response:
    """Refuse a token from now on, the one that asks included."""
    await running.views.run(running.views.access.revoke_token, name, holder.actor)
    return Response(status_code=204)
