"""TLS and DTLS contexts for CPython, on the OpenSSL that the cryptography wheel carries.

One SSL_CTX serves every connection of its kind. DTLS is pinned to 1.2: a newer wheel
must not change the handshake, and with it the cookie code, by itself.

Sources: OpenSSL manual SSL_CTX_set_options(3), SSL_CTX_set_mode(3); RFC 9325.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

from fleetnet.errors import CredentialError
from fleetnet.ports import openssl_callbacks as callbacks
from fleetnet.ports import openssl_ciphers as ciphers_of
from fleetnet.ports.openssl_callbacks import FindKey, Identity
from fleetnet.ports.openssl_credentials import Source, present, trust

if TYPE_CHECKING:
    import socket

    from fleetnet.ports.cpython_sockets import SecureSocket

_lib = Binding.lib
_ffi = Binding.ffi

CERT_NONE = 0
CERT_OPTIONAL = 1
CERT_REQUIRED = 2

_DTLS_1_2 = 0xFEFD

# What mbedTLS knows. OpenSSL's own list begins with a post-quantum group that no device has
# and that makes a ClientHello of 1,502 B out of 266 (measured with 4.0.3).
_GROUPS = b"P-256:X25519:P-384"

_OPTIONS = (
    SSL.OP_NO_COMPRESSION
    | SSL.OP_NO_RENEGOTIATION
    | SSL.OP_NO_TICKET
    | SSL.OP_NO_QUERY_MTU
    | SSL.OP_CIPHER_SERVER_PREFERENCE
)


@_ffi.callback("int(SSL *, unsigned char *, unsigned int *)")  # type: ignore[untyped-decorator]
def _make_cookie(_ssl: Any, _out: Any, length: Any) -> int:
    length[0] = 0
    return 1


@_ffi.callback("int(SSL *, const unsigned char *, unsigned int)")  # type: ignore[untyped-decorator]
def _check_cookie(_ssl: Any, _cookie: Any, _length: int) -> int:
    # openssl_dtls.py has checked the cookie before it made the SSL object.
    return 1


class Context:
    """An OpenSSL.SSL.Context with what fleetnet must remember about it.

    Attributes:
        native: the OpenSSL.SSL.Context.
        datagram: DTLS; server_side.
        mode: "insecure", "verified" (a chain to an anchor), "pinned" or "psk".
        verified: every peer that gets through is authenticated.
        shares_keys: peers may be known by a pre-shared key; in mode "verified" beside those
            that show a certificate.
        pins, own_key, find_key: what openssl_callbacks.py goes by.
    """

    def __init__(
        self,
        datagram: bool,
        server_side: bool,
        mode: str = "insecure",
        shares_keys: bool = False,
    ):
        self.datagram = datagram
        self.server_side = server_side
        self.mode = mode
        self.shares_keys = shares_keys or mode == "psk"
        self.verified = mode != "insecure"
        self.pins: frozenset[bytes] = frozenset()
        self.own_key: tuple[bytes, bytes] | None = None
        self.find_key: FindKey | None = None
        self.has_anchors = False
        self._verify_mode = CERT_NONE
        self._versions = (True, False)  # whether those up to (D)TLS 1.2, and TLS 1.3, are on
        self.native = SSL.Context(SSL.DTLS_METHOD if datagram else SSL.TLS_METHOD)
        _lib.SSL_CTX_set1_curves_list(self.native._context, _GROUPS)
        self.native.set_options(_OPTIONS)
        # No resumption: devices cannot, and a cached session would outlive a revocation.
        self.native.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        # An idle connection gives its record buffers back: 66 KiB becomes 38 (TLS 1.3).
        self.native.set_mode(getattr(_lib, "SSL_MODE_RELEASE_BUFFERS", 0x10))
        if mode == "psk":
            self.set_ciphers(ciphers_of.PSK)
        else:
            names = ciphers_of.DTLS if datagram else ciphers_of.TLS
            self.set_ciphers(names + ciphers_of.PSK if self.shares_keys else names)
        if datagram and server_side:
            self._accept_checked_cookies()

    def _accept_checked_cookies(self) -> None:
        pointer = self.native._context
        _lib.SSL_CTX_set_cookie_generate_cb(pointer, _make_cookie)
        _lib.SSL_CTX_set_cookie_verify_cb(pointer, _check_cookie)

    def limit_version(self, version: int) -> None:
        """Allow nothing above ``version`` (OpenSSL.SSL.TLS1_2_VERSION), for tests of boards."""
        self.native.set_max_proto_version(version)

    # -- verify_mode -------------------------------------------------------------------

    @property
    def verify_mode(self) -> int:
        """CERT_NONE 0, CERT_OPTIONAL 1, CERT_REQUIRED 2; can be set.

        A client takes CERT_OPTIONAL for CERT_REQUIRED, the stricter reading. A server asks
        under CERT_OPTIONAL, and refuses a certificate that is given and does not verify.
        """
        return CERT_REQUIRED if self.mode == "pinned" else self._verify_mode

    @verify_mode.setter
    def verify_mode(self, number: int) -> None:
        if self.mode in ("pinned", "psk"):
            raise CredentialError(f"a {self.mode} context has no verify_mode to choose")
        if self.shares_keys and number != CERT_REQUIRED:
            raise CredentialError("beside psk= a certificate is required of everybody else")
        if number not in (CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED):
            raise CredentialError("verify_mode is 0 (none), 1 (optional) or 2 (required)")
        if number and not self.has_anchors:
            raise CredentialError("verifying needs a trust anchor: make the context with ca=")
        if number == CERT_OPTIONAL and not self.server_side:
            number = CERT_REQUIRED
        self._verify_mode = number
        self.verified = number == CERT_REQUIRED
        self.mode = "verified" if self.verified else "insecure"
        flags = SSL.VERIFY_PEER if number else SSL.VERIFY_NONE
        if self.server_side and self.verified:
            flags |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        self.native.set_verify(flags)
        if self.server_side and number:
            callbacks.note_dates(self.native, flags)

    # -- cipher suites -----------------------------------------------------------------

    def get_ciphers(self) -> list[str]:
        """Return the suites that this context offers, best first, as mbedTLS names them."""
        ssl = _lib.SSL_new(self.native._context)
        names: list[str] = []
        while (pointer := _lib.SSL_get_cipher_list(ssl, len(names))) != _ffi.NULL:
            names.append(ciphers_of.to_iana(_ffi.string(pointer).decode()))
        _lib.SSL_free(ssl)
        return [name for name in names if self._versions[name.startswith("TLS1-3-")]]

    def set_ciphers(self, names: Iterable[str]) -> None:
        """Offer only these suites, best first. A version without any is not offered.

        Raises:
            CredentialError: a name that is not offered here, or of no use in this context.
        """
        names = list(names)
        older, newer = ciphers_of.to_openssl(names)
        for name in names:
            if not self.shares_keys if ciphers_of.is_psk(name) else self.mode == "psk":
                raise CredentialError(f"{name} is of no use in a context of mode {self.mode}")
        if self.shares_keys and not any(map(ciphers_of.is_psk, names)):
            raise CredentialError("psk= needs a suite of pre-shared keys: see get_ciphers()")
        if not older and (self.datagram or self.mode == "psk"):
            raise CredentialError("no suite of (D)TLS 1.2 was given, and it is the only version")
        native = self.native
        if older:
            native.set_cipher_list(":".join(older).encode())
        if newer:
            native.set_tls13_ciphersuites(":".join(newer).encode())
        if self.datagram:
            native.set_min_proto_version(_DTLS_1_2)
            native.set_max_proto_version(_DTLS_1_2)
            return
        self._versions = (bool(older), bool(newer))
        native.set_min_proto_version(SSL.TLS1_2_VERSION if older else SSL.TLS1_3_VERSION)
        # Zero: the newest that OpenSSL has.
        native.set_max_proto_version(0 if newer else SSL.TLS1_2_VERSION)

    def wrap_socket(
        self,
        sock: "socket.socket",
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        server_hostname: str | None = None,
        client_id: bytes | None = None,
    ) -> "SecureSocket":
        """Return a SecureSocket over a connected socket, which it takes over.

        Args:
            server_side: must be what the context is for.
            client_id: taken for MicroPython's sake; the cookie here is bound to the address.

        Raises:
            CredentialError, and with do_handshake_on_connect what do_handshake raises.
        """
        from fleetnet.ports.cpython_sockets import wrap

        return wrap(self, sock, server_side, do_handshake_on_connect, server_hostname)


def _mode(pins: object, psk: object, others: Mapping[str, object]) -> str:
    """Return how the peer is known; refuse two ways at once."""
    names = [name for name, value in others.items() if value]
    if psk is not None and (names or pins is not None):
        raise CredentialError(
            f"psk= takes the place of {', '.join(names) or 'pins'}: pass one; a server that takes "
            "both is given cert=, key=, ca= and psk="
        )
    if (pins is not None) + ("ca" in names) + ("insecure" in names) > 1:
        raise CredentialError("name the server by one of ca=, pins= and insecure=, not by two")
    return "psk" if psk is not None else "pinned" if pins is not None else "insecure"


def client_context(
    ca: Source | Sequence[Source] | None = None,
    cert: Source | None = None,
    key: Source | None = None,
    *,
    datagram: bool = False,
    insecure: bool = False,
    pins: Iterable[Identity] | None = None,
    psk: tuple[Identity, bytes] | None = None,
    ciphers: Iterable[str] | None = None,
) -> Context:
    """See fleetnet.streams.client_context; without ``ca`` the system's store is trusted."""
    given = {"ca": ca is not None, "cert": cert, "key": key, "insecure": insecure}
    mode = _mode(pins, psk, given)
    context = Context(datagram, False, mode)
    if ciphers is not None:
        context.set_ciphers(ciphers)
    if psk is not None:
        context.own_key = callbacks.read_client_key(psk)
        callbacks.share_keys(context.native, False)
    elif pins is not None:
        context.pins = callbacks.read_pins(pins)
        callbacks.check_pins(context.native)
    elif not insecure:
        if ca is None:
            context.native.set_default_verify_paths()
        else:
            trust(context.native, ca, announce=False)
        context.has_anchors = True
        context.verify_mode = CERT_REQUIRED
    if cert is not None or key is not None:
        present(context.native, cert, key)
    return context


