"""A folder of credentials, looked at without a network."""

import datetime
import json
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from fleetnet.credential import split
from fleetnet.errors import CredentialError, ProtocolError
from fleetnet.fields import FieldReader
from fleetnet_server.doctor.findings import BAD, OK, WARN, Finding, worst
from fleetnet_server.identity import camera, expiry, formats
from fleetnet_server.identity.formats import Content
from fleetnet_server.identity.inspecting import device_of, text_of

_SLOT_NUMBER, _SLOT_CERTIFICATE, _SLOT_ANCHORS = 2, 3, 5

_NEW = "make it again: `fleetnet device add NAME --again`"
_TYPES: dict[str, type | tuple[type, ...]] = {
    "name": str, "host": str, "tls_port": int, "dtls_port": int,
}  # fmt: skip
_TRANSPORTS = ("auto", "tls", "dtls")
# Above it a datagram does not even fit into an Ethernet frame.
_ETHERNET = 1472


class Bundle(NamedTuple):
    """What a bundle says, as far as it could be read.

    Attributes:
        config: of config.json; {}: unreadable.
        certificates: of cert.der. anchors: of ca.der.
    """

    folder: Path
    config: dict[str, Any]
    certificates: list[x509.Certificate]
    anchors: list[x509.Certificate]

    @property
    def name(self) -> str:
        return str(self.config.get("name", ""))

    @property
    def server_name(self) -> str:
        """The name that the server's certificate has to have."""
        return str(self.config.get("server_hostname") or self.config.get("host") or "")

    @property
    def made(self) -> datetime.datetime | None:
        """When it was made; None: it does not tell."""
        made_ms = self.config.get("made_ms")
        if not isinstance(made_ms, int) or not 0 < made_ms < 1 << 43:
            return None
        return datetime.datetime.fromtimestamp(made_ms / 1000, datetime.UTC)


def examine(
    folder: Path, name: str | None = None, has_clock: bool = True
) -> tuple[Bundle, list[Finding]]:
    """Look at config.json, cert.der, key.der and ca.der, or at the PSK that replaces them.

    Args:
        name: the device that the certificate has to be for; None: that of config.json.
        has_clock: dates are looked at; False: the clock is wrong.
    """
    config, findings = _read_config(folder)
    if config and (kept := _kept_identity(folder, config)) is not None:
        number = f"identity {kept[0]}, which it keeps itself"
        return kept[1], [*findings, Finding("bundle", OK, f"{config.get('name')}, {number}")]
    if config and ("psk" in config or "claim" in config):
        bundle = Bundle(folder, config, [], [])
        found = _of_psk(config) if "psk" in config else _of_claim(config)
        return bundle, [*findings, *found]
    files = {what: _read_file(folder, what, findings) for what in ("cert", "key", "ca")}
    certificates = _certificates(files["cert"])
    bundle = Bundle(folder, config, certificates, _certificates(files["ca"]))
    for what, content in files.items():
        if content is not None:
            findings += _of_file(what, content, config, has_clock)
    if files["cert"] is not None and files["key"] is not None:
        findings += _of_pair(files["cert"], files["key"])
    findings += _of_names(bundle, name or bundle.name)
    if worst(findings) != BAD:
        findings.append(Finding("bundle", OK, _summary(bundle)))
    return bundle, findings


def _read_config(folder: Path) -> tuple[dict[str, Any], list[Finding]]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        text = f"{path} cannot be read: {error.strerror}"
        return {}, [Finding("bundle", BAD, text, "name the folder that `fleetnet device add` made")]
    except ValueError as error:
        return {}, [Finding("bundle", BAD, f"{path} is no JSON: {error}", _NEW)]
    if not isinstance(config, dict):
        return {}, [Finding("bundle", BAD, f"{path} holds no object", _NEW)]
    findings = []
    for key, kind in _TYPES.items():
        if not isinstance(config.get(key), kind):
            found = f"is {config[key]!r}" if key in config else "is missing"
            findings.append(Finding("bundle", BAD, f"{path}: {key!r} {found}", _NEW))
    if config.get("transport", "auto") not in _TRANSPORTS:
        text = f"{path}: transport is {config['transport']!r}"
        findings.append(Finding("bundle", BAD, text, f"one of {', '.join(_TRANSPORTS)}"))
    return config, findings


