"""Contexts of the bench's devices, which are those of `fleetnet bench`."""

from fleetnet.ports.openssl_context import Context
from fleetnet_server.bench import links


def device_context(bundle: str, link: str) -> Context:
    """Return the context of a device; ``link``: tls, tls12, dtls."""
    paths = (f"{bundle}/ca.der", f"{bundle}/cert.der", f"{bundle}/key.der")
    return links.device_context(*paths, link)
