"""From a server's chain to the one certificate that a camera has to trust.

The way up is looked for twice. Among what was sent and what a store knows, to name the root,
also through cross-signs; and as mbedTLS walks it, with what was sent and the anchor alone: it
takes the issuer from the anchors, else from behind the certificate in the chain, never from
before it, and trusts a leaf only when it signed itself. What it would refuse is said by name.

Sources: mbedTLS library/x509_crt.c (x509_crt_find_parent, x509_crt_check_ee_locally_trusted);
RFC 5280 section 6; RFC 6125 section 6.4 for names.
"""

import datetime
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from fleetnet.errors import CredentialError
from fleetnet_server.identity import camera, formats
from fleetnet_server.identity.camera import BAD, OK, WARN, Verdict, is_ca
from fleetnet_server.identity.formats import Content, Item
from fleetnet_server.identity.inspecting import hosts_of, issuer_urls, pin_of, text_of

ROOT, INTERMEDIATE, LEAF = "root", "intermediate", "leaf"
CHOICES = (ROOT, INTERMEDIATE, LEAF)

TRADE_OFFS = {
    ROOT: "lasts longest, the server may change its certificate and its intermediate; "
    "trusts all that this root signs",
    INTERMEDIATE: "trusts less; has to be replaced when the server's CA changes its intermediate, "
    "often without notice",
    LEAF: "trusts this one server alone; has to be replaced with each of its certificates",
}

# Longer ones are loops or attacks; the public web has 4.
_DEEPEST = 8
# A server could send CAs that all sign each other.
_MOST_WAYS = 200


class Way(NamedTuple):
    """The way from the leaf up.

    Attributes:
        certificates: leaf first; the last is the root when ``is_complete``.
        is_known: the last one lies in the store.
        is_complete: the last one signed itself, or the store trusts it.
        borrowed: those between leaf and root that the server did not send.
    """

    certificates: tuple[x509.Certificate, ...]
    is_known: bool
    is_complete: bool
    borrowed: tuple[x509.Certificate, ...]


def find_way(sent: Sequence[x509.Certificate], store: Sequence[x509.Certificate]) -> Way:
    """Return the best way up: to a root of the store, with little that was not sent, short."""
    ways = islice(_climb((sent[0],), list(sent[1:]), list(store)), _MOST_WAYS)
    known = set(store)
    was_sent = set(sent)
    now = _now()

    def rank(path: tuple[x509.Certificate, ...]) -> tuple[bool, bool, bool, int, int]:
        way = _way(path, known, was_sent)
        ended = any(one.not_valid_after_utc < now for one in path)
        return (
            not way.is_known, not way.is_complete, ended, len(way.borrowed), len(path),
        )  # fmt: skip

    return _way(min(ways, key=rank), known, was_sent)


def choose(way: Way, choice: str) -> x509.Certificate:
    """Return the anchor of a choice.

    Raises:
        CredentialError: there is none of that kind; says what there is.
    """
    path = way.certificates
    if choice == LEAF:
        if path[0].subject != path[0].issuer:
            raise CredentialError(
                "a camera does not take a leaf that a CA signed for its anchor (mbedTLS wants one "
                "that signed itself): choose root or intermediate, or know the server by its key: "
                f'"pins": ["{pin_of(path[0].public_key())}"]'
            )
        return path[0]
    if choice == INTERMEDIATE:
        if len(path) < 2 or (way.is_complete and len(path) < 3):
            raise CredentialError("there is no intermediate in this chain: choose root")
        return path[1]
    if not way.is_complete:
        missing = text_of(path[-1].issuer)
        raise CredentialError(
            f"the root is unknown: neither the server nor the store has {missing!r}; "
            f"{_where(path[-1])}, then --store FILE with it, or --choose intermediate"
        )
    return path[-1]


