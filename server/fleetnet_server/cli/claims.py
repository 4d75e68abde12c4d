"""`fleetnet device claim` and `fleetnet device renew`: first and further identities."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import click

from fleetnet_server.cli.actor import actor
from fleetnet_server.cli.completing import complete_device
from fleetnet_server.cli.output import format_time, json_option, print_json
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.errors import ConfigError, FolderError, unknown_device
from fleetnet_server.identity.bundle import claim_config
from fleetnet_server.identity.files import (
    hidden_beside,
    make_private_folder,
    move_folder_into_place,
    write_new_file,
)
from fleetnet_server.identity.names import check_device_name
from fleetnet_server.identity.registry import Device
from fleetnet_server.store.claims import ClaimTable, make_token
from fleetnet_server.store.identities import IdentityTable
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.ports import Store
from fleetnet_server.store.standing import VALID, WITHOUT, remedy

_DAY_MS = 86_400_000


@click.command()
@click.argument("name")
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True, max=365),
    default=7.0,
    show_default=True,
    help="How long the token is good.",
)
@click.option(
    "--transport",
    type=click.Choice(["auto", "dtls", "tls"]),
    default="auto",
    show_default=True,
    help="auto: DTLS, and TLS where UDP does not pass.",
)
@json_option
@click.pass_obj
def claim(folder: Path, name: str, days: float, transport: str, as_json: bool) -> None:
    """Make a one-time token by which device NAME fetches its first certificate.

    The device is registered when it is new. The key is made on the device and never leaves it.
    """
    check_device_name(name)
    settings = load_settings(folder)
    if not settings.enrol_port:
        raise ConfigError(
            f"enrolment is closed: set enrol_port in {folder / 'fleetnet.toml'} and start the "
            "server anew"
        )
    token = make_token()
    expires_ms = time.time_ns() // 1_000_000 + int(days * _DAY_MS)
    with open_store(settings.store_place(folder)) as store:
        _refuse_other_bundle(folder / "devices" / name)
        device = store.lookup(name) or store.add_device(name, actor())
        works = store.registry.credential(device.id) == VALID
        ClaimTable(store).open(device.id, token, expires_ms, actor())
        bundle = _make_bundle(folder, settings, name, transport, token)
    if works:
        text = f"Note: {name} can come in already: what uses this claim takes its place, and its"
        click.echo(f"{text} certificates and keys of now are refused from then on.", err=True)
    if as_json:
        shown = {"name": name, "token": token, "expires_ms": expires_ms, "bundle": str(bundle)}
        print_json(shown)
        return
    click.echo(f"Token of {name}, good once and until {format_time(expires_ms)}: {token}")
    click.echo(f"It is in {bundle} as well: copy that to the device.")


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, shell_complete=complete_device)
@click.option("--all", "is_all", is_flag=True, help="Every device of the fleet.")
@json_option
@click.pass_obj
def renew(folder: Path, names: tuple[str, ...], is_all: bool, as_json: bool) -> None:
    """Give devices new certificates, and new keys, over their sessions.

    One that is connected gets its own within a second or as its turn comes, another one when it
    connects. The old certificate is revoked once the new one works.
    """
    if bool(names) == is_all:
        raise click.UsageError("name devices, or pass --all")
    settings = load_settings(folder)
    with open_store(settings.store_place(folder)) as store:
        found = store.devices() if is_all else [store.lookup(name) for name in names]
        for name, device in zip(names, found, strict=False):
            if device is None:
                raise unknown_device(name)
        devices = [device for device in found if device is not None]
        _say_who_cannot(store, devices)
        IdentityTable(store).ask(devices, actor())
    if as_json:
        print_json({"asked": [device.name for device in devices]})
    else:
        click.echo(f"{len(devices)} asked: `fleetnet audit --follow` shows how it goes.")


def _say_who_cannot(store: Store, devices: list[Device]) -> None:
    """It goes over a session: whoever gets none would wait for ever."""
    for device in devices:
        has = store.registry.credential(device.id)
        if has in WITHOUT:
            click.echo(
                f"Note: the certificate of {device.name} is {has}: TLS lets it in no more, so it "
                f"cannot be renewed; {remedy(device.name)}.",
                err=True,
            )


def _refuse_other_bundle(bundle: Path) -> None:
    """A bundle with a key in it is not ours to replace; one of an older claim is."""
    if bundle.exists() and not _is_claim(bundle):
        raise FolderError(
            f"{bundle} is a bundle with an identity: remove it first if its device is claimed anew"
        )


def _is_claim(bundle: Path) -> bool:
    try:
        config: Any = json.loads((bundle / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "claim" in config


def _make_bundle(folder: Path, settings: Settings, name: str, transport: str, token: str) -> Path:
    """Make FOLDER/devices/NAME with a config.json and nothing else; replace that of a claim."""
    config = claim_config(folder, settings, name, transport, token)
    bundle = folder / "devices" / name
    temporary = hidden_beside(bundle)
    try:
        make_private_folder(temporary)
        write_new_file(temporary / "config.json", json.dumps(config, indent=1).encode())
        if bundle.exists():
            shutil.rmtree(bundle)
        move_folder_into_place(temporary, bundle)
    except OSError as error:
        raise FolderError(f"bundle of device {name!r} cannot be made: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return bundle