def server_context(
    cert: Source | None = None,
    key: Source | None = None,
    ca: Source | Sequence[Source] | None = None,
    *,
    datagram: bool = False,
    psk: "Mapping[Identity, bytes] | FindKey | None" = None,
    ciphers: Iterable[str] | None = None,
) -> Context:
    """See fleetnet.streams.server_context; ``ca`` makes a client certificate mandatory.

    For one that may be left out set ``verify_mode`` to CERT_OPTIONAL afterwards. With all of
    them and ``psk`` a client is known by its certificate or, in (D)TLS 1.2, by its key.
    """
    given = {"cert": cert, "key": key, "ca": ca is not None}
    takes_both = psk is not None and all(given.values())
    mode = _mode(None, None if takes_both else psk, given)
    context = Context(datagram, True, mode, takes_both)
    if ciphers is not None:
        context.set_ciphers(ciphers)
    if psk is not None:
        context.find_key = callbacks.read_server_keys(psk)
        callbacks.share_keys(context.native, True)
    if mode == "psk":
        return context
    if cert is None and key is None:
        raise CredentialError("a server needs cert= and key=, or psk=")
    if ca is not None:
        trust(context.native, ca, announce=True)
        context.has_anchors = True
        context.verify_mode = CERT_REQUIRED
    present(context.native, cert, key)
    return context
