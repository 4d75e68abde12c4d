"""`fleetnet config`: what devices should have, through the store.

    fleetnet config get cam-1 > cam-1.json
    fleetnet config set cam-1 cam-1.json
"""

import json
from pathlib import Path
from typing import IO

import click

from fleetnet_server.cli.completing import complete_device
from fleetnet_server.cli.output import flat, format_value, json_option, print_json
from fleetnet_server.config import load_settings
from fleetnet_server.core.configs import Config
from fleetnet_server.errors import StoreError
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.opening import open_store


@click.group()
def config() -> None:
    """Set and show devices' configurations."""


@config.command("set")
@click.argument("device", shell_complete=complete_device)
@click.argument("file", type=click.File("rb"))
@json_option
@click.pass_obj
def set_config(folder: Path, device: str, file: IO[bytes], as_json: bool) -> None:
    """Give DEVICE the JSON object in FILE (- is standard input).

    A device that is connected gets it within a second, another one when it comes.
    """
    try:
        document = json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{file.name} is no JSON: {error}", param_hint="FILE") from error
    with open_store(load_settings(folder).store_place(folder)) as store:
        table = CommandTable(store)
        try:
            version = table.set_config(table.device(device).id, document)
        except ValueError as error:
            raise click.BadParameter(f"{file.name}: {error}", param_hint="FILE") from error
    if as_json:
        print_json({"device": device, "version": version})
    else:
        click.echo(f"Version {version} is set: `fleetnet config get {device}` shows its state.")


@config.command("get")
@click.argument("device", shell_complete=complete_device)
@click.option("--json", "as_json", is_flag=True, help="Print all that is known as one document.")
@click.pass_obj
def get_config(folder: Path, device: str, as_json: bool) -> None:
    """Print the document of DEVICE; what it says of it goes to standard error."""
    with open_store(load_settings(folder).store_place(folder)) as store:
        table = CommandTable(store)
        found = table.config(table.device(device).id)
    if found is None:
        raise StoreError(
            f"device {device!r} has no configuration: `fleetnet config set {device} FILE` gives one"
        )
    if as_json:
        shown = found._asdict()
        del shown["device_id"], shown["edit"]
        print_json(shown)
        return
    click.echo(json.dumps(found.document, ensure_ascii=False, indent=2))
    click.echo(flat(_state(found)), err=True)


def _state(found: Config) -> str:
    if found.state_version != found.version:
        return f"version {found.version}: waits for the device"
    if found.state == "rejected":
        return f"version {found.version}: rejected: {found.reported}"
    return f"version {found.version}: applied, reported {format_value(found.reported)}"
