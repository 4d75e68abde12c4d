"""A fleet's folder: its CA, its server's pair, who may read the keys, and what runs."""

import socket
from pathlib import Path

from cryptography import x509

from fleetnet.errors import CredentialError, FleetError
from fleetnet_server.config import Settings
from fleetnet_server.doctor import clock, network, registry
from fleetnet_server.doctor.findings import BAD, OK, WARN, Finding
from fleetnet_server.doctor.handshake import WRONG_ANCHOR, diagnose
from fleetnet_server.errors import FolderError
from fleetnet_server.identity import expiry, formats
from fleetnet_server.identity.anchoring import covers
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.crl import revoked_serials
from fleetnet_server.identity.generations import COPY_KEYS, has_authority
from fleetnet_server.identity.inspecting import hosts_of
from fleetnet_server.identity.looking import look_at
from fleetnet_server.identity.permissions import check_folder, close_it, loose_keys
from fleetnet_server.identity.server_keys import ServerKeys, parts_there
from fleetnet_server.served import find_server

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


def examine(folder: Path, settings: Settings) -> list[Finding]:
    """Look at everything that can be looked at on the server itself."""
    return [*examine_folder(folder, settings), *_of_ports(folder, settings)]


def examine_folder(folder: Path, settings: Settings) -> list[Finding]:
    """Look at clock, CA, server's pair, permissions and store; not at what runs."""
    authority, findings = _authority(folder, settings)
    made = clock.made_at(anchors_of(authority)) if authority else None
    at = clock.check(made)
    has_clock = at.level == OK
    findings = [at, *findings, *_of_permissions(folder)]
    if authority is not None:
        findings += _of_expiry(folder, authority) if has_clock else []
        findings += _of_server(folder, settings, authority, has_clock)
        findings += _of_lists(folder, authority)
    with registry.opened(folder, settings) as (store, found):
        findings.append(found)
        if store is not None:
            findings += registry.overview(store)
    return findings + _of_database(folder, settings)


def _of_database(folder: Path, settings: Settings) -> list[Finding]:
    """What a store that is PostgreSQL has beside its layout: rights, safety, room."""
    place = settings.store_place(folder)
    if isinstance(place, Path):
        return []
    from fleetnet_server.doctor import database

    return database.examine(place)[1:]


def anchors_of(authority: Authority) -> list[x509.Certificate]:
    """Return the roots that devices trust."""
    return [x509.load_der_x509_certificate(der) for der in authority.anchors]


def known_to(authority: Authority) -> list[x509.Certificate]:
    """Return the roots and the issuing CAs."""
    return [x509.load_der_x509_certificate(der) for der in authority.client_anchors]


def _authority(folder: Path, settings: Settings) -> tuple[Authority | None, list[Finding]]:
    try:
        authority = Authority.load(folder)
    except CredentialError as error:
        if isinstance(error.__cause__, OSError):
            return None, [Finding("ca", BAD, str(error), "run this as the owner of the folder")]
        if has_authority(folder):
            return None, [Finding("ca", BAD, str(error), COPY_KEYS)]
        # Whoever has devices would lock them out with a new CA.
        is_new = registry.has_no_device(folder, settings)
        remedy = "`fleetnet ca init`, or `fleetnet ca import`" if is_new else COPY_KEYS
        text = f"{folder} has no certificate authority"
        return None, [Finding("ca", BAD, text, remedy)]
    text = f"generation {authority.generation} signs; {len(authority.anchors)} trusted"
    return authority, [Finding("ca", OK, text)]


def _of_permissions(folder: Path) -> list[Finding]:
    """BAD is what the server does not start with; a mode that only a folder guards is WARN."""
    try:
        check_folder(folder)
    except FolderError as error:
        text, _, remedy = str(error).partition(": ")
        return [Finding("folder", BAD, text, remedy)]
    loose = loose_keys(folder)
    if loose:
        path, mode = loose[0]
        more = f" and {len(loose) - 1} more" if len(loose) > 1 else ""
        text = f"{path}{more}: only a folder keeps others from reading it (mode {mode:o})"
        return [Finding("folder", WARN, text, f"`{close_it(folder)}`")]
    return [Finding("folder", OK, "private keys are their owner's alone")]


def _of_expiry(folder: Path, authority: Authority) -> list[Finding]:
    try:
        keys = ServerKeys(folder)
    except CredentialError:
        keys = None  # said of the server
    now_ms = clock.now_ms()
    remedies = {expiry.CA: "`fleetnet ca rotate`", expiry.SERVER: "`fleetnet cert server`"}
    findings = []
    for one in expiry.expiries(now_ms, (), keys, authority):
        if one.level == expiry.OK:
            continue
        is_over = one.level == expiry.EXPIRED
        days = (one.not_after_ms - now_ms) // 86_400_000
        what = "has expired" if is_over else f"ends in {days} days"
        check = "ca" if one.kind == expiry.CA else "server"
        text = f"the certificate of {one.name} {what}"
        level = BAD if is_over else WARN
        findings.append(Finding(check, level, text, remedies[one.kind]))
    return findings


