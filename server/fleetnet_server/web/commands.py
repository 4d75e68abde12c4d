"""Commands: `fleetnet call`, `fleetnet commands`."""

import time

from fastapi import APIRouter

from fleetnet_server.errors import CommandError
from fleetnet_server.web import models
from fleetnet_server.web.auth import Backend, Commander, Reader
from fleetnet_server.web.devices import unknown
from fleetnet_server.web.paging import Cursor, Limit, page, read_cursor
from fleetnet_server.web.problems import Json, ProblemError, answered

router = APIRouter(prefix="/api/v1", tags=["commands"])

# A command that is kept for nobody who waits still has to reach its device.
_LEAST_S = 1.0


@router.post("/devices/{name}/call", **answered(models.Command, 404, 409))
async def call(
    running: Backend, holder: Commander, name: models.DeviceName, wanted: models.Call
) -> Json:
    """Run a command on a device; the answer says how it stands after `wait_s`.

    409: the device is away, or takes no commands, and `expires_s` is not given.
    """
    device = await running.views.run(running.views.device, name)
    if device is None:
        raise unknown(name)
    if wanted.expires_s is None and not await running.commands.is_ready(device.id):
        raise ProblemError(
            409,
            f"device {name!r} is not connected, or its program has no commands: "
            "`expires_s` lets the command wait",
        )
    expires_s = wanted.expires_s or max(wanted.wait_s, _LEAST_S)
    began = time.monotonic()
    try:
        command_id = await running.commands.queue(
            name, wanted.name, wanted.args, expires_s, holder.actor
        )
    except (ValueError, RecursionError, OverflowError) as error:
        raise ProblemError(422, f"no command can carry this: {error}") from error
    left_s = wanted.wait_s - (time.monotonic() - began)
    if left_s > 0:
        try:
            await running.commands.wait(command_id, left_s)
        except CommandError:
            pass  # the server stops; what is known is said
    return await _shown(running, command_id)


@router.get("/commands", **answered(models.Page[models.Command]))
async def list_commands(
    running: Backend, holder: Reader,
    device: models.DeviceFilter = None, limit: Limit = 100, cursor: Cursor = None,
) -> Json:  # fmt: skip
    """List commands, the newest first."""
    position = read_cursor("commands", cursor, int)
    rows, position_after = await running.views.run(
        running.views.commands, device, position[0] if position else None, limit
    )
    return page("commands", rows, position_after)


@router.get("/commands/{command_id}", **answered(models.Command, 404))
async def show_command(running: Backend, holder: Reader, command_id: str) -> Json:
    """Show one command, and how it stands."""
    return await _shown(running, command_id)


async def _shown(running: Backend, command_id: str) -> Json:
    found = await running.views.run(running.views.command, command_id)
    if found is None:
        raise ProblemError(404, "no command has this id")
    return Json(found)
