"""One way from the beginning to the end: a bundle, or a server's address."""

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509

from fleetnet.errors import CredentialError
from fleetnet_server.config import FILE_NAME, Settings
from fleetnet_server.doctor import clock, credentials, device, handshake, network, registry
from fleetnet_server.doctor.credentials import Bundle
from fleetnet_server.doctor.findings import BAD, OK, Finding, worst
from fleetnet_server.doctor.fleet import known_to
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.names import is_device_name


def examine_bundle(
    place: Path,
    name: str | None = None,
    fleet: tuple[Path, Settings] | None = None,
    timeout_s: float = 10.0,
) -> list[Finding]:
    """Look at a folder of credentials, then connect with it as its device would.

    Args:
        name: the device that it has to be for; None: whom config.json names.
        fleet: folder and settings of the fleet, where it is on this computer: then the
            registry is asked as well.
    """
    bundle, findings = _examine(place, name, fleet, timeout_s)
    whose = name or bundle.name
    if not is_device_name(whose):
        return findings
    # A command that can be copied as it stands.
    return [one._replace(remedy=one.remedy.replace(" NAME", f" {whose}")) for one in findings]


def _examine(
    place: Path, name: str | None, fleet: tuple[Path, Settings] | None, timeout_s: float
) -> tuple[Bundle, list[Finding]]:
    bundle, findings = credentials.examine(place, name)
    at = clock.check(bundle.made)
    if at.level != OK:  # its dates mean nothing by this clock
        bundle, findings = credentials.examine(place, name, has_clock=False)
    findings.insert(0, at)
    if fleet is not None and bundle.name:
        with registry.opened(*fleet) as (store, found):
            findings += [found] if store is None else registry.of_device(store, fleet[0], bundle)
    if worst(one for one in findings if one.check in ("bundle", "clock")) == BAD:
        return bundle, findings  # a connection would only repeat it in other words
    if "claim" in bundle.config and not bundle.certificates:
        return bundle, findings
    findings += _examine_way(bundle, fleet, timeout_s)
    if any(one.check == "name" and one.level == BAD for one in findings):
        return bundle, findings
    own = device.run_here(bundle.folder, timeout_s)
    return bundle, [*findings, *device.without_known(own, findings)]


def _examine_way(
    bundle: Bundle, fleet: tuple[Path, Settings] | None, timeout_s: float
) -> list[Finding]:
    host, port = bundle.config["host"], bundle.config["tls_port"]
    findings = [network.check_name(host)]
    if findings[0].level != OK:
        return findings
    tcp = network.check_tcp(host, port, timeout_s)
    # Over DTLS alone the TCP port may well be closed; where it is open, the chain is the same.
    if tcp.level == OK or bundle.config.get("transport") != "dtls":
        findings.append(tcp)
    if bundle.anchors and tcp.level == OK:
        findings += handshake.examine(
            host, port, bundle.server_name, bundle.anchors[:1], known=_known(fleet),
            timeout_s=timeout_s,
        )  # fmt: skip
    return findings


def _known(fleet: tuple[Path, Settings] | None) -> list[x509.Certificate]:
    """Return the CAs of the fleet on this computer; they tell what is missing by name."""
    if fleet is None:
        return []
    try:
        return known_to(Authority.load(fleet[0]))
    except CredentialError:
        return []


def examine_server(
    host: str,
    port: int,
    anchors: Sequence[x509.Certificate],
    *,
    udp_port: int = 0,
    name: str | None = None,
    timeout_s: float = 10.0,
) -> list[Finding]:
    """Look at a server's address, name, ports and certificates.

    Args:
        anchors: one of them has to be what its chain leads to.
        udp_port: 0: the same number.
        name: what the certificate has to be for; None: ``host``.
    """
    at = clock.check()
    findings = [at, network.check_name(host)]
    if findings[-1].level != OK:
        return findings
    findings.append(network.check_tcp(host, port, timeout_s))
    if findings[-1].level == OK:
        findings += handshake.examine(
            host, port, name or host, anchors, timeout_s=timeout_s, has_clock=at.level == OK
        )
    findings.append(network.check_udp(host, udp_port or port, is_needed=False))
    return findings


def is_fleet(folder: Path) -> bool:
    """Whether a folder is one that `fleetnet init` made."""
    return (folder / FILE_NAME).is_file()
