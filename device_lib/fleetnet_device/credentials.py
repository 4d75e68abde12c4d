"""A device's bundle: config.json and three DER files in one folder.

    config.json  {"name", "host", "tls_port", "dtls_port", "server_hostname", "transport",
                  "servers", "pins", "ntp", "network", "made_ms"}
    cert.der, key.der, ca.der

``transport`` is "auto" (DTLS, and TLS where UDP does not pass), "dtls" or "tls".
``servers`` (optional) lists more servers, objects with host, ports and server_hostname.
``pins`` (optional) are SHA-256 of the public keys that the server has or will have, in
hexadecimal; ``ntp`` (optional) names a time server; ``network`` (optional) is for network.py;
``made_ms`` is when the bundle was made.
``psk`` {"identity", "key" in hexadecimal} takes the place of the three DER files, and so does
``claim`` {"token", "port"}: with it the device fetches an identity first (enrol.py). ``own_key``
true: it makes its keys itself. What was fetched or renewed is kept on the flash (identity.py).

`fleetnet device add` makes it, or `fleetnet psk add --bundle`. A dict with the same keys, and
bytes under "cert", "key" and "ca", serves as well.
"""

import json

from fleetnet.errors import CredentialError
from fleetnet.ports import port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleetnet.ports.cpython import Context


class Server:
    """One address of the back-end."""

    def __init__(self, config: "dict[str, Any]"):
        self.host: str = config["host"]
        self.tls_port: int = config["tls_port"]
        self.dtls_port: int = config["dtls_port"]
        self.server_hostname: str = config.get("server_hostname") or self.host


class Credentials:
    """What a device needs to reach its servers.

    Args:
        bundle: the folder, or a dict.

    Raises:
        CredentialError: a file is missing or unusable, with the remedy.
    """

    def __init__(self, bundle: "str | dict[str, Any]"):
        if isinstance(bundle, str):
            self.folder = bundle.rstrip("/")
            path = self.folder + "/config.json"
            config = _read_config(path)
            self._ca: "str | bytes" = self.folder + "/ca.der"
            self._cert: "str | bytes" = self.folder + "/cert.der"
            self._key: "str | bytes" = self.folder + "/key.der"
        else:
            self.folder = ""
            path = "config"
            config = bundle
        self._psk: "dict[str, str] | None" = config.get("psk")
        try:
            if not self.folder and "psk" not in config and "claim" not in config:
                self._ca, self._cert, self._key = config["ca"], config["cert"], config["key"]
            self.name: str = config["name"]
            self.servers = [Server(config)]
            for other in config.get("servers") or ():
                self.servers.append(Server(other))
        except KeyError as error:
            raise CredentialError("%s lacks %r: see docs/device.md" % (path, error.args[0]))
        self.transport: str = config.get("transport") or "auto"
        if self.transport not in ("auto", "tls", "dtls"):
            raise CredentialError(
                "%s: transport is %r, not auto, tls or dtls" % (path, self.transport)
            )
        self.claim: "dict[str, Any] | None" = config.get("claim")
        self.own_key: "bool | None" = config.get("own_key")
        self.pins: "list[Any]" = config.get("pins") or []
        self.ntp: str = config.get("ntp") or ""
        self.network: "dict[str, Any]" = config.get("network") or {}
        self.made_ms: int = config.get("made_ms") or 0
        self._made_for: "tuple[bool, bool] | None" = None
        self._context: "Context | None" = None

    def context(self, datagram: bool, pinned: bool) -> "Context":
        """Return a client context; the last one is kept, as parsing costs 5 KB and time.

        Args:
            pinned: know the server by its public key instead of by its certificate: the
                clock is not set.
        """
        made_for = (datagram, pinned)
        if self._context is None or self._made_for != made_for:
            self._context = None
            if self._psk:
                from fleetnet_device import shared_key

                self._context = shared_key.context(self._psk, datagram)
            else:
                ca, pins = (None, self.pins) if pinned else (self._ca, None)
                self._context = port.client_context(
                    ca, self._cert, self._key, datagram=datagram, pins=pins
                )
            self._made_for = made_for
        return self._context


def _read_config(path: str) -> "dict[str, Any]":
    try:
        with open(path) as file:
            config: "dict[str, Any]" = json.load(file)
    except OSError:
        raise CredentialError(
            "no %s: copy the folder of `fleetnet device add` to this device" % path
        )
    except ValueError:
        raise CredentialError("%s is not JSON: copy it again" % path)
    return config