def _of_psk(config: dict[str, Any]) -> list[Finding]:
    psk = config["psk"]
    try:
        identity, key = str(psk["identity"]), bytes.fromhex(psk["key"])
    except (KeyError, TypeError, ValueError):
        text = "'psk' in config.json is no identity and key in hexadecimal"
        return [Finding("bundle", BAD, text, "make it again: `fleetnet psk rotate NAME --bundle`")]
    if len(key) not in (16, 32):
        text = f"the pre-shared key has {len(key)} B, not 16 or 32"
        return [Finding("bundle", BAD, text, "make it again: `fleetnet psk rotate NAME --bundle`")]
    return [Finding("bundle", OK, f"{config.get('name')}, pre-shared key {identity!r}")]


def _kept_identity(folder: Path, config: dict[str, Any]) -> tuple[int, Bundle] | None:
    """Return number and contents of the identity that the device fetched or renewed by itself.

    None: it has none, or what is there cannot be read: the device's own doctor says more.
    Layout: device_lib/fleetnet_device/identity_slots.py; 9 B of checksum before each content.
    """
    try:
        slot = (folder / "identity").read_bytes()[9:10].decode()
        fields = FieldReader((folder / f"identity-{slot}").read_bytes()[9:])
        certificate = x509.load_der_x509_certificate(fields.get_bytes(_SLOT_CERTIFICATE))
        anchors = [
            x509.load_der_x509_certificate(each) for each in split(fields.get_bytes(_SLOT_ANCHORS))
        ]
        return fields.get_int(_SLOT_NUMBER), Bundle(folder, config, [certificate], anchors)
    except (OSError, ValueError, ProtocolError):
        return None


def _of_claim(config: dict[str, Any]) -> list[Finding]:
    text = f"{config.get('name')} has not fetched its certificate yet: the bundle has a claim token"
    remedy = "start the device where it reaches the server's enrolment port"
    return [Finding("bundle", WARN, text, remedy)]


def _read_file(folder: Path, what: str, findings: list[Finding]) -> Content | None:
    path = folder / f"{what}.der"
    try:
        content = formats.read_file(path)
    except CredentialError as error:
        findings.append(Finding("bundle", BAD, str(error), _NEW))
        return None
    kind = formats.KEY if what == "key" else formats.CERTIFICATE
    if content.items[0].kind != kind:
        text = f"{path.name} holds a {content.items[0].kind}, not a {kind}: were files swapped?"
        findings.append(Finding("bundle", BAD, text, _NEW))
        return None
    return content


def _certificates(content: Content | None) -> list[x509.Certificate]:
    return [] if content is None else [one.value for one in content.of(formats.CERTIFICATE)]


# -- files ---------------------------------------------------------------------------------


def _of_file(
    what: str, content: Content, config: dict[str, Any], has_clock: bool
) -> list[Finding]:
    """What a camera has against one file."""
    findings = []
    if content.encoding == formats.PEM:
        text = f"{what}.der is PEM, where a camera wants DER"
        remedy = f"`fleetnet cert convert {what}.der NEW.der --camera`"
        findings.append(Finding("bundle", BAD, text, remedy))
    now = datetime.datetime.now(datetime.UTC)
    for item in content.of(formats.CERTIFICATE):
        if has_clock:
            findings += _of_dates(what, item.value, now)
    dated = next((one.value for one in content.of(formats.CERTIFICATE)), None)
    # Dates are said above, sizes below.
    when = dated.not_valid_before_utc if dated is not None else None
    for verdict in camera.verdicts(content._replace(encoding=formats.DER), now=when):
        if verdict.level == camera.BAD:
            text = f"{what}.der: {verdict.text}"
            findings.append(Finding("bundle", BAD, text, verdict.remedy))
    if what == "cert" and dated is not None:
        findings += _of_size(_certificates(content), str(config.get("transport", "auto")))
    if what == "ca" and dated is not None and not camera.is_anchor(dated):
        text = f"ca.der is {text_of(dated.subject)!r}, no CA: mbedTLS takes it for no anchor"
        findings.append(Finding("bundle", BAD, text, "take the root: `fleetnet anchor HOST`"))
    return findings


