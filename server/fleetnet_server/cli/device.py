"""`fleetnet device`: register devices and make their bundles."""

import json
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

import click

from fleetnet_server.cli.install import install, package
from fleetnet_server.cli.output import print_json, print_table
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.errors import FolderError, StoreError
from fleetnet_server.identity import pki
from fleetnet_server.identity.certificate import public_key_hash
from fleetnet_server.identity.files import (
    make_private_folder,
    move_folder_into_place,
    write_new_file,
)
from fleetnet_server.identity.names import check_device_name
from fleetnet_server.store.sqlite import SqliteStore

_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group()
def device() -> None:
    """Add, list, enable and disable devices; install them on boards."""


device.add_command(install)
device.add_command(package)


@device.command()
@click.argument("name")
@click.option(
    "--transport", type=click.Choice(["auto", "dtls", "tls"]), default="auto", show_default=True,
    help="auto: DTLS, and TLS where UDP does not pass.",
)
@_json_option
@click.pass_obj
def add(folder: Path, name: str, transport: str, as_json: bool) -> None:
    """Register device NAME, and make its key, certificate and bundle."""
    settings = load_settings(folder)
    with SqliteStore(settings.store_path(folder)) as store:
        bundle = add_device(folder, settings, store, name, transport)
    if as_json:
        print_json({"name": name, "bundle": str(bundle), "transport": transport})
        return
    click.echo(f"Device {name} added. Copy {bundle} to it; the key in it exists nowhere else.")


@device.command("list")
@_json_option
@click.pass_obj
def list_devices(folder: Path, as_json: bool) -> None:
    """List the registered devices by name."""
    settings = load_settings(folder)
    with SqliteStore(settings.store_path(folder)) as store:
        devices = store.devices()
    if as_json:
        print_json([{"id": one.id, "name": one.name, "state": one.state} for one in devices])
        return
    print_table(("NAME", "STATE"), [(found.name, found.state) for found in devices])


@device.command()
@click.argument("name")
@click.pass_obj
def enable(folder: Path, name: str) -> None:
    """Accept device NAME again."""
    _set_enabled(folder, name, enabled=True)


@device.command()
@click.argument("name")
@click.pass_obj
def disable(folder: Path, name: str) -> None:
    """Refuse device NAME from its next connection on."""
    _set_enabled(folder, name, enabled=False)


def add_device(
    folder: Path, settings: Settings, store: SqliteStore, name: str, transport: str = "auto"
) -> Path:
    """Make FOLDER/devices/NAME/{cert.der,key.der,ca.der,config.json} and register NAME.

    Raises:
        IdentityError: no device name. StoreError: it is registered already.
        FolderError: a bundle of that name lies there, or cannot be written.
        CredentialError: the CA's key is missing or damaged.
    """
    check_device_name(name)
    if store.lookup(name) is not None:
        raise StoreError(f"device {name!r} is already registered: choose another name")
    bundle = folder / "devices" / name
    if bundle.exists():
        raise FolderError(f"{bundle} exists but its device is not registered: remove it first")
    temporary = folder / "devices" / f".{name}.{secrets.token_hex(4)}"
    try:
        ca = pki.Credential(
            (folder / "ca" / "ca.der").read_bytes(), (folder / "ca" / "key.der").read_bytes()
        )
        credential = pki.issue_device(ca, name)
        make_private_folder(temporary)
        write_new_file(temporary / "cert.der", credential.certificate)
        write_new_file(temporary / "key.der", credential.key)
        write_new_file(temporary / "ca.der", ca.certificate)
        config = json.dumps(_bundle_config(folder, settings, name, transport), indent=1)
        write_new_file(temporary / "config.json", config.encode())
        move_folder_into_place(temporary, bundle)
    except OSError as error:
        raise FolderError(f"bundle of device {name!r} cannot be made: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    try:
        registered = store.add_device(name)
    except BaseException:
        # Another `device add` of that name, or a full disk: the bundle must not survive as
        # one that no server accepts.
        shutil.rmtree(bundle, ignore_errors=True)
        raise
    store.add_certificate(registered.id, credential.serial, credential.not_after_ms)
    return bundle


def _bundle_config(folder: Path, settings: Settings, name: str, transport: str) -> dict[str, Any]:
    server = (folder / "server" / "cert.der").read_bytes()
    return {
        "name": name,
        "host": settings.host,
        "tls_port": settings.tls_port,
        "dtls_port": settings.dtls_port,
        "server_hostname": settings.host,
        "transport": transport,
        # A device without a date knows the server by its key until it has one.
        "pins": [public_key_hash(server).hex()],
        "made_ms": time.time_ns() // 1_000_000,
    }


def _set_enabled(folder: Path, name: str, enabled: bool) -> None:
    settings = load_settings(folder)
    with SqliteStore(settings.store_path(folder)) as store:
        store.set_enabled(name, enabled)
    click.echo(f"Device {name} {'enabled' if enabled else 'disabled'}.")
