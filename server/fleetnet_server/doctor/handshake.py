"""What a server shows in the handshake, held against what devices trust."""

import datetime
from collections.abc import Sequence

from cryptography import x509

from fleetnet.errors import FleetError
from fleetnet_server.doctor.findings import BAD, OK, WARN, Finding
from fleetnet_server.identity import anchoring, expiry
from fleetnet_server.identity.inspecting import certificate_key_name, hosts_of, pin_of, text_of
from fleetnet_server.identity.looking import look_at

_NAMED = 4
WRONG_ANCHOR = "wrong anchor"
_RENEW = "renew it: `fleetnet cert server`"


def examine(
    host: str,
    port: int,
    name: str,
    anchors: Sequence[x509.Certificate],
    *,
    known: Sequence[x509.Certificate] = (),
    timeout_s: float = 10.0,
    has_clock: bool = True,
) -> list[Finding]:
    """Look at the chain that a TLS server sends.

    Args:
        name: what the certificate has to be for.
        anchors: what the device trusts.
        known: CAs that are known besides, to tell a missing intermediate from a wrong anchor.
    """
    try:
        look = look_at(host, port, name, timeout_s)
    except FleetError as error:
        remedy = "is it fleetnet's port, and not a proxy's?"
        return [Finding("tls", BAD, str(error), remedy)]
    findings = diagnose(look.chain, name, anchors, known, has_clock)
    if findings:
        return findings
    leaf = look.chain[0]
    text = (
        f"{len(look.chain)} certificates, {certificate_key_name(leaf)}, for {name}, "
        f"until {leaf.not_valid_after_utc:%Y-%m-%d}, lead to the trust anchor"
    )
    return [Finding("chain", OK, text)]


def diagnose(
    chain: Sequence[x509.Certificate],
    name: str,
    anchors: Sequence[x509.Certificate],
    known: Sequence[x509.Certificate] = (),
    has_clock: bool = True,
) -> list[Finding]:
    """Say why a device that trusts ``anchors`` refuses a chain; [] when it does not."""
    findings = []
    walked = next((way for one in anchors if (way := anchoring.walk(chain, one))), None)
    if walked is None:
        findings.append(_of_trust(chain, anchors, known))
    if has_clock:
        findings += _of_dates(walked or tuple(chain))
    if not anchoring.covers(chain[0], name):
        names = ", ".join(hosts_of(chain[0])) or "no name at all"
        text = f"{name!r} is not in the server's certificate (SAN), which is for {names}"
        remedy = (
            f"`fleetnet cert server --host {name}`, or set server_hostname in config.json to one "
            "of its names"
        )
        findings.append(Finding("chain", BAD, text, remedy))
    for one in walked or ():
        bad = anchoring.objections(one)
        findings += [Finding("chain", BAD, each.text, each.remedy) for each in bad]
    return findings


def _of_trust(
    chain: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
    known: Sequence[x509.Certificate],
) -> Finding:
    """The chain leads to none of the anchors: why?"""
    trusted = _list(anchors)
    if chain[0] in anchors:
        text = (
            "the anchor is the server's own certificate, which a CA signed: mbedTLS takes a leaf "
            "for an anchor only when it signed itself"
        )
        remedy = "trust its root: `fleetnet anchor HOST --out ca.der`; or pin its key"
        return Finding("chain", BAD, text, remedy)
    way = anchoring.find_way(chain, [*anchors, *known])
    last = way.certificates[-1]
    if last in anchors and way.borrowed:
        missing = ", ".join(repr(text_of(one.subject)) for one in way.borrowed)
        text = f"the intermediate is missing: the server does not send {missing}"
        remedy = "have the server send its whole chain, leaf first: `fleetnet cert server`"
        return Finding("chain", BAD, text, remedy)
    if last in anchors:
        text = "the server sends its chain in the wrong order: MicroPython alone refuses that"
        return Finding("chain", BAD, text, "have it sent leaf first, each followed by its issuer")
    if chain[0].subject == chain[0].issuer:
        text = f"the server's certificate is self-signed, and the device trusts {trusted}"
        remedy = "is it the right server? Then give the device its certificate: `fleetnet anchor`"
        return Finding("chain", BAD, text, remedy)
    if len(chain) == 1:
        text = (
            f"the server sends its certificate alone, and its issuer {text_of(last.issuer)!r} is "
            f"not what the device trusts ({trusted}): the intermediate is missing, or the anchor "
            "is another CA's"
        )
        remedy = "have the server send its whole chain; then compare with `fleetnet anchor HOST`"
        return Finding("chain", BAD, text, remedy)
    if last in known:
        # The server's own folder says so: this is no stranger, but the bundle is of before.
        text = f"{WRONG_ANCHOR}: the bundle trusts {trusted}, and this fleet's CA is another by now"
        return Finding("chain", BAD, text, "`fleetnet device add NAME --again` makes a new bundle")
    top = last.subject if last.subject == last.issuer else last.issuer
    leads = f"the server's chain leads to {text_of(top)!r}"
    text = f"{WRONG_ANCHOR}: {leads}, the device trusts {trusted}"
    remedy = "is it the right server? Then take its anchor: `fleetnet anchor HOST --out ca.der`"
    return Finding("chain", BAD, text, remedy)


def _list(anchors: Sequence[x509.Certificate]) -> str:
    if len(anchors) > _NAMED:
        return f"the {len(anchors)} roots of a store"
    return ", ".join(repr(text_of(one.subject)) for one in anchors) or "nothing"


def _of_dates(chain: Sequence[x509.Certificate]) -> list[Finding]:
    now = datetime.datetime.now(datetime.UTC)
    findings = []
    for place, one in enumerate(chain):
        what = "the server's certificate" if place == 0 else f"its CA {text_of(one.subject)!r}"
        begin, end = one.not_valid_before_utc, one.not_valid_after_utc
        if end < now:
            text = f"{what} has expired: it ended on {end:%Y-%m-%d}"
            findings.append(Finding("chain", BAD, text, _RENEW if place == 0 else "`fleetnet ca "
                                    "rotate`"))  # fmt: skip
        elif begin > now:
            text = f"{what} is not yet valid: it begins on {begin:%Y-%m-%d %H:%M} UTC"
            remedy = "wait, or correct the clock of who made it"
            findings.append(Finding("chain", BAD, text, remedy))
        elif place == 0:
            kind = expiry.SERVER
            level = expiry.level(kind, *(int(at.timestamp() * 1000) for at in (begin, end, now)))
            if level != expiry.OK:
                text = f"{what} ends on {end:%Y-%m-%d}"
                findings.append(Finding("chain", WARN, text, _RENEW))
    return findings


def check_pins(chain: Sequence[x509.Certificate], pins: Sequence[str]) -> Finding | None:
    """Say when the server's key is none of the pinned ones; None: it is, or none is pinned."""
    if not pins or pin_of(chain[0].public_key()) in pins:
        return None
    text = "the server's public key is none of those pinned in the bundle"
    remedy = "a device without a date cannot come in: `fleetnet device renew NAME` brings the pins"
    return Finding("chain", WARN, text, remedy)
