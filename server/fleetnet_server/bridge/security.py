"""TLS to the broker: by CA, with a certificate of our own, or with a pre-shared key.

aiomqtt hands an ssl.SSLContext to the socket. The rules are those of `fleetnet`: at least TLS 1.2,
the broker is always verified, and there is no setting that turns this off.
"""

import os
import ssl
import stat
from pathlib import Path

from fleetnet.errors import CredentialError, Unsupported
from fleetnet_server.bridge.settings import Tls
from fleetnet_server.errors import ConfigError

# A key file of more is something else. mosquitto and OpenSSL take keys of up to 64 B.
_MAX_SECRET = 4096
_MAX_PSK = 64


def make_context(tls: Tls) -> ssl.SSLContext:
    """Return the context for a connection; reads the files, so it may block.

    Raises:
        ConfigError: a file is missing or can be read by others.
        CredentialError: it holds nothing that can be used.
        Unsupported: a pre-shared key on Python 3.12 or older, whose ssl cannot use one.
    """
    if tls.psk is not None:
        return _psk_context(*tls.psk)
    try:
        context = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.cert is not None and tls.key is not None:
            _check_owner(tls.key)
            # Without a function ssl would ask the terminal for the password of an encrypted key.
            context.load_cert_chain(tls.cert, tls.key, password=lambda: "")
    except FileNotFoundError as error:
        names = [str(one) for one in tls[:3] if one is not None and not Path(one).exists()]
        raise ConfigError(f"{', '.join(names)}: no such file: correct [broker.tls]") from error
    except (ssl.SSLError, ValueError) as error:
        raise CredentialError(
            f"[broker.tls] of mqtt.toml cannot be used: {error}: ca, cert and key are PEM files, "
            "the key is not encrypted, and it is the certificate's"
        ) from error
    except OSError as error:
        raise ConfigError(f"[broker.tls]: {error.filename}: {error.strerror}") from error
    return context


def read_secret(path: Path) -> str:
    """Return the first line of a file that only its owner can read.

    Raises:
        ConfigError: it is missing, empty, too long, or others can read it.
    """
    try:
        _check_owner(path)
        with path.open("rb") as file:
            data = file.read(_MAX_SECRET + 1)
        text = data.decode().partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not text or len(data) > _MAX_SECRET:
        raise ConfigError(f"{path}: write the secret on its first line, and nothing else")
    return text


def _check_owner(path: Path) -> None:
    mode = os.stat(path).st_mode
    # A group may read: services are given secrets that way.
    if mode & (stat.S_IRWXG | stat.S_IRWXO) & ~(stat.S_IRGRP | stat.S_IXGRP | stat.S_IXOTH):
        raise ConfigError(f"{path} can be read or changed by others: `chmod 600 {path}`")


def _psk_context(identity: str, path: Path) -> ssl.SSLContext:
    text = read_secret(path)
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if not 16 <= len(key) <= _MAX_PSK:
        raise CredentialError(f"{path}: write the key as 32 to 128 hexadecimal digits")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not hasattr(context, "set_psk_client_callback"):
        raise Unsupported(
            "a pre-shared key for the broker needs Python 3.13, whose ssl can use one: "
            "use a certificate ([broker.tls] cert, key), or a newer Python"
        )
    # The key is what proves the broker: there is no certificate, and no name in it.
    context.check_hostname = False  # nosemgrep: verify-off
    context.verify_mode = ssl.CERT_NONE  # nosemgrep: verify-off
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-PSK:DHE-PSK:PSK:!NULL")
    context.set_psk_client_callback(lambda hint: (identity, key))
    return context
