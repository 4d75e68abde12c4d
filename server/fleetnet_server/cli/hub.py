"""`fleetnet hub`: which sensors a hub may speak for, and the certificate by which they know it.

`assign` and `unassign` write the store; a running server acts on it within a quarter of a second.
"""

import shutil
from datetime import timedelta
from pathlib import Path

import click

from fleetnet_server.cli.actor import actor
from fleetnet_server.cli.completing import complete_device
from fleetnet_server.cli.output import format_time, json_option, print_json, print_table
from fleetnet_server.config import load_settings
from fleetnet_server.errors import FolderError, unknown_device
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.certificate import public_key_hash
from fleetnet_server.identity.files import (
    hidden_beside,
    make_private_folder,
    move_folder_into_place,
    write_new_file,
)
from fleetnet_server.store.hubs import HubTable
from fleetnet_server.store.opening import open_store


@click.group()
def hub() -> None:
    """Say whose messages a hub may bring."""


_HUB = click.argument("name", metavar="HUB", shell_complete=complete_device)
_SENSORS = click.argument(
    "sensors", metavar="SENSOR...", nargs=-1, required=True, shell_complete=complete_device
)


@hub.command()
@_HUB
@_SENSORS
@json_option
@click.pass_obj
def assign(folder: Path, name: str, sensors: tuple[str, ...], as_json: bool) -> None:
    """Let device HUB bring messages of SENSORs, which then may connect to it.

    A sensor may have several hubs, and may connect to the server itself as well.
    """
    with open_store(load_settings(folder).store_place(folder)) as store:
        new = HubTable(store).assign(name, sensors, actor())
    if as_json:
        print_json({"hub": name, "assigned": new})
    else:
        click.echo(f"{len(new)} assigned to {name}.")


@hub.command()
@_HUB
@_SENSORS
@json_option
@click.pass_obj
def unassign(folder: Path, name: str, sensors: tuple[str, ...], as_json: bool) -> None:
    """Let device HUB bring messages of SENSORs no longer; it sends them away.

    What HUB still holds of them is not taken any more: wait until it is connected.
    """
    with open_store(load_settings(folder).store_place(folder)) as store:
        gone = HubTable(store).unassign(name, sensors, actor())
    if as_json:
        print_json({"hub": name, "unassigned": gone})
    else:
        click.echo(f"{len(gone)} no longer assigned to {name}.")


@hub.command("list")
@click.argument("name", metavar="[HUB]", required=False, shell_complete=complete_device)
@json_option
@click.pass_obj
def list_hubs(folder: Path, name: str | None, as_json: bool) -> None:
    """List hubs and their sensors, and when each last came through its hub."""
    with open_store(load_settings(folder).store_place(folder)) as store:
        if name is not None and store.lookup(name) is None:
            raise unknown_device(name)
        found = HubTable(store).assignments(name)
    if as_json:
        print_json([each._asdict() for each in found])
        return
    print_table(
        ("HUB", "SENSOR", "ASSIGNED", "CAME THROUGH IT"),
        [
            (
                each.hub, each.sensor, format_time(each.assigned_ms),
                "-" if each.came_ms is None else format_time(each.came_ms),
            )
            for each in found
        ],
    )  # fmt: skip


@hub.command()
@_HUB
@click.option(
    "--host", "hosts", multiple=True, required=True, metavar="NAME|IP",
    help="Name or address that sensors connect to; repeat it for more.",
)
@json_option
@click.pass_obj
def cert(folder: Path, name: str, hosts: tuple[str, ...], as_json: bool) -> None:
    """Make the key and certificate by which sensors know device HUB, in FOLDER/hubs/HUB.

    The fleet needs a flat CA (`fleetnet init --flat-ca`): MicroPython presents one certificate,
    which the sensors' anchor must have signed. Prints the pin of the key.
    """
    settings = load_settings(folder)
    with open_store(settings.store_place(folder)) as store:
        if store.lookup(name) is None:
            raise unknown_device(name)
    authority = Authority.load(folder)
    if authority.issuing_certificate != authority.bundle_anchor:
        raise FolderError(
            "this fleet's CA has an issuing CA below it, whose certificate a hub cannot present: "
            "make the fleet with `fleetnet init --flat-ca`"
        )
    lifetime = timedelta(seconds=settings.server_lifetime_s)
    issued = authority.issue_server(hosts, lifetime=lifetime)
    files = {
        "ca.der": authority.bundle_anchor, "cert.der": issued.certificate, "key.der": issued.key,
    }  # fmt: skip
    made = _place(folder / "hubs" / name, files)
    pin = public_key_hash(issued.certificate).hex()
    if as_json:
        print_json({"hub": name, "folder": str(made), "pin": pin})
    else:
        click.echo(f"Copy {made} to {name}; the key in it exists nowhere else. Pin: {pin}")


def _place(place: Path, files: dict[str, bytes]) -> Path:
    """Make a folder with these files, whole or not at all. Raises FolderError."""
    temporary = hidden_beside(place)
    try:
        place.parent.mkdir(mode=0o700, exist_ok=True)
        make_private_folder(temporary)
        for name, content in files.items():
            write_new_file(temporary / name, content)
        move_folder_into_place(temporary, place)
    except OSError as error:
        raise FolderError(f"{place} cannot be made: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return place
