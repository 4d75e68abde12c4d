"""wrap_socket in both of its historical forms, for programs that were written against them.

    ssl:  wrap_socket(sock, server_side, key, cert, cert_reqs, cadata, server_hostname,
                      do_handshake)
    ussl: wrap_socket(sock, server_side, keyfile, certfile, cert_reqs, ca_certs,
                      server_hostname, do_handshake), and by name psk_ident, psk_key

The positions are the same, so one function is both. It makes a context and wraps with it; a
program of today calls client_context or server_context, keeps the context, and calls its
wrap_socket.

    sock             connected (client) or accepted (server); MicroPython cannot ask whether it
                     blocks: call setblocking() or settimeout() of what is returned
    key, cert, cadata, or keyfile, certfile, ca_certs
                     path (str) or contents (bytes), DER, or PEM where the firmware can; a
                     list of anchors is several
    server_hostname  the name or address that the server's certificate must carry; SNI
    do_handshake     now, blocking; False: inside the first reads and writes
    psk_ident, psk_key
                     identity, and up to 32 B of key, in place of certificates
    datagram         (ours) sock is UDP and connected to its one peer: DTLS, client only

What ``cert_reqs`` means. The two documents contradict each other about OPTIONAL, so it is never
weaker here than either of them lets a caller believe:

                   client                               server
    CERT_NONE      encryption only: anybody may answer  asks no client for a certificate
                   (printed once)
    CERT_OPTIONAL  as CERT_REQUIRED                     asks; one that is shown must verify
                                                        (Unsupported on MicroPython, where
                                                        mbedTLS would let a bad one in)
    CERT_REQUIRED  certificate must lead to an anchor   every client must show one that does
                   and carry server_hostname

An anchor beside CERT_NONE would not be used, and is refused.

Sources: MicroPython docs/library/ssl.rst; ussl.rst of the ports that had PSK on the ESP32.
"""

from fleetnet.errors import CredentialError, Unsupported
from fleetnet.streams import client_context, server_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from fleetnet.ports.cpython_sockets import SecureSocket
    from fleetnet.ports.openssl_context import Context
    from fleetnet.streams import Source

CERT_NONE = 0
CERT_OPTIONAL = 1
CERT_REQUIRED = 2

_has_warned = False


def wrap_socket(
    sock: "socket.socket",
    server_side: bool = False,
    key: "Source | None" = None,
    cert: "Source | None" = None,
    cert_reqs: int = CERT_NONE,
    cadata: "Source | list[Source] | None" = None,
    server_hostname: "str | None" = None,
    do_handshake: bool = True,
    *,
    keyfile: "Source | None" = None,
    certfile: "Source | None" = None,
    ca_certs: "Source | list[Source] | None" = None,
    psk_ident: "str | bytes | None" = None,
    psk_key: "bytes | None" = None,
    datagram: bool = False,
) -> "SecureSocket":
    """Wrap a socket in TLS or DTLS; arguments and ``cert_reqs``: see the top of this module.

    Raises:
        CredentialError, Unsupported: the arguments; ``sock`` stays open.
        The TrustError family, Rejected, LinkClosed: the handshake.
    """
    cert = _one("cert", cert, "certfile", certfile)
    key = _one("key", key, "keyfile", keyfile)
    anchors = _one("cadata", cadata, "ca_certs", ca_certs)
    if datagram and server_side:
        raise Unsupported(
            "a DTLS server keeps its cookies in one context: make server_context(datagram=True) "
            "once and call its wrap_socket with client_id=, or use serve_dtls"
        )
    _check_certificates(cert, key, cert_reqs, anchors)
    if psk_ident is not None or psk_key is not None:
        if cert is not None or anchors is not None or cert_reqs != CERT_NONE:
            raise CredentialError("a pre-shared key takes the place of certificates: pass one")
        context = _by_shared_key(server_side, psk_ident, psk_key, datagram)
    elif server_side:
        context = _server(cert, key, cert_reqs, anchors)
    else:
        context = _client(cert, key, cert_reqs, anchors, datagram)
    return context.wrap_socket(sock, server_side, do_handshake, server_hostname)


def _one(name: str, value: "Any", older_name: str, older: "Any") -> "Any":
    """Return what was given under one of its two names."""
    if value is not None and older is not None:
        raise CredentialError(
            "%s and %s are the same argument: pass one of them" % (name, older_name)
        )
    return value if older is None else older


def _check_certificates(
    cert: "Source | None",
    key: "Source | None",
    cert_reqs: int,
    anchors: "Source | list[Source] | None",
) -> None:
    if cert_reqs not in (CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED):
        raise CredentialError("cert_reqs is CERT_NONE, CERT_OPTIONAL or CERT_REQUIRED")
    if (cert is None) != (key is None):
        raise CredentialError("a certificate and its key belong together: pass both, or neither")
    if anchors is not None and cert_reqs == CERT_NONE:
        raise CredentialError("the anchor would not be used: pass cert_reqs=CERT_REQUIRED")


def _by_shared_key(
    server_side: bool, identity: "str | bytes | None", key: "bytes | None", datagram: bool
) -> "Context":
    if identity is None or key is None:
        raise CredentialError("psk_ident and psk_key belong together: pass both")
    if server_side:
        return server_context(psk={identity: key}, datagram=datagram)
    return client_context(psk=(identity, key), datagram=datagram)


def _client(
    cert: "Source | None",
    key: "Source | None",
    cert_reqs: int,
    anchors: "Source | list[Source] | None",
    datagram: bool,
) -> "Context":
    global _has_warned
    if cert_reqs != CERT_NONE:
        return client_context(anchors, cert, key, datagram=datagram)
    if not _has_warned:
        _has_warned = True
        print(
            "fleetnet: wrap_socket with CERT_NONE encrypts but verifies nobody: "
            "pass cert_reqs=CERT_REQUIRED and an anchor"
        )
    return client_context(None, cert, key, datagram=datagram, insecure=True)


def _server(
    cert: "Source | None",
    key: "Source | None",
    cert_reqs: int,
    anchors: "Source | list[Source] | None",
) -> "Context":
    if cert is None:
        raise CredentialError("a server needs a certificate and its key, or a pre-shared key")
    if cert_reqs != CERT_NONE and anchors is None:
        raise CredentialError(
            "clients are to show a certificate: pass the anchor that it must lead to"
        )
    context = server_context(cert, key, anchors)
    if cert_reqs == CERT_OPTIONAL:
        context.verify_mode = CERT_OPTIONAL
    return context
