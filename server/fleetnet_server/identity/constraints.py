"""Name constraints of an issuing CA: for which hosts it may make server certificates.

Whoever steals the issuing key can then impersonate this fleet's server and nobody else's.

The extension is not critical, against RFC 5280 section 4.2.1.10: mbedTLS does not know it and
refuses a certificate with a critical extension that it does not know. Measured on MicroPython
1.25 and 1.26.1: an issuing certificate with the critical extension is ValueError("invalid
cert") as an anchor (on a lab build of 1.29, too), and as part of a server's chain it ends the
handshake with OSError(-9570), over TLS and over DTLS; not critical, both work. OpenSSL 3.0
enforces it either way. A MicroPython device does not enforce it, and relies on its anchors.
"""

import ipaddress
from collections.abc import Iterable, Sequence

from cryptography import x509

from fleetnet.errors import CredentialError

ANY = "*"
LOCAL = ("localhost", "127.0.0.0/8", "::1")

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def general_name(host: str) -> x509.DNSName | x509.IPAddress:
    """Return a host as it stands in a certificate. Raises CredentialError."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(_dns_name(host))


def name_constraints(permit: Iterable[str]) -> x509.NameConstraints | None:
    """Return the extension that permits hosts, and names and addresses below them.

    Args:
        permit: DNS names (with everything below them), addresses, networks as 10.0.0.0/8.
            ANY among them: no constraint. LOCAL is added.

    Raises:
        CredentialError: neither a name, an address nor a network.
    """
    names = list(permit)
    if ANY in names:
        return None
    subtrees = dict.fromkeys(_subtree(name) for name in (*names, *LOCAL))
    return x509.NameConstraints(list(subtrees), None)


def permitted(certificate: bytes) -> list[str] | None:
    """Return what a CA may sign for, in the form of ``permit``; None: no constraint."""
    found = _constraints(certificate)
    if found is None or found.permitted_subtrees is None:
        return None
    return [_text(name.value) for name in found.permitted_subtrees]


def check_hosts(
    hosts: Sequence[x509.DNSName | x509.IPAddress], authorities: Iterable[bytes]
) -> None:
    """Refuse a host that a CA of the chain may not sign for.

    Raises:
        CredentialError: names the host, what is permitted, and the remedy.
    """
    for authority in authorities:
        found = _constraints(authority)
        if found is None:
            continue
        for host in hosts:
            if not _is_permitted(host, found):
                raise CredentialError(
                    f"this fleet's CA may not sign for {host.value}, only for "
                    f"{', '.join(permitted(authority) or ['what it does not exclude'])}: "
                    f"`fleetnet ca rotate --issuing --permit {host.value}` makes one that may"
                )


def _is_permitted(host: x509.DNSName | x509.IPAddress, found: x509.NameConstraints) -> bool:
    kind = type(host)
    excluded = [name for name in found.excluded_subtrees or () if isinstance(name, kind)]
    if any(_is_below(host, name) for name in excluded):
        return False
    allowed = [name for name in found.permitted_subtrees or () if isinstance(name, kind)]
    return not allowed or any(_is_below(host, name) for name in allowed)


def _is_below(host: x509.GeneralName, subtree: x509.GeneralName) -> bool:
    if isinstance(host, x509.IPAddress) and isinstance(subtree.value, _Network):
        return host.value in subtree.value
    name, tree = str(host.value).lower(), str(subtree.value).lower().removeprefix(".")
    return not tree or name == tree or name.endswith("." + tree)


def _constraints(certificate: bytes) -> x509.NameConstraints | None:
    try:
        return (
            x509.load_der_x509_certificate(certificate)
            .extensions.get_extension_for_class(x509.NameConstraints)
            .value
        )
    except x509.ExtensionNotFound:
        return None


def _subtree(text: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_network(text))
    except ValueError as error:
        if "/" in text:
            raise CredentialError(f"{text!r} is no network: {error}") from error
    return x509.DNSName(_dns_name(text))


def _dns_name(host: str) -> str:
    labels = host.removesuffix(".").split(".")
    good = all(
        0 < len(label) <= 63 and label.isascii() and label.replace("-", "").isalnum()
        for label in labels
    )
    if not good or len(host) > 253:
        raise CredentialError(f"{host!r} is neither a DNS name nor an IP address")
    return host.removesuffix(".").lower()


def _text(value: object) -> str:
    if isinstance(value, _Network) and value.num_addresses == 1:
        return str(value.network_address)
    return str(value)
