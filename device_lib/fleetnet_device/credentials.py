"""A device's bundle: config.json and three DER files in one folder.

    config.json  {"name", "host", "tls_port", "dtls_port", "server_hostname", "transport"}
    cert.der, key.der, ca.der

`fleetnet device add` makes it.
"""

import json

from fleetnet.errors import CredentialError
from fleetnet.streams import client_context

_KEYS = ("name", "host", "tls_port", "dtls_port", "transport")


class Credentials:
    """What a device needs to reach its server. The context is made once and reused.

    Raises:
        CredentialError: a file is missing or unusable, with the remedy.
    """

    def __init__(self, folder):
        self.folder = folder.rstrip("/")
        config = self._read_config()
        self.name = config["name"]
        self.host = config["host"]
        self.transport = config["transport"]
        if self.transport not in ("tls", "dtls"):
            raise CredentialError(
                "%s/config.json: transport is %r, not tls or dtls" % (self.folder, self.transport)
            )
        self.port = config[self.transport + "_port"]
        self.server_hostname = config.get("server_hostname") or self.host
        self._context = None

    def _read_config(self):
        path = self.folder + "/config.json"
        try:
            with open(path) as file:
                config = json.load(file)
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

    def context(self):
        """Return the client context for this bundle."""
        if self._context is None:
            self._context = client_context(
                self.folder + "/ca.der",
                self.folder + "/cert.der",
                self.folder + "/key.der",
                datagram=self.transport == "dtls",
            )
        return self._context
