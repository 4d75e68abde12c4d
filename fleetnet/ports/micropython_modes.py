"""Pins, pre-shared keys and chosen cipher suites; loaded only when one is used.

Source: extmod/modtls_mbedtls.c. Pre-shared keys came with MicroPython 1.29.
"""

import binascii
import errno
import hashlib

import tls

from fleetnet.der import spki
from fleetnet.errors import CredentialError, TrustError, Unsupported, WrongPin
from fleetnet.ports.micropython_channel import Recorder
from fleetnet.ports.micropython_records import APPLICATION_DATA


class BarringRecorder(Recorder):
    """Lets no application data out before the context's check has agreed."""

    def __init__(self, transport, channel, datagram):
        super().__init__(transport, channel, datagram)
        self._is_barred = True
        self._middle = False  # the next write begins within a record

    def write(self, buf):
        if self._is_barred and buf[0] == APPLICATION_DATA and not self._middle:
            # TLS 1.3 encrypts the client's certificate, too; the server's was seen before.
            self.verdict = self.verdict or self.channel.check()
            if self.verdict is not None:
                return -errno.EACCES
            self._is_barred = False
        count = super().write(buf)
        self._middle = not self.datagram and count is not None and 0 < count < len(buf)
        return count


def equip(context, pins, psk, ciphers):
    """Give a context what client_context and server_context have beyond certificates."""
    if pins is not None:
        _pin(context, pins)
    if psk is not None:
        _share_key(context, psk)
    if ciphers is not None:
        set_ciphers(context, ciphers)


def _pin(context, pins):
    """Know the server by the SHA-256 of its SubjectPublicKeyInfo: needs no CA and no clock."""
    wanted = [_digest(each) for each in pins]
    if not wanted:
        raise CredentialError("pins= is empty: give the SHA-256 of the server's public key")
    if not hasattr(context.native, "verify_callback"):
        raise Unsupported("this firmware cannot pin: verify_callback came with MicroPython 1.24")

    def judge(recorder, certificate):
        digest = hashlib.sha256(spki(certificate)).digest()
        recorder.agreed = digest in wanted
        if not recorder.agreed:
            recorder.verdict = WrongPin(
                "the server's public key %s is none of the %d pinned: no byte was sent"
                % (binascii.hexlify(digest).decode(), len(wanted))
            )
        return recorder.agreed

    def check(channel):
        return None if channel.recorder.agreed else WrongPin("the pin was not checked")

    # Verification proper would need a CA and the date; its findings are put aside, and the
    # callback decides. Proof that the peer holds the key is part of every handshake.
    context.native.verify_mode = tls.CERT_OPTIONAL
    context.judge = judge
    context.check = check
    context.recorder_class = BarringRecorder


def _digest(given):
    try:
        digest = binascii.unhexlify(given) if isinstance(given, str) else bytes(given)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise CredentialError("a pin is a SHA-256: 32 bytes, or 64 hexadecimal digits")
    return digest


def _share_key(context, psk):
    """Know each other by a pre-shared key.

    Args:
        psk: client: (identity, key). Server: a dict of identity to key. An identity is str or
            bytes, a key is bytes.
    """
    native = context.native
    if not hasattr(native, "psk_key"):
        raise Unsupported(
            "this firmware has no pre-shared keys: they came with MicroPython 1.29; use "
            "certificates or pins="
        )
    try:
        if context.server_side:
            native.server_psk_keys = {_octets(name): bytes(key) for name, key in psk.items()}
        else:
            identity, key = psk
            native.psk_identity = _octets(identity)
            native.psk_key = bytes(key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CredentialError(
            "psk cannot be used (%r): a client gives (identity, key), a server {identity: key}"
            % error
        )
    context.check = _check_suite
    if not context.server_side:  # a server's offer is restricted as well, by mbedTLS
        context.recorder_class = BarringRecorder


def _octets(identity):
    return identity.encode() if isinstance(identity, str) else bytes(identity)


def _check_suite(channel):
    name = channel.cipher()[0]
    return None if "-PSK-" in name else TrustError("%s: no suite of pre-shared keys" % name)


def set_ciphers(context, names):
    """Allow only these cipher suites."""
    names = list(names)
    known = context.native.get_ciphers()
    for name in names:
        if name not in known:
            raise CredentialError("this firmware has no cipher suite %s: see get_ciphers()" % name)
        if context.mode == "psk" and "-PSK-" not in name:
            raise CredentialError("%s uses no pre-shared key" % name)
    if not names:
        raise CredentialError("no cipher suite was given: see get_ciphers()")
    context.native.set_ciphers(names)
