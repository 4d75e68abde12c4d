"""Registers devices and makes their bundles: key, certificate, anchor, configuration."""

import json
import secrets
import shutil
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from fleetnet_server.config import Settings
from fleetnet_server.errors import FolderError, StoreError
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.bundle import bundle_config
from fleetnet_server.identity.files import (
    make_private_folder,
    move_folder_into_place,
    write_new_file,
)
from fleetnet_server.identity.names import check_device_name
from fleetnet_server.store.identities import note_bundle
from fleetnet_server.store.ports import Store
from fleetnet_server.store.registry import PROGRAM, TAKEN


def add_device(
    folder: Path, settings: Settings, store: Store, name: str, transport: str = "auto",
    who: str = PROGRAM,
) -> Path:  # fmt: skip
    """Make FOLDER/devices/NAME/{cert.der,key.der,ca.der,config.json} and register NAME.

    Args:
        who: for the audit log.

    Raises:
        IdentityError: no device name. StoreError: it is registered already.
        FolderError: a bundle of that name lies there, or cannot be written.
        CredentialError: the CA's key is missing or damaged.
    """
    check_device_name(name)
    if store.lookup(name) is not None:
        raise StoreError(f"device {name!r} is already registered: {TAKEN}")
    bundle = folder / "devices" / name
    if bundle.exists():
        raise FolderError(f"{bundle} exists but its device is not registered: remove it first")
    authority = Authority.load(folder)
    made = _make_bundle(folder, settings, authority, name, transport)
    _place(made.folder, bundle)
    try:
        registered = store.add_device(name, who)
    except BaseException:
        # Another `device add` of that name, or a full disk: the bundle must not survive as
        # one that no server accepts.
        shutil.rmtree(bundle, ignore_errors=True)
        raise
    store.add_certificate(registered.id, made.serial, made.not_after_ms)
    note_bundle(store, registered.id, made.serial, authority, made.pins)
    return bundle


def renew_bundle(
    folder: Path, settings: Settings, store: Store, name: str, transport: str = "auto",
    who: str = PROGRAM,
) -> Path:  # fmt: skip
    """Make a registered device another bundle, in the place of the one that may lie there.

    Raises: as add_device; StoreError: it is not registered.
    """
    check_device_name(name)
    registered = store.lookup(name)
    if registered is None:
        raise StoreError(f"device {name!r} is not registered: leave --again out")
    bundle = folder / "devices" / name
    authority = Authority.load(folder)
    made = _make_bundle(folder, settings, authority, name, transport)
    # Known to the registry before anybody can use it: what it does not know it cannot revoke.
    store.add_certificate(registered.id, made.serial, made.not_after_ms)
    note_bundle(store, registered.id, made.serial, authority, made.pins)
    store.registry.note_again(name, made.serial, who)
    old = made.folder.with_name(made.folder.name + ".old")
    if bundle.exists():
        bundle.rename(old)
    try:
        _place(made.folder, bundle)
    except FolderError:
        if old.exists():
            old.rename(bundle)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return bundle


def _place(made: Path, bundle: Path) -> None:
    """Move a bundle to its place, or delete it. Raises FolderError."""
    try:
        move_folder_into_place(made, bundle)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        raise FolderError(f"{bundle} cannot be made: {error}") from error
    except FolderError:
        shutil.rmtree(made, ignore_errors=True)
        raise


class _Made(NamedTuple):
    folder: Path
    serial: int
    not_after_ms: int
    pins: list[str]


def _make_bundle(
    folder: Path, settings: Settings, authority: Authority, name: str, transport: str
) -> _Made:
    """Make a bundle in a folder of its own, beside its place. Raises FolderError."""
    temporary = folder / "devices" / f".{name}.{secrets.token_hex(4)}"
    lifetime = timedelta(seconds=settings.device_lifetime_s)
    credential = authority.issue_device(name, lifetime=lifetime)
    config = bundle_config(folder, settings, name, transport)
    try:
        make_private_folder(temporary)
        write_new_file(temporary / "cert.der", credential.certificate)
        write_new_file(temporary / "key.der", credential.key)
        write_new_file(temporary / "ca.der", authority.bundle_anchor)
        write_new_file(temporary / "config.json", json.dumps(config, indent=1).encode())
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise FolderError(f"bundle of device {name!r} cannot be made: {error}") from error
    return _Made(temporary, credential.serial, credential.not_after_ms, config["pins"])
