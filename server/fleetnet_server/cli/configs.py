"""`fleetnet config`: what devices should have, through the store.

    fleetnet config get cam-1 > cam-1.json
    fleetnet config set cam-1 cam-1.json
"""

import json
import time
from pathlib import Path
from typing import IO

import click

from fleetnet_server.cli.completing import complete_device
from fleetnet_server.cli.durations import Duration
from fleetnet_server.cli.output import flat, format_value, json_option, print_json
from fleetnet_server.config import load_settings
from fleetnet_server.core.configs import Config
from fleetnet_server.errors import StoreError
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.opening import open_store

_POLL_S = 0.05


@click.group()
def config() -> None:
    """Set and show devices' configurations."""


@config.command("set")
@click.argument("device", shell_complete=complete_device)
@click.argument("file", type=click.File("rb"))
@click.option(
    "--wait", "wait_s", type=Duration(), default=0.0,
    help="Wait so long for what the device says of it (10s). Default: not at all.",
)
@json_option
@click.pass_obj
def set_config(
    folder: Path, device: str, file: IO[bytes], wait_s: float, as_json: bool
) -> None:  # fmt: skip
    """Give DEVICE the JSON object in FILE (- is standard input).

    A device that is connected gets it within a second, another one when it comes. With --wait
    exit code 1 says that the device rejected it, or did not speak of it in time.
    """
    try:
        document = json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{file.name} is no JSON: {error}", param_hint="FILE") from error
    with open_store(load_settings(folder).store_place(folder)) as store:
        table = CommandTable(store)
        try:
            number = table.device(device).id
            version = table.set_config(number, document)
        except ValueError as error:
            raise click.BadParameter(f"{file.name}: {error}", param_hint="FILE") from error
        found = _wait(table, number, version, wait_s)
    said = found is not None and found.state_version == version
    if as_json:
        state = found.state if said and found is not None else None
        print_json({"device": device, "version": version, "state": state})
    elif said and found is not None:
        click.echo(flat(_state(found)))
    else:
        click.echo(f"Version {version} is set: `fleetnet config get {device}` shows its state.")
    if wait_s and (not said or found is None or found.state == "rejected"):
        raise SystemExit(1)


def _wait(table: CommandTable, device_id: int, version: int, wait_s: float) -> Config | None:
    """Return what the device says of a version, or of an older one after ``wait_s``."""
    deadline = time.monotonic() + wait_s
    while wait_s:
        found = table.config(device_id)
        if found is None or found.state_version == version or found.version != version:
            return found
        if time.monotonic() >= deadline:
            return found
        time.sleep(_POLL_S)
    return None


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
        return (
            f"version {found.version}: rejected: {found.reported}; what the device had before stays"
        )
    return f"version {found.version}: applied, reported {format_value(found.reported)}"
