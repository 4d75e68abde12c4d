"""What app.Backend opens for those who have the extras "web" and "mqtt": HTTP, and the bridge.

Their packages are only loaded for who asks for them.
"""

from functools import partial
from typing import TYPE_CHECKING

from fleetnet_server.served import port_error
from fleetnet_server.store.outbox import open_outbox

if TYPE_CHECKING:
    from fleetnet_server.app import Backend
    from fleetnet_server.bridge.mqtt import Bridge
    from fleetnet_server.web.serving import WebServer


async def open_web(backend: "Backend") -> "WebServer | None":
    """Open the port of the HTTP API; None: the settings name none. Raises ConfigError."""
    bind, number = backend.settings.web_bind, backend.settings.web_port
    if not number:
        return None
    from fleetnet_server.web.serving import WebServer

    web = WebServer(backend)
    try:
        await web.start(bind, number)
    except OSError as error:
        raise port_error(bind, "web_port", number, error) from error
    return web


async def start_bridge(backend: "Backend") -> "Bridge | None":
    """Start the bridge to MQTT; None: there is no mqtt.toml, or its node starts it when it leads.

    Raises:
        ConfigError, StoreUnavailable: as make_bridge.
    """
    if not (backend.folder / "mqtt.toml").exists():
        return None
    from fleetnet_server.bridge.mqtt import make_bridge

    make = partial(make_bridge, backend, partial(open_outbox, backend.store))
    if backend.node is None:
        return await make()
    backend.node.lead_bridge(backend, make)
    return None
