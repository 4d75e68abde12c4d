"""The doctor's look at a bundle and at the clock; see doctor.py."""

import os
import time

from fleetnet.der_dates import date_text, validity
from fleetnet.errors import CredentialError, FleetError, Unsupported
from fleetnet.ports import port
from fleetnet_device.credentials import Credentials
from fleetnet_device.doctor import BAD, OK, WARN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleetnet_device.doctor import Report

_COPY = "copy the folder that `fleetnet device add` made to the board again"
_MAX_FILE = 4096  # mbedTLS sends at most so much in one record; also what is read of a file
_MAX_LEAF = 1000  # B: a chain that long needs more datagrams than a board's stack keeps
_SOON_MS = 30 * 86_400_000


class _Owner:
    """What identity.Part wants of a device."""

    def __init__(self, credentials: Credentials, flash: str):
        self.credentials = credentials
        self.folder = credentials.folder
        self.flash = flash or credentials.folder


def examine_bundle(
    report: "Report", bundle: "str | dict[str, Any]", spool: str
) -> "tuple[Credentials | None, int]":
    """Look at config.json and the files, or at the identity on the flash that replaces them.

    Returns:
        The credentials, None when a connection need not be tried; and the identity's number.
    """
    try:
        credentials = Credentials(bundle)
        number = _put_in_force(credentials, spool)
    except FleetError as error:
        report.add(BAD, "bundle", str(error), _COPY)
        return None, 0
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        text = "config.json holds something else than it should: %s" % error
        report.add(BAD, "bundle", text, _COPY)
        return None, 0
    if credentials.claim:
        report.add(
            WARN,
            "bundle",
            "%s has not fetched its certificate yet" % credentials.name,
            "start the device's program where it can reach the server's enrolment port",
        )
        return None, 0
    if not credentials._psk:
        for what in ("ca", "cert", "key"):
            _examine_file(report, credentials, what)
    if not report.has_bad("bundle"):
        _examine_context(report, credentials)
    if report.has_bad("bundle"):
        return None, 0
    text = credentials.name
    if number:
        text += ", identity %d of the flash" % number
    cert = _der(credentials, "cert")
    if credentials._psk:
        text += ", with a pre-shared key"
    elif cert is not None:
        text += ", certificate of %d B until %s" % (len(cert), date_text(validity(cert)[1]))
    report.add(OK, "bundle", text)
    return credentials, number


def _put_in_force(credentials: Credentials, spool: str) -> int:
    """Take the identity that a device program would take; return its number, 0: the bundle's."""
    owner: "Any" = _Owner(credentials, spool)
    listed = ""
    for folder in (owner.flash, owner.folder):
        try:
            listed += str(os.listdir(folder)) if folder else ""
        except OSError:
            pass
    if not credentials.own_key and "'identity" not in listed:
        return 0
    from fleetnet_device.identity import Part

    return Part(owner).number


def _read(credentials: Credentials, what: str) -> "bytes | None":
    """Return what is in force as "ca", "cert" or "key"; None: no such file."""
    source = getattr(credentials, "_" + what, None)
    if isinstance(source, (list, tuple)):
        source = source[0] if source else None
    if not isinstance(source, str):
        return None if source is None else bytes(source)
    try:
        with open(source, "rb") as file:
            return file.read(_MAX_FILE + 1)
    except OSError:
        return None


def _der(credentials: Credentials, what: str) -> "bytes | None":
    """Return it when it is DER."""
    data = _read(credentials, what)
    return data if data is not None and data[:1] == b"\x30" else None


def _examine_file(report: "Report", credentials: Credentials, what: str) -> None:
    data = _read(credentials, what)
    name = what + ".der"
    if data is None:
        report.add(BAD, "bundle", "there is no %s" % name, _COPY)
    elif len(data) > _MAX_FILE:
        report.add(BAD, "bundle", "%s is above %d B" % (name, _MAX_FILE), "is it the right file?")
    elif b"-----BEGIN" in data:
        report.add(
            WARN,
            "bundle",
            "%s is PEM, which some firmwares do not read" % name,
            "convert it on the PC: fleetnet cert convert FILE %s --camera" % name,
        )
    elif data[:1] != b"\x30":
        report.add(BAD, "bundle", "%s (%d B) is neither DER nor PEM" % (name, len(data)), _COPY)
    elif what == "cert" and len(data) > _MAX_LEAF:
        text = "%s has %d B: over DTLS much above %d B gets lost" % (name, len(data), _MAX_LEAF)
        report.add(WARN, "bundle", text, "use P-256 and short names")


def _examine_context(report: "Report", credentials: Credentials) -> None:
    """Let the firmware load it all, for each transport: it names keys that it cannot use."""
    for datagram in (True, False):
        if credentials.transport == ("tls" if datagram else "dtls"):
            continue
        try:
            credentials.context(datagram, False)
        except Unsupported as error:
            way = "use transport tls, certificates instead of a PSK, or a newer firmware"
            level = WARN if datagram and credentials.transport == "auto" else BAD
            report.add(level, "bundle", "this firmware cannot use it: %s" % error, way)
        except CredentialError as error:
            report.add(BAD, "bundle", str(error), _COPY)
            return


def examine_clock(report: "Report", credentials: Credentials) -> bool:
    """Look at the clock and the dates; True when the server is to be known by its pin."""
    now = port.unix_ms()
    made = credentials.made_ms
    if now >= made and now:
        report.add(OK, "clock", date_text(now))
        for what in ("cert", "ca"):
            _examine_dates(report, credentials, what, now)
        return False
    if now:
        text = "%s, but the bundle was made on %s" % (date_text(now), date_text(made))
    else:
        text = "never set: it says %d" % time.gmtime()[0]
    if credentials._psk:
        report.add(WARN, "clock", text + "; a pre-shared key needs no date")
        return False
    if credentials.pins:
        text += "; the server is known by its key until it tells the time"
        report.add(WARN, "clock", text)
        return True
    if credentials.ntp:
        report.add(WARN, "clock", "%s; the time will be asked of %s" % (text, credentials.ntp))
    else:
        report.add(
            BAD,
            "clock",
            text + ": no certificate can be verified",
            'set the clock, or have "pins" or "ntp" in config.json (`fleetnet device add` puts '
            "pins)",
        )
    return False


def _examine_dates(report: "Report", credentials: Credentials, what: str, now: int) -> None:
    data = _der(credentials, what)
    if data is None:
        return
    name = "this device's certificate" if what == "cert" else "the trust anchor ca.der"
    before, after = validity(data)
    if now < before:
        text = "%s begins on %s: by this clock (%s) it is not valid yet" % (
            name,
            date_text(before),
            date_text(now),
        )
        report.add(BAD, "clock", text, "set the clock of the board, or of the PC that made it")
    elif now > after:
        text = "%s ended on %s (clock: %s)" % (name, date_text(after), date_text(now))
        remedy = "if the clock is right, it needs a new bundle (`fleetnet device add %s --again`)"
        report.add(BAD, "clock", text, remedy % credentials.name)
    elif what == "cert" and after - now < _SOON_MS:
        text = "%s ends on %s" % (name, date_text(after))
        report.add(WARN, "clock", text, "`fleetnet device renew %s`" % credentials.name)
