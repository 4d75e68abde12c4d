"""Devices: `fleetnet device list, show, set, enable, disable, revoke, remove`."""

import asyncio
import shutil
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from fleetnet_server.errors import StoreError
from fleetnet_server.identity.policy import PolicyFile
from fleetnet_server.identity.registry import DEFAULT_GROUP
from fleetnet_server.web import models
from fleetnet_server.web.auth import Admin, Backend, Reader
from fleetnet_server.web.paging import Cursor, Limit, page, read_cursor
from fleetnet_server.web.ports import Row, Running
from fleetnet_server.web.problems import Json, ProblemError, answered

router = APIRouter(prefix="/api/v1/devices", tags=["devices"])

_REASONS = Literal[
    "unspecified", "key-compromise", "superseded", "cessation", "affiliation", "privilege"
]


def unknown(name: str) -> ProblemError:
    """Return a 404 for a device that is not registered."""
    return ProblemError(404, f"device {name!r} is not registered")


@router.get("", **answered(models.Page[models.Device]))
async def list_devices(
    running: Backend, holder: Reader,
    limit: Limit = 100, cursor: Cursor = None,
    group: models.TextFilter = None,
    state: Literal["enabled", "disabled", "quarantined"] | None = None,
    online: bool | None = None,
    label: Annotated[
        list[str], Query(max_length=16, description="KEY=VALUE, all of them")
    ] = [],  # noqa: B006 - FastAPI copies it
) -> Json:  # fmt: skip
    """List the registered devices by name."""
    position = read_cursor("devices", cursor, str)
    labels = []
    for text in label:
        key, is_there, value = text.partition("=")
        if not is_there:
            raise ProblemError(422, "label: write KEY=VALUE")
        labels.append((key, value))
    is_wanted = None
    if online is not None:
        presence = running.presence

        def is_wanted(name: str) -> bool:
            return presence.is_online(name) is online

    rows, position_after = await running.views.run(
        running.views.devices, position[0] if position else "", limit,
        group=group, state=state, labels=labels, is_wanted=is_wanted,
    )  # fmt: skip
    return page("devices", [_with_connection(running, row) for row in rows], position_after)


@router.get("/{name}", **answered(models.Device, 404))
async def show_device(running: Backend, holder: Reader, name: models.DeviceName) -> Json:
    """Show one device."""
    return await shown_device(running, name)


@router.patch("/{name}", **answered(models.Device, 404))
async def set_device(
    running: Backend, holder: Admin, name: models.DeviceName, change: models.DeviceChange
) -> Json:
    """Change a device's group and labels."""
    if change.group is not None:
        _check_known(running.policy, change.group)
    await _must_exist(running, name)
    try:
        await running.views.run(
            running.views.registry.change, name, holder.actor, change.group, change.labels,
            tuple(change.without),
        )  # fmt: skip
    except StoreError as error:
        raise ProblemError(422, str(error)) from error
    return await shown_device(running, name)


@router.post("/{name}/enable", **answered(models.Device, 404))
async def enable(running: Backend, holder: Admin, name: models.DeviceName) -> Json:
    """Accept a device, again or out of quarantine."""
    await running.views.run(running.views.registry.set_enabled, name, True, holder.actor)
    return await shown_device(running, name)


@router.post("/{name}/disable", **answered(models.Device, 404))
async def disable(running: Backend, holder: Admin, name: models.DeviceName) -> Json:
    """Refuse a device until it is enabled; its session ends."""
    await running.views.run(running.views.registry.set_enabled, name, False, holder.actor)
    return await shown_device(running, name)


@router.post("/{name}/revoke", **answered(models.Revoked, 404))
async def revoke(
    running: Backend, holder: Admin, name: models.DeviceName, reason: _REASONS = "unspecified"
) -> Json:
    """Refuse all certificates and keys of a device for ever; its session ends."""
    found = await running.views.run(running.views.registry.revoke, name, reason, holder.actor)
    running.revoked()
    return Json({"name": name, "revoked": found})


@router.delete("/{name}", **answered(models.Revoked, 404))
async def remove(running: Backend, holder: Admin, name: models.DeviceName) -> Json:
    """Forget a device: certificates and keys are revoked, its bundle is deleted."""
    await running.views.run(running.views.registry.remove, name, holder.actor)
    running.revoked()
    # Its private key is of no use any more, and should not lie about.
    bundle = running.folder / "devices" / name
    await asyncio.to_thread(shutil.rmtree, bundle, ignore_errors=True)
    return Json({"name": name, "revoked": []})


async def shown_device(running: Running, name: str, status: int = 200) -> Json:
    """Answer with one device. Raises ProblemError 404: it is not registered."""
    row = await running.views.run(running.views.device_row, name)
    if row is None:
        raise unknown(name)
    return Json(_with_connection(running, row), status)


async def _must_exist(running: Running, name: str) -> None:
    if await running.views.run(running.views.device, name) is None:
        raise unknown(name)


def _with_connection(running: Running, row: Row) -> Row:
    return row | {"connection": running.presence.of(row["name"])._asdict()}


def _check_known(policy: PolicyFile, group: str) -> None:
    """A misspelt group would follow other rules than whoever typed it believes."""
    groups = policy.policy.groups
    if groups and group != DEFAULT_GROUP and group not in groups:
        raise ProblemError(422, f"policy.toml has no [group.{group}]: it has {sorted(groups)}")
