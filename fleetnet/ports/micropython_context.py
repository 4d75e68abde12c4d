"""Contexts as fleetnet.streams hands them out: with verify_mode, cipher suites and sockets.

A device makes do with the smaller one of micropython_tls.py.
"""

import hashlib

from fleetnet import der
from fleetnet.errors import CredentialError, Unsupported
from fleetnet.ports import micropython_tls

CERT_NONE = 0
CERT_OPTIONAL = 1
CERT_REQUIRED = 2


def pins_of_leaf(ca):
    """Return the pin of an anchor that is a server's own certificate, issued by a CA; else None.

    mbedTLS takes such a leaf for an anchor only when it signed itself
    (x509_crt_check_ee_locally_trusted), so its key is what the server is known by.
    """
    if isinstance(ca, (list, tuple)):
        return None
    from fleetnet.ports.micropython_misuse import to_der

    try:
        certificate = to_der(micropython_tls.read_source(ca))
        info = der.spki(certificate)
        if der.is_issued_leaf(certificate) and der.algorithm(info) in (der.EC, der.RSA):
            return [hashlib.sha256(info).digest()]
    except (CredentialError, ValueError):
        pass  # loading it says what is wrong
    return None


class Context(micropython_tls.Context):
    """See micropython_tls.Context for its attributes."""

    @property
    def verify_mode(self):
        """CERT_NONE 0, CERT_OPTIONAL 1, CERT_REQUIRED 2; can be set.

        A client takes CERT_OPTIONAL for CERT_REQUIRED, the stricter reading. On a server it
        is Unsupported: mbedTLS would let a bad certificate pass.
        """
        return CERT_REQUIRED if self.mode in ("verified", "pinned") else CERT_NONE

    @verify_mode.setter
    def verify_mode(self, number):
        if self.mode in ("pinned", "psk"):
            raise CredentialError("a %s context has no verify_mode to choose" % self.mode)
        if number not in (CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED):
            raise CredentialError("verify_mode is 0 (none), 1 (optional) or 2 (required)")
        if number == CERT_OPTIONAL and self.server_side:
            raise Unsupported(
                "mbedTLS lets a bad certificate pass under CERT_OPTIONAL: use CERT_REQUIRED"
            )
        if number and not self.has_anchors:
            raise CredentialError("verifying needs a trust anchor: make the context with ca=")
        self.set_mode("verified" if number else "insecure")

    def get_ciphers(self):
        """Return the names of the cipher suites that this firmware has."""
        return self.native.get_ciphers()

    def set_ciphers(self, names):
        """Allow only these cipher suites, named as get_ciphers names them.

        Raises:
            CredentialError: a name that this firmware does not have, or of no use here.
        """
        from fleetnet.ports.micropython_modes import set_ciphers

        set_ciphers(self, names)

    def wrap_socket(
        self,
        sock,
        server_side=False,
        do_handshake_on_connect=True,
        server_hostname=None,
        client_id=None,
    ):
        """Return a SecureSocket over a connected socket, which it takes over.

        Args:
            server_side: must be what the context is for.
            client_id: DTLS server: bytes that name the client's address.

        Raises:
            CredentialError, and with do_handshake_on_connect what do_handshake raises.
        """
        from fleetnet.ports.micropython_sockets import wrap

        return wrap(self, sock, server_side, do_handshake_on_connect, server_hostname, client_id)


def full_client_context(ca=None, *args, **options):
    """As client_context; what it returns can do more, see Context."""
    pins = pins_of_leaf(ca) if ca and not options.get("pins") else None
    if pins:
        ca, options["pins"] = None, pins
    return micropython_tls.client_context(ca, *args, kind=Context, **options)
