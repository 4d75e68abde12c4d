"""One OpenSSL context for all devices of a process that trust the same CA.

A context of its own costs a device 27 KB and 0.7 ms. SSL_new(3) copies certificate and key from
the context, and what the context gets afterwards changes nothing for connections that exist:
so each connection puts its device's pair into the shared context, and takes its copy.
"""

from typing import TYPE_CHECKING, Any

from fleetnet.ports.openssl_context import Context, client_context
from fleetnet.ports.openssl_credentials import present
from fleetnet_device.credentials import Credentials

if TYPE_CHECKING:
    from OpenSSL import SSL

_shared: dict[tuple[bytes, bool], Context] = {}


class _DeviceContext(Context):
    """The shared context, as one device sees it."""

    def __init__(self, shared: Context, certificate: bytes, key: bytes):
        # Not Context's own: it would make the OpenSSL object that is spared here.
        self.__dict__.update({k: v for k, v in vars(shared).items() if k != "native"})
        self._native: SSL.Context = shared.native
        self._certificate = certificate
        self._key = key

    @property
    def native(self) -> "SSL.Context":  # type: ignore[override]
        """The shared SSL.Context with this device's pair: to be used at once, by SSL_new."""
        present(self._native, self._certificate, self._key)
        return self._native


class SharingCredentials(Credentials):
    """Credentials out of a dict that share their OpenSSL context.

    Those of a folder, with a pre-shared key, and those of a device that has lost its date have
    a context of their own, as on a board.
    """

    def context(self, datagram: bool, pinned: bool) -> "Any":
        """See Credentials.context."""
        ca, certificate, key = (getattr(self, name, None) for name in ("_ca", "_cert", "_key"))
        if (
            pinned
            or self._psk
            or not (
                isinstance(ca, bytes) and isinstance(certificate, bytes) and isinstance(key, bytes)
            )
        ):
            return super().context(datagram, pinned)
        place = (ca, datagram)
        if place not in _shared:
            _shared[place] = client_context(ca, datagram=datagram)
        return _DeviceContext(_shared[place], certificate, key)
