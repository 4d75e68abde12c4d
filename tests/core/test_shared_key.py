"""A bundle with a pre-shared key: what it must hold, and firmwares without. Both interpreters."""

from fleetnet.errors import CredentialError, Unsupported
from fleetnet_device.credentials import Credentials

BASE = {"name": "cam-1", "host": "a.example", "tls_port": 1, "dtls_port": 2}
KEY = "000102030405060708090a0b0c0d0e0f"


def contexts(psk):
    """The contexts for TLS and for DTLS, or what the firmware says; no certificate is needed."""
    config = dict(BASE)
    config["psk"] = psk
    credentials = Credentials(config)
    made = []
    for datagram in (False, True):
        try:
            made.append(credentials.context(datagram, True).mode)
        except Unsupported as error:
            assert "MicroPython 1.29" in str(error) and "fleetnet device add" in str(error)
            made.append("psk")
    return made


def test_keys_of_either_length():
    assert contexts({"identity": "cam-1.1", "key": KEY}) == ["psk", "psk"]
    assert contexts({"identity": "cam-1.1", "key": 2 * KEY}) == ["psk", "psk"]


def test_what_is_no_key():
    for psk in (
        {"identity": "cam-1.1", "key": KEY[:-2]},
        {"identity": "cam-1.1", "key": 3 * KEY},
        {"identity": "cam-1.1", "key": "no hexadecimal"},
        {"identity": "cam-1.1", "key": 16},
        {"identity": "cam-1.1"},
        {"identity": "", "key": KEY},
        {"key": KEY},
        KEY,
        ["cam-1.1", KEY],
    ):
        try:
            contexts(psk)
        except CredentialError as error:
            assert "psk add NAME --bundle" in str(error)
            assert KEY[:8] not in str(error)
        else:
            raise AssertionError(psk)