def problems(
    sent: Sequence[x509.Certificate], way: Way, host: str, now: datetime.datetime | None = None
) -> list[Verdict]:
    """Return what is wrong with a chain for a camera, whatever it trusts; the worst first."""
    now = now or _now()
    found = [*_of_links(sent, way), *_of_dates(way, now)]
    if host and not covers(sent[0], host):
        names = ", ".join(hosts_of(sent[0])) or "no name at all"
        text = f"its certificate is for {names}, not for {host!r}"
        found.append(Verdict(BAD, text, "connect to one of its names, or have one issued for it"))
    for one in way.certificates:
        found += objections(one)
    return sorted(found, key=lambda one: (BAD, WARN, OK).index(one.level))


def verify(
    sent: Sequence[x509.Certificate],
    anchor: x509.Certificate,
    host: str,
    now: datetime.datetime | None = None,
) -> None:
    """Check that a camera which trusts ``anchor`` alone accepts this chain.

    Args:
        host: "": the name is not checked.

    Raises:
        CredentialError: it does not; says why.
    """
    now = now or _now()
    if host and not covers(sent[0], host):
        raise CredentialError(f"the server's certificate is not for {host!r}")
    walked = walk(sent, anchor)
    if walked is None:
        raise CredentialError(
            f"what the server sends does not lead to {text_of(anchor.subject)!r}: a camera that "
            "trusts it fails with WrongCA"
        )
    for one in walked:
        if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
            state = "ended" if one.not_valid_after_utc < now else "is not valid yet"
            name = text_of(one.subject)
            raise CredentialError(f"{name!r} {state}, so a camera refuses the chain")
        for bad in objections(one):
            raise CredentialError(f"{bad.text}; {bad.remedy}")
    _verify_by_openssl(walked, now)


def walk(
    sent: Sequence[x509.Certificate], anchor: x509.Certificate
) -> tuple[x509.Certificate, ...] | None:
    """Go up as mbedTLS does; return the way with the anchor at its end, or None."""
    if sent[0] == anchor:
        return (anchor,) if anchor.subject == anchor.issuer else None
    path, at = [sent[0]], 0
    while len(path) <= _DEEPEST:
        if signs(anchor, path[-1]):
            return (*path, anchor)
        behind = [n for n in range(at + 1, len(sent)) if signs(sent[n], path[-1])]
        if not behind:
            return None
        # Of several it prefers one that is valid today.
        at = next((n for n in behind if _is_valid(sent[n])), behind[0])
        path.append(sent[at])
    return None


