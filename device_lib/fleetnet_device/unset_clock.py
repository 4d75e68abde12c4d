"""What a board does whose clock is not set, or wrong; loaded when one is found to be so."""

import time

from fleetnet.errors import CertificateNotYetValid, FleetError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet_device.clock import Clock
    from fleetnet_device.core import DeviceCore


async def is_pinned(device: "DeviceCore") -> bool:
    """Say whether the server must be known by its public key: the date is unknown.

    Without pins the time is asked of an NTP server, or the bundle's own date serves. A clock that
    jumped is set by what the server said in this boot.
    """
    server_ms = device.clock.server_ms()
    if server_ms and set_board_clock(server_ms):
        return False
    if device.credentials.pins:
        return True
    if device.credentials.ntp:
        from fleetnet_device import ntp

        try:
            if set_board_clock(await ntp.ask(device.credentials.ntp)):
                return False
        except FleetError as error:
            device.report(error, "ntp")
    if not assume_floor(device.clock):
        device.report(
            CertificateNotYetValid("clock is not set; config.json has no pins, no ntp"), "clock"
        )
    return False


def assume_floor(clock: "Clock") -> bool:
    """Set an unset board clock to its floor; True when that was done.

    The last resort of a device without pins and without NTP: certificates that were
    valid when its bundle was made verify again. Readings stay undated.
    """
    return bool(clock.floor_ms) and not clock.own_ms() and set_board_clock(clock.floor_ms)


def set_board_clock(unix_ms: int) -> bool:
    """Set the board's RTC (machine.RTC, UTC); False where the port has none."""
    try:
        from machine import RTC  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return False
    seconds = unix_ms // 1000
    if time.gmtime(0)[0] == 2000:
        seconds -= 946_684_800
    year, month, day, hour, minute, second, weekday = time.gmtime(seconds)[:7]
    RTC().datetime((year, month, day, weekday, hour, minute, second, 0))
    return True
