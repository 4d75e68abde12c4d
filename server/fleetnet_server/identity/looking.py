"""Looking at a server's certificates without trusting them, and reading stores of roots."""

import importlib
import select
import socket
import ssl
import time
import warnings
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from fleetnet.errors import CredentialError, HandshakeTimeout, LinkError, Unreachable
from fleetnet_server.identity import formats

# A camera offers these; old and weak ones too, as this is about saying what is there.
_CIPHERS = b"ALL:COMPLEMENTOFALL:!aNULL:!eNULL:@SECLEVEL=0"
_END = b"-----END CERTIFICATE-----"
_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


class Look(NamedTuple):
    """What a server showed.

    Attributes:
        chain: as it was sent, the leaf first.
        version: "TLSv1.3" and the like. cipher: OpenSSL's name, "" when the handshake failed.
        note: why the handshake did not end, where it did not ("" else); the chain is complete.
    """

    chain: list[x509.Certificate]
    version: str
    cipher: str
    note: str = ""


def look_at(host: str, port: int, name: str | None = None, timeout_s: float = 10.0) -> Look:
    """Shake hands without verifying anything, and return the certificates. Sends no data.

    Args:
        name: for SNI; None: ``host``, unless it is an address.

    Raises:
        Unreachable: no such host, nobody listens. HandshakeTimeout: it says nothing.
        LinkError: it does not speak TLS. CredentialError: it showed no certificate.
    """
    where = f"{host}:{port}"
    deadline = time.monotonic() + timeout_s
    try:
        sock = socket.create_connection((host, port), timeout_s)
    except TimeoutError:
        raise Unreachable(f"{where} does not answer: a firewall, or another address?") from None
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Unreachable(
            f"{where} cannot be reached: {reason}: is the server running, are host and port right?"
        ) from error
    with sock:
        connection = _client(sock, name or host)
        note = _shake_hands(connection, sock, deadline, where)
        chain = connection.get_peer_cert_chain(as_cryptography=True)
        if not chain:
            raise _no_certificate(where, note)
        _check(chain, where)
        version = connection.get_protocol_version_name()
        return Look(list(chain), version, connection.get_cipher_name() or "", note)


def _client(sock: socket.socket, name: str) -> SSL.Connection:
    context = SSL.Context(SSL.TLS_METHOD)
    # It looks at what a server shows, says so, and sends nothing.
    context.set_verify(SSL.VERIFY_NONE)  # nosemgrep: verify-off
    context.set_cipher_list(_CIPHERS)
    sock.setblocking(False)
    connection = SSL.Connection(context, sock)
    connection.set_connect_state()
    # RFC 6066 section 3 allows no addresses there.
    if not is_address(name):
        connection.set_tlsext_host_name(name.encode() if name.isascii() else name.encode("idna"))
    return connection


def _shake_hands(
    connection: SSL.Connection, sock: socket.socket, deadline: float, where: str
) -> str:
    """Go on until it ends; return why it failed, or ""."""
    while True:
        try:
            connection.do_handshake()
            return ""
        except SSL.WantReadError:
            ready, want = [sock], "read"
        except SSL.WantWriteError:
            ready, want = [sock], "write"
        except SSL.SysCallError as error:
            return f"it hung up ({error.args[-1]})"
        except SSL.Error as error:
            reasons = [each[-1] for each in error.args[0]] if error.args else []
            return ", ".join(reasons) or "the handshake failed"
        left = deadline - time.monotonic()
        found = select.select(
            ready if want == "read" else [], ready if want == "write" else [], [], max(left, 0)
        )
        if not any(found):
            raise HandshakeTimeout(
                f"{where} accepts the connection and says nothing: is TLS served there?"
            )


def _check(chain: list[x509.Certificate], where: str) -> None:
    try:
        for one in chain:
            formats.check_readable(one)
    except formats.UNREADABLE as error:
        text = f"{where} sends a certificate that cannot be read: {error}"
        raise CredentialError(text) from error


def _no_certificate(where: str, note: str) -> Exception:
    if "wrong version number" in note or "packet length too long" in note or "http" in note:
        return LinkError(f"{where} does not speak TLS: is it another service's port?")
    if "alert" in note:
        return CredentialError(
            f"{where} refused the handshake ({note}): it may want another name (--name) or know "
            "its peers by pre-shared keys alone"
        )
    return LinkError(f"{where} showed no certificate: {note or 'it uses none'}")


def is_address(host: str) -> bool:
    """Whether it is an IP address, not a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
            return True
        except OSError:
            continue
    return False


# -- stores --------------------------------------------------------------------------------


def read_store(which: str) -> list[x509.Certificate]:
    """Return the certificates of a store.

    Args:
        which: "system", "certifi", or a file with certificates, PEM or DER.

    Raises:
        CredentialError: certifi is not installed; the file cannot be read or holds none.
    """
    with warnings.catch_warnings():
        # Stores hold roots of the nineties that cryptography grumbles about.
        warnings.simplefilter("ignore")
        return _read_store(which)


def _read_store(which: str) -> list[x509.Certificate]:
    if which == "system":
        return _system_store()
    if which == "certifi":
        try:
            which = importlib.import_module("certifi").where()
        except ImportError:
            raise CredentialError(
                "certifi is not installed: pip install certifi, or --store system"
            ) from None
    found = formats.read_file(Path(which)).of(formats.CERTIFICATE)
    if not found:
        raise CredentialError(f"{which} holds no certificate: name a file of roots")
    return [item.value for item in found]


def _system_store() -> list[x509.Certificate]:
    """Return what this machine trusts; [] when it has no store."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    found: dict[bytes, x509.Certificate] = {}
    for der in context.get_ca_certs(binary_form=True):
        _keep(found, der)
    paths = ssl.get_default_verify_paths()
    files = [Path(path) for path in (paths.cafile, *_FILES) if path]
    if not found and paths.capath:
        files += sorted(Path(paths.capath).glob("*.pem"))
    if found:
        files = []
    for path in files:
        try:
            blocks = path.read_bytes().split(_END)
        except OSError:
            continue
        for block in blocks:
            _keep_pem(found, block + _END)
    return list(found.values())


def _keep_pem(found: dict[bytes, x509.Certificate], block: bytes) -> None:
    try:
        der = x509.load_pem_x509_certificate(block).public_bytes(Encoding.DER)
    except ValueError:
        return
    _keep(found, der)


def _keep(found: dict[bytes, x509.Certificate], der: bytes) -> None:
    try:
        one = x509.load_der_x509_certificate(der)
        formats.check_readable(one)
        found.setdefault(der, one)
    except formats.UNREADABLE:
        return  # a root of 1990 with a negative serial number: nobody's anchor any more
