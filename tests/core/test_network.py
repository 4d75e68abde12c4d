"""Network bring-up, with a stand-in for the port's network module (no radio here)."""

import sys

from virtual_port import VirtualPort, run

from fleetnet.errors import CredentialError, Unreachable, Unsupported
from fleetnet_device import network


class Wlan:
    """A WLAN interface that associates after so many polls."""

    polls = 3

    def __init__(self, kind=0):
        self.calls = []
        self.is_active = False
        self.waited = -1

    def active(self, flag):
        self.is_active = flag
        self.calls.append(("active", flag))
        if not flag:
            self.waited = -1

    def config(self, **options):
        self.calls.append(("config", options))

    def connect(self, ssid, key=None):
        self.calls.append(("connect", ssid, key))
        self.waited = 0

    def isconnected(self):
        if self.waited < 0:
            return False
        self.waited += 1
        return self.waited > self.polls

    def status(self, what):
        assert what == "rssi"
        return -61


class Lan:
    """A wired interface: up as soon as it is active."""

    def __init__(self, phy=None):
        self.phy = phy
        self.is_active = False

    def active(self, flag):
        self.is_active = flag

    def isconnected(self):
        return self.is_active


class Module:
    """The stand-in for ``network``; ``without`` names what this firmware lacks."""

    def __init__(self, *without):
        self.names = []
        if "WLAN" not in without:
            self.WLAN = Wlan
        if "LAN" not in without:
            self.LAN = Lan

    def hostname(self, name):
        self.names.append(name)


class Device:
    name = "cam-1"

    def __init__(self, config):
        self.credentials = self
        self.network = config


def part(config, module):
    """Make the part, with ``module`` as the firmware's."""
    network.port = VirtualPort(100_000)
    sys.modules["network"] = module
    return network.Part(Device(config))


def outcome(made):
    """Bring it up; return the error, or None."""
    found = []

    async def attempt():
        try:
            await made.up(5_000)
        except Exception as error:
            found.append(error)

    run(attempt())
    del sys.modules["network"]
    return found[0] if found else None


WLAN = {"kind": "wlan", "ssid": "shed", "key": "secret words"}


def test_wlan_comes_up_awake_and_with_its_name():
    module = Module()
    made = part(WLAN, module)
    assert outcome(made) is None and made.is_up()
    assert module.names == ["cam-1"]
    calls = made._interface.calls
    assert calls[0] == ("active", True) and calls[-1] == ("connect", "shed", "secret words")
    assert "pm" in calls[1][1]
    assert made.rssi() == -61


def test_a_lost_link_is_started_again_on_the_same_interface():
    made = part(WLAN, Module())
    assert outcome(made) is None
    interface = made._interface
    interface.waited = -1
    sys.modules["network"] = Module()
    assert outcome(made) is None and made._interface is interface
    assert interface.calls.count(("connect", "shed", "secret words")) == 2


def test_no_network_says_what_to_look_at_and_no_secret():
    made = part(WLAN, Module())
    Wlan.polls = 1_000_000
    try:
        error = outcome(made)
    finally:
        Wlan.polls = 3
    assert isinstance(error, Unreachable) and "shed" in str(error)
    assert "secret" not in str(error)
    assert made._interface.calls[-1] == ("active", False)


def test_lan_takes_its_arguments_and_has_no_rssi():
    made = part({"kind": "lan", "lan": {"phy": 2}}, Module())
    assert outcome(made) is None and made.is_up()
    assert made._interface.phy == 2 and made.rssi() is None


def test_what_a_firmware_lacks_is_named():
    for config, module, word in (
        (WLAN, Module("WLAN"), "WLAN"),
        ({"kind": "lan"}, Module("LAN"), "LAN"),
    ):
        error = outcome(part(config, module))
        assert isinstance(error, Unsupported) and word in str(error)


def test_unknown_kind_is_refused():
    try:
        network.Part(Device({"kind": "wifi"}))
    except CredentialError as error:
        assert "wifi" in str(error)
    else:
        raise AssertionError("kind wifi")
