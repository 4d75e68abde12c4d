"""`fleetnet psk`: pre-shared keys of devices. A key is shown once, or only put into a bundle."""

import json
import shutil
from pathlib import Path
from typing import Any

import click

from fleetnet_server.cli.actor import actor
from fleetnet_server.cli.completing import complete_device
from fleetnet_server.cli.output import format_time, json_option, print_json, print_table
from fleetnet_server.config import load_settings
from fleetnet_server.errors import FolderError, StoreError, unknown_device
from fleetnet_server.identity.bundle import bundle_config
from fleetnet_server.identity.files import (
    hidden_beside,
    make_private_folder,
    move_folder_into_place,
    replace_file,
    write_new_file,
)
from fleetnet_server.identity.names import check_device_name
from fleetnet_server.identity.psk import decrypt, encrypt, new_key
from fleetnet_server.identity.registry import Device
from fleetnet_server.identity.secret import load_secret
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.ports import Store
from fleetnet_server.store.psks import PskTable
from fleetnet_server.wording import counted

_bits_option = click.option(
    "--bits", type=click.Choice(["128", "256"]), default="256", show_default=True,
    help="Length of the key.",
)


@click.group()
def psk() -> None:
    """Pre-shared keys, for devices that cannot do with certificates."""


@psk.command()
@click.argument("name", shell_complete=complete_device)
@_bits_option
@click.option("--bundle", is_flag=True, help="Make FOLDER/devices/NAME and show no key.")
@click.option("--enrol", is_flag=True, help="Good for a first certificate only.")
@click.option(
    "--transport", type=click.Choice(["auto", "dtls", "tls"]), default="auto", show_default=True,
    help="Of the bundle. auto: DTLS, and TLS where UDP does not pass.",
)
@json_option
@click.pass_obj
def add(
    folder: Path, name: str, bits: str, bundle: bool, enrol: bool, transport: str, as_json: bool
) -> None:
    """Make a pre-shared key for device NAME, which is registered if need be."""
    check_device_name(name)
    settings = load_settings(folder)
    place = folder / "devices" / name if bundle else None
    if place is not None and place.exists():
        raise FolderError(f"{place} exists and was left alone: move it away, or leave --bundle out")
    key = new_key(int(bits))
    with open_store(settings.store_place(folder)) as store:
        table = PskTable(store)
        secret = _secret(folder, table)
        device = store.lookup(name) or store.add_device(name, actor())
        identity = table.add(device, lambda it: encrypt(secret, it, key), actor(), enrol)
        if place is not None:
            config = bundle_config(folder, settings, name, transport)
            try:
                _make_bundle(place, config, identity, key)
            except BaseException:
                table.remove(device, actor())  # nobody has this key
                raise
        try:
            _show(as_json, name, identity, key, place)
        except OSError as error:
            if place is not None:
                raise
            table.remove(device, actor())
            raise FolderError(
                f"the key of {name!r} could not be shown ({error.strerror}) and is removed: "
                "add another"
            ) from None


@psk.command()
@click.argument("name", shell_complete=complete_device)
@_bits_option
@click.option("--now", is_flag=True, help="The older keys end at once.")
@click.option("--bundle", is_flag=True, help="Write it into FOLDER/devices/NAME and show no key.")
@json_option
@click.pass_obj
def rotate(folder: Path, name: str, bits: str, now: bool, bundle: bool, as_json: bool) -> None:
    """Make another key for device NAME; the older ones hold until the device comes with it."""
    settings = load_settings(folder)
    place = folder / "devices" / name if bundle else None
    config = _read_bundle(place) if place is not None else {}
    key = new_key(int(bits))
    with open_store(settings.store_place(folder)) as store:
        table = PskTable(store)
        device = _device(store, name)
        secret = _secret(folder, table)
        identity = table.rotate(device, lambda it: encrypt(secret, it, key), actor(), now)
    if place is not None:
        config["psk"] = _config_entry(identity, key)
        try:
            replace_file(place / "config.json", _text(config))
        except OSError as error:
            raise FolderError(f"{place} cannot be written: {error}: rotate again") from error
    _show(as_json, name, identity, key, place)


