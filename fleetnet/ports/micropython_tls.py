"""TLS and DTLS contexts of MicroPython's ``tls`` module.

``tls`` and never the ``ssl`` wrapper around it, which ignores pre-shared keys and
verify_callback without a word and has no set_ciphers (micropython-lib ssl.py).

Sources: extmod/modtls_mbedtls.c, extmod/mbedtls/mbedtls_config_common.h (MicroPython 1.25).
"""

import tls

from fleetnet.errors import CredentialError, TrustError, Unsupported
from fleetnet.ports.micropython_channel import Recorder


class Context:
    """A tls.SSLContext with what fleetnet must remember about it.

    What fleetnet.streams hands out can do more: micropython_context.Context.

    Attributes:
        native: the tls.SSLContext; one serves any number of connections (it keeps the
            parsed certificates, 4.6 KB on a 32-bit port).
        datagram: DTLS; server_side.
        mode: "insecure", "verified" (a chain to an anchor), "pinned" or "psk".
        verified: peers are authenticated.
        has_anchors: it can verify chains.
        active: the Recorder of the connection that mbedTLS works for at this moment.
        recorder_class: what stands below its connections.
        check: function(channel) at the end of a handshake: the error that bars the peer, or
            None. Or None.
        judge: function(recorder, certificate) that looks at a leaf; False refuses. Or None.
    """

    recorder_class = Recorder
    has_anchors = False
    active = None
    check = None
    judge = None
    _keep = False

    def __init__(self, native, datagram, server_side, mode):
        self.native = native
        self.datagram = datagram
        self.server_side = server_side
        self.set_mode(mode)

    def set_mode(self, mode):
        self.mode = mode
        self.verified = mode != "insecure"
        # Set explicitly: the default differs between tls (REQUIRED) and ssl (NONE).
        self.native.verify_mode = tls.CERT_REQUIRED if mode == "verified" else tls.CERT_NONE

    def shows_certificate(self):
        """Say whether every peer that gets through shows a certificate."""
        return self.mode != "psk" and (self.verified or not self.server_side)

    def watch(self, keep):
        """Have mbedTLS show us certificates if anybody wants to see them.

        Args:
            keep: the firmware keeps no peer's certificate, so we do.
        """
        self._keep = keep
        if self.judge is not None or (keep and self.verified):
            self.native.verify_callback = self._look

    def _look(self, certificate, depth):
        """mbedTLS calls this for each certificate of a chain, the leaf (depth 0) last.

        Returns 0, or -1 to end the handshake: the peer gets the alert access_denied.
        """
        if depth:
            return 0
        recorder = self.active
        try:
            if self._keep:
                recorder.certificate = bytes(certificate)
            if self.judge is None or self.judge(recorder, certificate):
                return 0
        except Exception as error:
            # It must not fly through mbedTLS's C frames.
            if recorder is not None:
                recorder.verdict = TrustError("its certificate cannot be read: %r" % error)
        return -1


def client_context(
    ca=None,
    cert=None,
    key=None,
    datagram=False,
    insecure=False,
    pins=None,
    psk=None,
    ciphers=None,
    kind=Context,
):
    """See fleetnet.streams.client_context; ``kind`` is the class of the context."""
    ways = bool(ca) + bool(insecure) + (pins is not None) + (psk is not None)
    has_pair = cert is not None or key is not None
    if ways != 1 or (psk is not None and has_pair):
        from fleetnet.ports.micropython_misuse import refuse_ways

        refuse_ways(ways)
    mode = "verified" if ca else "insecure" if insecure else "pinned" if pins is not None else "psk"
    context = make_context("CLIENT", datagram, mode, kind)
    if ca:
        load_anchors(context, ca)
    if has_pair:
        load_pair(context, cert, key)
    if pins is not None or psk is not None or ciphers is not None:
        from fleetnet.ports.micropython_modes import equip

        equip(context, pins, psk, ciphers)
    return context


def make_context(side, datagram, mode, kind):
    """Return a Context; ``side`` is "CLIENT" or "SERVER"."""
    number = getattr(tls, "PROTOCOL_%s_%s" % ("DTLS" if datagram else "TLS", side), None)
    if number is None:
        raise Unsupported("this firmware has no DTLS: it came with MicroPython 1.25")
    return kind(tls.SSLContext(number), datagram, side == "SERVER", mode)


def read_source(source):
    """Return the bytes of a path or of bytes; tls takes neither bytearray nor memoryview."""
    if isinstance(source, str):
        try:
            with open(source, "rb") as file:
                return file.read()
        except OSError as error:
            raise CredentialError("cannot read %s: %r" % (source, error))
    return bytes(source)


def load_anchors(context, ca):
    """Trust one source or a list of them."""
    context.has_anchors = True
    for source in ca if isinstance(ca, (list, tuple)) else (ca,):
        data = read_source(source)
        error = None
        # Two DER certificates in one blob load without error; only the first counts.
        if _is_single(data):
            try:
                context.native.load_verify_locations(data)
                continue
            except (ValueError, OSError) as raised:
                error = raised
        from fleetnet.ports.micropython_misuse import load_unusual_anchor

        load_unusual_anchor(context.native, error, source, data)


def load_pair(context, cert, key):
    """Present a certificate with its private key.

    mbedTLS does not compare the two; in the handshake the server would only say "no".
    """
    certificate = read_source(cert or b"")
    secret = read_source(key or b"")
    error = None
    if _is_single(certificate):
        # The point of a P-256 key follows these bytes in SEC1 and PKCS #8.
        at = secret.find(b"\xa1\x44\x03\x42\0\4") + 5
        if at > 4 and secret[at : at + 65] in certificate:
            try:
                context.native.load_cert_chain(certificate, secret)
                return
            except (ValueError, OSError) as raised:
                error = raised
    from fleetnet.ports.micropython_misuse import load_unusual_pair

    load_unusual_pair(context.native, error, cert, certificate, key, secret)


def _is_single(data):
    """Say whether it is one DER value of the size that certificates have."""
    return data[:2] == b"\x30\x82" and int.from_bytes(data[2:4], "big") + 4 == len(data)
