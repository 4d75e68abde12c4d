"""A device that has a pre-shared key in the place of a certificate; loaded only then.

config.json: {"psk": {"identity": "cam-1.1", "key": "16 or 32 bytes in hexadecimal"}, ...}, which
`fleetnet psk add NAME --bundle` writes.
"""

from fleetnet.errors import CredentialError, Unsupported
from fleetnet.ports import port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet.ports.cpython import Context


def context(psk: "dict[str, str]", datagram: bool) -> "Context":
    """Return a client context for the key of a bundle.

    Raises:
        CredentialError: it is no such key. Unsupported: this firmware has no pre-shared keys.
    """
    try:
        identity, key = psk["identity"], bytes.fromhex(psk["key"])
    except (KeyError, TypeError, ValueError):
        identity, key = "", b""
    # A short one is open to whoever records one handshake (RFC 9257 section 4.2).
    if not identity or len(key) not in (16, 32):
        raise CredentialError(
            'config.json: "psk" is {"identity": text, "key": 16 or 32 bytes in hexadecimal}: '
            "`fleetnet psk add NAME --bundle` writes it"
        )
    try:
        return port.client_context(datagram=datagram, psk=(identity, key))
    except Unsupported as error:
        raise Unsupported(
            "%s: `fleetnet device add` makes a bundle with a certificate" % error
        )