def _of_server(
    folder: Path, settings: Settings, authority: Authority, has_clock: bool
) -> list[Finding]:
    """The pair on the disk, as a device would judge it."""
    again = "`fleetnet cert server` makes a new certificate"
    wrong = _of_form(folder)
    if wrong:
        return wrong
    try:
        keys = ServerKeys(folder)
    except CredentialError as error:
        if isinstance(error.__cause__, PermissionError):
            again = "run this as the owner of the folder"
        elif not (folder / "server" / "key.der").exists():
            again = COPY_KEYS  # a certificate needs its key
            if not parts_there(folder) and registry.has_no_device(folder, settings):
                again = "`fleetnet ca init` makes it; or " + COPY_KEYS
        return [Finding("server", BAD, str(error), again)]
    chain = [item.value for item in formats.read(keys.chain, "chain.pem").items]
    findings = [
        one._replace(check="server")
        for one in diagnose(
            chain, settings.host, anchors_of(authority), known_to(authority), has_clock
        )
        if "has expired" not in one.text and " ends on " not in one.text  # said above
    ]
    if any(one.text.startswith(WRONG_ANCHOR) for one in findings):
        text = f"{folder / 'server' / 'cert.der'} is not signed by the CA in {folder / 'ca'}"
        return [Finding("server", BAD, text, again)]
    if findings:
        return findings
    text = f"certificate for {', '.join(hosts_of(chain[0]))}"
    return [Finding("server", OK, text)]


def _of_lists(folder: Path, authority: Authority) -> list[Finding]:
    """What imported CAs revoke; the server does not start with a list that it cannot believe."""
    try:
        revoked_serials(folder, authority.client_anchors)
    except CredentialError as error:
        text, _, _ = str(error).partition(": `fleetnet ca import`")
        remedy = "`fleetnet ca import` its CA, or remove the file: the server does not start"
        return [Finding("ca", BAD, text, remedy)]
    return []


def _of_form(folder: Path) -> list[Finding]:
    """PEM where this program keeps DER."""
    found = []
    for name in ("cert.der", "key.der"):
        path = folder / "server" / name
        try:
            content = formats.read_file(path)
        except CredentialError:
            continue
        if content.encoding == formats.PEM:
            remedy = f"`fleetnet cert convert {path} NEW.der --camera`, then put NEW.der there"
            found.append(Finding("server", BAD, f"{path} is PEM, where DER is needed", remedy))
    return found


# -- what runs -----------------------------------------------------------------------------


def _of_ports(folder: Path, settings: Settings) -> list[Finding]:
    """Does the server run, and does it present what the folder holds?"""
    host = _ANYWHERE.get(settings.bind, settings.bind)
    server = find_server(folder)
    if server is not None:  # its own word, where the settings have changed or say 0
        settings = settings.model_copy(update=server.ports)
    if not settings.tls_port or not settings.dtls_port:
        return [Finding("tcp", WARN, "the ports are chosen when the server starts",
                        "set tls_port and dtls_port in fleetnet.toml")]  # fmt: skip
    tcp = network.check_tcp(host, settings.tls_port, 3)
    udp = network.check_udp(host, settings.dtls_port)
    if tcp.level != OK and udp.level != OK:
        text = f"the server does not run: ports {settings.tls_port} (TCP) and "
        text += f"{settings.dtls_port} (UDP) are closed"
        if is_taken(host, settings.dtls_port, socket.SOCK_DGRAM):
            remedy = "another program has the UDP port: stop it, or choose another dtls_port"
            return [tcp, Finding("udp", BAD, udp.text, remedy)]
        return [Finding("tcp", WARN, text, "start it: `fleetnet serve`")]
    findings = [tcp, udp]
    if tcp.level == OK:
        findings += _of_presented(folder, host, settings)
    return findings


def is_taken(host: str, port: int, kind: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as sock:
        try:
            sock.bind((host, port))
        except OSError:
            return True
    return False


def _of_presented(folder: Path, host: str, settings: Settings) -> list[Finding]:
    try:
        shown = look_at(host, settings.tls_port, settings.host, 5).chain[0]
        keys = ServerKeys(folder)
    except FleetError as error:
        remedy = f"another program may have port {settings.tls_port}: stop it, or choose another"
        return [Finding("tls", BAD, str(error), remedy)]
    if shown == x509.load_der_x509_certificate(keys.cert):
        return [Finding("tls", OK, "the server presents this folder's certificate")]
    if covers(shown, settings.host):
        text = "the running server presents another certificate than this folder's"
    else:
        text = f"what listens on port {settings.tls_port} is not this fleet's server"
    remedy = "restart it, or stop what else runs there: `fleetnet serve`"
    return [Finding("tls", BAD, text, remedy)]
