"""Configurations of devices: `fleetnet config get, set`."""

from fastapi import APIRouter

from fleetnet_server.web import models
from fleetnet_server.web.auth import Backend, Configurer, Reader
from fleetnet_server.web.devices import unknown
from fleetnet_server.web.problems import Json, ProblemError, answered

router = APIRouter(prefix="/api/v1/devices/{name}/config", tags=["config"])


@router.get("", **answered(models.Config, 404))
async def get_config(running: Backend, holder: Reader, name: models.DeviceName) -> Json:
    """Return the document of a device, and what the device says of it."""
    # Two seeks: the service reads on the event loop, as it does for every HELLO.
    found = running.configs.get(name)
    if found is None:
        raise ProblemError(404, f"device {name!r} has no configuration: PUT gives one")
    shown = found._asdict()
    del shown["device_id"], shown["edit"]
    return Json(shown)


@router.put("", **answered(models.ConfigVersion, 404))
async def set_config(
    running: Backend, holder: Configurer, name: models.DeviceName, wanted: models.ConfigDocument
) -> Json:
    """Give a device a configuration, now or when it comes."""
    if await running.views.run(running.views.device, name) is None:
        raise unknown(name)
    try:
        version = await running.configs.set(name, wanted.document)
    except (ValueError, RecursionError, OverflowError) as error:
        raise ProblemError(422, f"no configuration can carry this: {error}") from error
    running.audit.note(holder.actor, "config-set", name, {"version": version})
    return Json({"device": name, "version": version})