def _is_valid(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_before_utc <= _now() <= certificate.not_valid_after_utc


def signs(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether ``issuer`` is a CA that signed ``certificate``; by name, key id and signature."""
    if issuer.subject != certificate.issuer or not is_ca(issuer):
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def covers(certificate: x509.Certificate, host: str) -> bool:
    """Whether a certificate is for a host: a name, with * for one label on the left, or an IP."""
    names = hosts_of(certificate)
    try:
        address = str(ipaddress.ip_address(host))
    except ValueError:
        wanted = host.lower().rstrip(".")
        return any(_matches(name.lower(), wanted) for name in names)
    return address in names


def _matches(pattern: str, host: str) -> bool:
    if pattern == host:
        return True
    first, _, rest = host.partition(".")
    return bool(first and rest) and pattern == f"*.{rest}"


# -- the way up ----------------------------------------------------------------------------


def _climb(
    path: tuple[x509.Certificate, ...],
    sent: list[x509.Certificate],
    store: list[x509.Certificate],
) -> Iterator[tuple[x509.Certificate, ...]]:
    """Yield every way from the end of ``path`` up to where it goes no further."""
    child, is_end = path[-1], True
    if child.subject != child.issuer and len(path) <= _DEEPEST:
        for one in dict.fromkeys([*store, *sent]):
            if one not in path and signs(one, child):
                is_end = False
                yield from _climb((*path, one), sent, store)
    if is_end:
        yield path


def _way(
    path: tuple[x509.Certificate, ...],
    known: set[x509.Certificate],
    was_sent: set[x509.Certificate],
) -> Way:
    last = path[-1]
    is_known = last in known
    is_complete = last.subject == last.issuer or is_known
    between = path[1:-1] if is_complete else path[1:]
    return Way(path, is_known, is_complete, tuple(one for one in between if one not in was_sent))


# -- what is wrong -------------------------------------------------------------------------


def _of_links(sent: Sequence[x509.Certificate], way: Way) -> list[Verdict]:
    path = way.certificates
    if path[0].subject == path[0].issuer:
        return [Verdict(WARN, "the certificate is self-signed: it is its own anchor",
                        "compare its fingerprint with the server's own")]  # fmt: skip
    for one in way.borrowed:
        text = (
            f"the server does not send {text_of(one.subject)!r}, which it should: a camera that "
            "trusts the root fails with WrongCA; browsers hide this"
        )
        return [Verdict(BAD, text, "have the server send its whole chain; or trust the "
                        "intermediate: --choose intermediate")]  # fmt: skip
    if not way.is_complete:
        if len(path) == 1:
            text = (
                f"the server sends its own certificate alone, and {text_of(path[0].issuer)!r}, who "
                "signed it, is in no store here: a camera fails with WrongCA"
            )
            remedy = f"have the server send its whole chain; {_where(path[0])}"
            return [Verdict(BAD, text, remedy)]
        text = f"the chain ends at {text_of(path[-1].subject)!r}; its root is in no store here"
        return [Verdict(WARN, text, "--store FILE with the root, or --choose intermediate")]
    if walk(sent, path[-1]) is None:
        return [Verdict(BAD, "the chain is sent in the wrong order: a camera finds an issuer only "
                        "behind what it signed", "have it sent leaf first, each followed by its "
                        "issuer")]  # fmt: skip
    if not way.is_known:
        text = f"the root {text_of(path[-1].subject)!r} is a private one: no store here knows it"
        return [Verdict(WARN, text, "compare its fingerprint with its owner's")]
    return []


def _of_dates(way: Way, now: datetime.datetime) -> list[Verdict]:
    found = []
    for one in way.certificates:
        name = text_of(one.subject)
        if one.not_valid_after_utc < now:
            text = f"{name!r} ended on {one.not_valid_after_utc:%Y-%m-%d}"
            found.append(Verdict(BAD, text, "have it renewed; is this computer's clock right?"))
        elif one.not_valid_before_utc > now:
            text = f"{name!r} begins on {one.not_valid_before_utc:%Y-%m-%d}"
            found.append(Verdict(BAD, text, "wait; is this computer's clock right?"))
    return found


def objections(certificate: x509.Certificate) -> list[Verdict]:
    """What a camera has against one certificate; dates and sizes are said elsewhere."""
    item = Item(formats.CERTIFICATE, "X.509", formats.DER, certificate)
    dated = certificate.not_valid_before_utc
    found = camera.verdicts(Content((item,), formats.DER, 0), now=dated)
    name = text_of(certificate.subject)
    return [
        Verdict(one.level, f"{name!r}: {one.text}", one.remedy)
        for one in found
        if one.level == BAD
    ]


def _where(certificate: x509.Certificate) -> str:
    urls = issuer_urls(certificate)
    return f"its issuer is said to be at {urls[0]}" if urls else "ask whoever runs the server"


# -- OpenSSL's word ------------------------------------------------------------------------


def _verify_by_openssl(path: tuple[x509.Certificate, ...], now: datetime.datetime) -> None:
    """Let OpenSSL check signatures, dates, path lengths and constraints of the way."""
    load: Callable[[x509.Certificate], crypto.X509] = crypto.X509.from_cryptography
    store = crypto.X509Store()
    store.add_cert(load(path[-1]))
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    store.set_time(now.replace(tzinfo=None))
    between = [load(one) for one in path[1:-1]]
    context = crypto.X509StoreContext(store, load(path[0]), chain=between)
    try:
        context.verify_certificate()
    except crypto.X509StoreContextError as error:
        raise CredentialError(f"the chain does not verify: {error}") from error


def to_der(certificate: x509.Certificate) -> bytes:
    """Return what goes onto the camera."""
    return certificate.public_bytes(Encoding.DER)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
