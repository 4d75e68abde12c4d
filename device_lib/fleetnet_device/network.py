"""Bringing the network up, and up again: WLAN, LAN, or none of our business.

config.json of the bundle may hold

    "network": {"kind": "wlan", "ssid": "...", "key": "...", "country": "DE"}
    "network": {"kind": "lan"}

Without it the program, or the operating system, sees to the network. With it the device
does before every connection: nothing to do while the link is up.

Where ports differ (MicroPython docs, network.WLAN and network.LAN; OpenMV docs):

    what                 who                     how
    power saving off     rp2, boards with CYW43  config(pm=0xA11140)
                         esp32                   config(pm=0)
    signal strength      most                    status("rssi")
                         WINC1500 (OpenMV H7)    rssi()
    LAN's arguments      stm32, mimxrt           none
                         esp32                   PHY and pins: "lan" in the configuration
    host name            1.20 and newer          network.hostname()
"""

import sys

from fleetnet.errors import CredentialError, Unreachable, Unsupported
from fleetnet.ports import port
from fleetnet.ticks import ticks_diff
from fleetnet_device.limits import NETWORK_UP_MS

_POLL_MS = 100

# Power saving delays each datagram by up to a beacon interval, and loses some.
_PM_OFF = {"esp32": 0}
_PM_OFF_CYW43 = 0xA11140

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleetnet_device.core import DeviceCore


class Part:
    """See the module's docstring; loaded by itself when config.json has "network"."""

    capability = 0
    kinds = ()

    def __init__(self, device: "DeviceCore"):
        self._config = device.credentials.network
        self._name = device.name
        self._interface: "Any" = None
        if self._config.get("kind") not in ("wlan", "lan"):
            raise CredentialError(
                "config.json: network kind %r is not wlan or lan" % self._config.get("kind")
            )

    def is_up(self) -> bool:
        """Say whether the link is up and has an address."""
        return self._interface is not None and bool(self._interface.isconnected())

    def rssi(self) -> "int | None":
        """Return the signal strength in dBm; None on a LAN, or where it is not told."""
        interface = self._interface
        if interface is None or self._config["kind"] != "wlan":
            return None
        try:
            if hasattr(interface, "rssi"):
                return interface.rssi()  # type: ignore[no-any-return]
            return interface.status("rssi")  # type: ignore[no-any-return]
        except (OSError, ValueError, TypeError):
            return None

    async def up(self, timeout_ms: int = NETWORK_UP_MS) -> None:
        """Return once the link is up; start it, or start it again, when it is down.

        Raises:
            Unreachable: it did not come up in time. Unsupported: no such interface here.
        """
        if self.is_up():
            return
        began = port.ticks()
        self._start()
        while not self.is_up():
            if ticks_diff(port.ticks(), began) > timeout_ms:
                what = self._config.get("ssid") or "the cable"
                # A driver that hangs is only helped by another start.
                self._interface.active(False)
                raise Unreachable("no network through %s: is it in reach, is the key right?" % what)
            await port.sleep_ms(_POLL_MS)

    def _start(self) -> None:
        try:
            import network  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            raise Unsupported("this firmware has no network module: leave \"network\" out")
        if hasattr(network, "hostname"):
            network.hostname(self._name[:32])
        if self._config["kind"] == "lan":
            if self._interface is None:
                if not hasattr(network, "LAN"):
                    raise Unsupported("this firmware has no network.LAN: use kind wlan")
                self._interface = network.LAN(**(self._config.get("lan") or {}))
            self._interface.active(True)
            return
        if self._config.get("country") and hasattr(network, "country"):
            network.country(self._config["country"])
        if self._interface is None:
            if not hasattr(network, "WLAN"):
                raise Unsupported("this firmware has no network.WLAN: use kind lan")
            self._interface = network.WLAN(getattr(network, "STA_IF", 0))
        self._interface.active(True)
        self._stay_awake()
        self._interface.connect(self._config["ssid"], self._config.get("key"))

    def _stay_awake(self) -> None:
        try:
            self._interface.config(pm=_PM_OFF.get(sys.platform, _PM_OFF_CYW43))
        except (OSError, ValueError, TypeError, AttributeError):
            pass  # this driver saves no power, or hides it
