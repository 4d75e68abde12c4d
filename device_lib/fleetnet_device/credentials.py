"""A device's bundle: config.json and three DER files in one folder.

    config.json  {"name", "host", "tls_port", "dtls_port", "server_hostname", "transport"}
    cert.der, key.der, ca.der

`fleetnet device add` makes it.
"""

import json

from fleetnet.errors import CredentialError
from fleetnet.ports import port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleetnet.ports.cpython import Context

_KEYS = ("name", "host", "tls_port", "dtls_port", "transport")


class Credentials:
    """What a device needs to reach its server. The context is made once and reused.

    Raises:
        CredentialError: a file is missing or unusable, with the remedy.
    """

    def __init__(self, folder: str):
        self.folder = folder.rstrip("/")
        config = self._read_config()
        self.name: str = config["name"]
        self.host: str = config["host"]
        self.transport: str = config["transport"]
        if self.transport not in ("tls", "dtls"):
            raise CredentialError(
                "%s/config.json: transport is %r, not tls or dtls" % (self.folder, self.transport)
            )
        self.port: int = config[self.transport + "_port"]
        self.server_hostname: str = config.get("server_hostname") or self.host
        self._context: "Context | None" = None

    def _read_config(self) -> "dict[str, Any]":
        path = self.folder + "/config.json"
        try:
            with open(path) as file:
                config: "dict[str, Any]" = json.load(file)
        except OSError:
            raise CredentialError(
                "no %s: copy the folder that `fleetnet device add` made to this device" % path
            )
        except ValueError:
            raise CredentialError("%s is not JSON: copy it again" % path)
        for key in _KEYS:
            if key not in config:
                raise CredentialError("%s lacks %r" % (path, key))
        return config

    def context(self) -> "Context":
        """Return the client context for this bundle."""
        if self._context is None:
            self._context = port.client_context(
                self.folder + "/ca.der",
                self.folder + "/cert.der",
                self.folder + "/key.der",
                datagram=self.transport == "dtls",
            )
        return self._context
