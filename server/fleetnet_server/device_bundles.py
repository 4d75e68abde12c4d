"""Registers devices and makes their bundles: key, certificate, anchor, configuration."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from fleetnet.errors import FleetError
from fleetnet_server.config import Settings
from fleetnet_server.errors import FolderError, StoreError
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.bundle import bundle_config
from fleetnet_server.identity.files import (
    hidden_beside,
    make_private_folder,
    move_folder_into_place,
    write_new_file,
)
from fleetnet_server.identity.names import check_device_name
from fleetnet_server.store.bundle_rows import Bundled, add_with_bundle, renew_with_bundle
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
    with _made_bundle(folder, settings, authority, name, transport) as (temporary, made):
        try:
            _place(temporary, bundle)
            add_with_bundle(store, name, made, who)
        except BaseException:
            # Another `device add` of that name, a full disk, or Ctrl-C: the bundle must not
            # survive as one that no server accepts.
            if not temporary.exists() and not _is_known(store, name, made.serial):
                shutil.rmtree(bundle, ignore_errors=True)
            raise
    return bundle


def renew_bundle(
    folder: Path, settings: Settings, store: Store, name: str, transport: str = "auto",
    who: str = PROGRAM,
) -> Path:  # fmt: skip
    """Make a registered device another bundle, in the place of the one that may lie there.

    Raises: as add_device; StoreError: it is not registered.
    """
    check_device_name(name)
    if store.lookup(name) is None:
        raise StoreError(f"device {name!r} is not registered: leave --again out")
    bundle = folder / "devices" / name
    authority = Authority.load(folder)
    with _made_bundle(folder, settings, authority, name, transport) as (temporary, made):
        # Before anybody can use it.
        renew_with_bundle(store, name, made, who)
        old = temporary.with_name(temporary.name + ".old")
        try:
            if bundle.exists():
                bundle.rename(old)
            _place(temporary, bundle)
        except BaseException:
            if old.exists() and not bundle.exists():
                old.rename(bundle)
            raise
        finally:
            if bundle.exists():  # else it is the only one: `fleetnet check` names it
                shutil.rmtree(old, ignore_errors=True)
    return bundle


def _place(made: Path, bundle: Path) -> None:
    """Move a bundle to its place. Raises FolderError."""
    try:
        move_folder_into_place(made, bundle)
    except OSError as error:
        raise FolderError(f"{bundle} cannot be made: {error}") from error


def _is_known(store: Store, name: str, serial: int) -> bool:
    """Say whether a certificate was registered; no when the store cannot tell."""
    try:
        device = store.lookup(name)
        known = () if device is None else store.registry.certificates(device.id)
    except FleetError:
        return False
    return any(one.serial == serial for one in known)


@contextmanager
def _made_bundle(
    folder: Path, settings: Settings, authority: Authority, name: str, transport: str
) -> Iterator[tuple[Path, Bundled]]:
    """Make a bundle in a folder of its own, beside its place, which goes in the end.

    Raises FolderError.
    """
    temporary = hidden_beside(folder / "devices" / name)
    lifetime = timedelta(seconds=settings.device_lifetime_s)
    credential = authority.issue_device(name, lifetime=lifetime)
    config = bundle_config(folder, settings, name, transport)
    # A bundle has one anchor; in the middle of a rollover the others are sent by rotation.
    marks = authority.marks if authority.anchors == (authority.bundle_anchor,) else ""
    made = Bundled(
        credential.serial, credential.not_after_ms, authority.generation, marks,
        tuple(config["pins"]),
    )  # fmt: skip
    try:
        try:
            make_private_folder(temporary)
            write_new_file(temporary / "cert.der", credential.certificate)
            write_new_file(temporary / "key.der", credential.key)
            write_new_file(temporary / "ca.der", authority.bundle_anchor)
            write_new_file(temporary / "config.json", json.dumps(config, indent=1).encode())
        except OSError as error:
            raise FolderError(f"bundle of device {name!r} cannot be made: {error}") from error
        yield temporary, made
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