@psk.command("list")
@json_option
@click.pass_obj
def list_keys(folder: Path, as_json: bool) -> None:
    """List the keys by device and number; never the keys themselves."""
    settings = load_settings(folder)
    with open_store(settings.store_place(folder)) as store:
        found = PskTable(store).all()
    if as_json:
        print_json(
            [
                {
                    "identity": one.identity,
                    "name": one.device,
                    "created_ms": one.created_ms,
                    "used_ms": one.used_ms,
                    "enrol": one.enrol,
                }
                for one in found
            ]
        )
        return
    print_table(
        ("IDENTITY", "MADE", "USED", "FOR"),
        [
            (
                one.identity,
                format_time(one.created_ms),
                "never" if one.used_ms is None else format_time(one.used_ms),
                "first certificate" if one.enrol else "everything",
            )
            for one in found
        ],
    )


@psk.command()
@click.argument("name", shell_complete=complete_device)
@json_option
@click.pass_obj
def remove(folder: Path, name: str, as_json: bool) -> None:
    """Take all keys of device NAME away; a session that lives on one ends."""
    settings = load_settings(folder)
    with open_store(settings.store_place(folder)) as store:
        gone = PskTable(store).remove(_device(store, name), actor())
    if not gone:
        raise StoreError(f"device {name!r} has no pre-shared key: see `fleetnet psk list`")
    if as_json:
        print_json({"name": name, "removed": gone})
        return
    click.echo(f"Removed: {', '.join(gone)}. A bundle with such a key is of no use any more.")


@psk.command()
@click.option(
    "--mosquitto", "target", required=True, type=click.Path(dir_okay=False, path_type=Path),
    help="The psk_file to write, readable by you alone.",
)
@json_option
@click.pass_obj
def export(folder: Path, target: Path, as_json: bool) -> None:
    """Write the keys of enabled devices for another server: IDENTITY:KEY lines."""
    settings = load_settings(folder)
    with open_store(settings.store_place(folder)) as store:
        table = PskTable(store)
        enabled = {device.name for device in store.devices() if device.is_enabled}
        found = [one for one in table.all() if one.device in enabled and not one.enrol]
        secret = _secret(folder, table)
        lines = [
            f"{one.identity}:{decrypt(secret, one.identity, one.sealed).hex()}\n" for one in found
        ]
        # First: a copy of every key that nobody noted is worse than a note without a copy.
        table.note_export([one.identity for one in found], str(target.absolute()), actor())
    try:
        replace_file(target, "".join(lines).encode())
    except OSError as error:
        raise FolderError(f"{target} cannot be written: {error}") from error
    if as_json:
        print_json({"file": str(target), "keys": len(lines)})
        return
    many = counted(len(lines), "key")
    click.echo(f"{many} in {target}. mosquitto's user must be able to read it.")


def _secret(folder: Path, table: PskTable) -> bytes:
    """Return FOLDER/secret.key, made only while no key depends on an older one."""
    return load_secret(folder, create=not table.all())


def _device(store: Store, name: str) -> Device:
    found = store.lookup(name)
    if found is None:
        raise unknown_device(name)
    return found


def _config_entry(identity: str, key: bytes) -> dict[str, str]:
    return {"identity": identity, "key": key.hex()}


def _text(config: dict[str, Any]) -> bytes:
    return json.dumps(config, indent=1).encode()


def _make_bundle(place: Path, config: dict[str, Any], identity: str, key: bytes) -> None:
    """Make FOLDER/devices/NAME/config.json, whole or not at all. Raises FolderError."""
    temporary = hidden_beside(place)
    try:
        make_private_folder(temporary)
        text = _text(config | {"psk": _config_entry(identity, key)})
        write_new_file(temporary / "config.json", text)
        move_folder_into_place(temporary, place)
    except OSError as error:
        raise FolderError(f"bundle {place} cannot be made: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_bundle(place: Path) -> dict[str, Any]:
    """Return the configuration of a bundle with a pre-shared key. Raises FolderError."""
    path = place / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} cannot be read: {error}: leave --bundle out") from error
    if not isinstance(config, dict) or "psk" not in config:
        raise FolderError(f"{path} is no bundle with a pre-shared key: leave --bundle out")
    return config


def _show(as_json: bool, name: str, identity: str, key: bytes, place: Path | None) -> None:
    if as_json:
        shown = {"key": key.hex()} if place is None else {"bundle": str(place)}
        print_json({"name": name, "identity": identity, **shown})
    elif place is None:
        click.echo(f"Identity {identity}, key {key.hex()}. It is not shown again.")
    else:
        click.echo(f"Copy {place} to {name}; the key of {identity} in it is not shown again.")