def _of_dates(what: str, one: x509.Certificate, now: datetime.datetime) -> list[Finding]:
    name = "this device's certificate" if what == "cert" else "the trust anchor ca.der"
    begin, end = one.not_valid_before_utc, one.not_valid_after_utc
    if end < now:
        text = f"{name} has expired: it ended on {end:%Y-%m-%d}"
        return [Finding("bundle", BAD, text, _NEW)]
    if begin > now:
        text = f"{name} is not yet valid: it begins on {begin:%Y-%m-%d %H:%M} UTC"
        return [Finding("bundle", BAD, text, "wait, or correct the clock of who made it")]
    kind = expiry.DEVICE if what == "cert" else expiry.CA
    level = expiry.level(kind, *(int(at.timestamp() * 1000) for at in (begin, end, now)))
    if level in (expiry.SOON, expiry.URGENT):
        days = (end - now).days
        text = f"{name} ends on {end:%Y-%m-%d}, in {days} days"
        return [Finding("bundle", WARN, text, "`fleetnet device renew NAME`")]
    return []


def _of_size(chain: list[x509.Certificate], transport: str) -> list[Finding]:
    size, flight = camera.chain_bytes(chain), camera.flight_bytes(chain)
    if transport == "tls" or (flight <= camera.MAX_DATAGRAM and size <= camera.MAX_CHAIN):
        return []
    count = f"{len(chain)} certificates, " if len(chain) > 1 else ""
    text = (
        f"the certificate chain is too big for DTLS: {count}{size} B make a datagram of "
        f"{flight} B, and above {camera.MAX_DATAGRAM} B networks drop it"
    )
    level = BAD if transport == "dtls" and flight > _ETHERNET else WARN
    remedy = "one P-256 leaf without its issuers (below 1,000 B), or transport tls"
    return [Finding("bundle", level, text, remedy)]


def _of_pair(cert: Content, key: Content) -> list[Finding]:
    keys = key.of(formats.KEY)
    if not keys or keys[0].value is None or not cert.of(formats.CERTIFICATE):
        return []
    try:
        theirs = cert.of(formats.CERTIFICATE)[0].value.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return []
    if keys[0].value.public_key() == theirs:
        return []
    text = "key.der does not match cert.der: it loads, and every handshake fails"
    return [Finding("bundle", BAD, text, "take both files from the same bundle, or " + _NEW)]


def _of_names(bundle: Bundle, name: str) -> list[Finding]:
    if not bundle.certificates or not name:
        return []
    leaf = bundle.certificates[0]
    if camera.is_ca(leaf):
        return [Finding("bundle", BAD, "cert.der is a CA's certificate, not a device's", _NEW)]
    named = device_of(leaf)
    if named == name:
        return []
    what = f"names device {named!r}" if named else "names no fleetnet device"
    return [Finding("bundle", BAD, f"cert.der {what}, not {name!r}", _NEW)]


def _summary(bundle: Bundle) -> str:
    if not bundle.certificates:
        return bundle.name
    leaf = bundle.certificates[0]
    size = camera.chain_bytes(bundle.certificates)
    return f"{bundle.name}, certificate of {size} B until {leaf.not_valid_after_utc:%Y-%m-%d}"


