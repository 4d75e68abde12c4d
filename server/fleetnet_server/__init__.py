"""The back-end. ``from fleetnet_server import Fleet`` is its Python API (docs/python-api.md)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleetnet_server.core.live import LiveReading as LiveReading
    from fleetnet_server.fleet import Fleet as Fleet
    from fleetnet_server.fleet_device import FleetDevice as FleetDevice
    from fleetnet_server.fleet_device import Frame as Frame
    from fleetnet_server.store.query import Reading as Reading

__all__ = ["Fleet", "FleetDevice", "Frame", "LiveReading", "Reading"]

_PLACES = {
    "Fleet": "fleetnet_server.fleet",
    "FleetDevice": "fleetnet_server.fleet_device",
    "Frame": "fleetnet_server.fleet_device",
    "LiveReading": "fleetnet_server.core.live",
    "Reading": "fleetnet_server.store.query",
}


def __getattr__(name: str) -> Any:
    # Made when it is asked for: `fleetnet --help` needs none of what it needs.
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
