"""`fleetnet device`: register devices and make their bundles."""

from pathlib import Path

import click

from fleetnet_server.cli.actor import actor
from fleetnet_server.cli.claims import claim, renew
from fleetnet_server.cli.install import install, package
from fleetnet_server.cli.output import json_option, print_json
from fleetnet_server.cli.registry import (
    disable,
    enable,
    list_devices,
    remove,
    revoke,
    set_device,
    show,
)
from fleetnet_server.config import load_settings
from fleetnet_server.device_bundles import add_device, renew_bundle
from fleetnet_server.store.opening import open_store


@click.group()
def device() -> None:
    """Add, list, change, revoke and remove devices; install them on boards."""


for _command in (
    install, package, claim, renew, list_devices, show, set_device, enable, disable, revoke, remove,
):  # fmt: skip
    device.add_command(_command)


@device.command()
@click.argument("name")
@click.option(
    "--transport", type=click.Choice(["auto", "dtls", "tls"]), default="auto", show_default=True,
    help="auto: DTLS, and TLS where UDP does not pass.",
)
@click.option("--again", is_flag=True, help="NAME is registered: only make it a new bundle.")
@click.option("--no-bundle", is_flag=True,
              help="Only register NAME: it has a certificate of an imported CA.")
@json_option
@click.pass_obj
def add(
    folder: Path, name: str, transport: str, again: bool, no_bundle: bool, as_json: bool
) -> None:
    """Register device NAME, and make its key, certificate and bundle.

    With --again its older certificates stay as they are: `fleetnet device revoke` ends them.
    """
    if again and no_bundle:
        raise click.UsageError("--again makes a bundle: leave --no-bundle out")
    settings = load_settings(folder)
    with open_store(settings.store_place(folder)) as store:
        if no_bundle:
            store.add_device(name, actor())
            if as_json:
                print_json({"name": name, "bundle": None, "transport": None})
            else:
                click.echo(f"Device {name} added. It comes with a certificate of an imported CA.")
            return
        make = renew_bundle if again else add_device
        bundle = make(folder, settings, store, name, transport, actor())
    if as_json:
        print_json({"name": name, "bundle": str(bundle), "transport": transport})
        return
    done = "has a new bundle" if again else "added"
    click.echo(f"Device {name} {done}. Copy {bundle} to it; the key in it exists nowhere else.")
