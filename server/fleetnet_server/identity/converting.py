"""From one form into another, and into the one that a camera loads."""

from cryptography.hazmat.primitives import serialization

from fleetnet.errors import CredentialError
from fleetnet_server.identity import camera, formats
from fleetnet_server.identity.formats import Content, Item
from fleetnet_server.identity.key_types import key_to_der


def choose(content: Content, whose: str, pick: int | None) -> Item:
    """Return the only item of a file, or item number ``pick``, counted from 1.

    Raises:
        CredentialError: there are several and none is picked, or no such number; lists them.
    """
    items = content.items
    if pick is not None:
        if 1 <= pick <= len(items):
            return items[pick - 1]
        raise CredentialError(f"{whose} holds {_list(items)}: --pick 1 to {len(items)}")
    if len(items) == 1:
        return items[0]
    raise CredentialError(
        f"{whose} holds {_list(items)}: a DER file holds one, --pick N says which"
    )


def to_der(item: Item) -> bytes:
    """Return DER; a private key as PKCS #8, not encrypted, so that it stays what it was."""
    if item.kind != formats.KEY:
        return item.der
    _check_open(item)
    encoding = serialization.Encoding.DER
    plain = serialization.NoEncryption()
    return bytes(item.value.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))


def to_pem(items: tuple[Item, ...]) -> bytes:
    """Return PEM, one block for each, in their order; private keys as PKCS #8."""
    for item in items:
        _check_open(item)
    return b"".join(item.pem for item in items)


def to_camera(item: Item, whose: str) -> bytes:
    """Return what a camera loads: DER; of a private key SEC 1 or PKCS #1, not encrypted.

    Raises:
        CredentialError: no camera could use it; says why, and what could be used instead.
    """
    _check_open(item)
    plain = item._replace(encoding=formats.DER, form="", is_encrypted=False)
    if item.kind == formats.KEY and not _is_pss(item):
        # What is written names its curve, however the file gave it.
        plain = plain._replace(raw=b"".join(camera.CURVE_OIDS.values()))
    # Whether it is valid today is no matter of its form.
    now = item.value.not_valid_before_utc if item.kind == formats.CERTIFICATE else None
    found = camera.verdicts(Content((plain,), formats.DER, 0), now=now)
    bad = [one for one in found if one.level == camera.BAD]
    if bad:
        raise CredentialError(f"{whose}: {bad[0].text}; {bad[0].remedy}")
    return key_to_der(item.value) if item.kind == formats.KEY else item.der


def _is_pss(item: Item) -> bool:
    return camera.PSS_KEY in item.raw


def _check_open(item: Item) -> None:
    if item.kind == formats.KEY and item.value is None:
        raise CredentialError("the private key is encrypted: pass --password-file")


def _list(items: tuple[Item, ...]) -> str:
    return ", ".join(f"{number} {item.kind}" for number, item in enumerate(items, 1))
