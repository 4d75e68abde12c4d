"""`fleetnet store`: how large the store is; backups of it."""

import time
from pathlib import Path

import click

from fleetnet_server.cli.actor import actor
from fleetnet_server.cli.output import (
    format_time,
    json_option,
    print_json,
    print_result,
    print_table,
    progress,
)
from fleetnet_server.cli.store_copy import copy
from fleetnet_server.cli.store_postgres import migrate, roles
from fleetnet_server.config import load_settings
from fleetnet_server.errors import FolderError
from fleetnet_server.served import is_served
from fleetnet_server.store.backup import make_backup
from fleetnet_server.store.inventory import Inventory, take_inventory
from fleetnet_server.store.restore import restore_backup
from fleetnet_server.store_place import StorePlace
from fleetnet_server.wording import counted

_MIB = 1 << 20


@click.group()
def store() -> None:
    """Show the store; back it up and restore it; set PostgreSQL up."""


store.add_command(copy)
store.add_command(migrate)
store.add_command(roles)


@store.command()
@json_option
@click.pass_obj
def show(folder: Path, as_json: bool) -> None:
    """Print what the store has, its size, and what retention would end now.

    Beside a running server; counting takes 1 to 2 s for 100 million readings. Of PostgreSQL,
    rows of large tables are as many as its statistics say.
    """
    place = load_settings(folder).store_place(folder)
    with progress("counting") as advance:
        found = take_inventory(folder, place, time.time_ns() // 1_000_000, advance)
    if as_json:
        print_json({"store": str(place), **found._asdict()})
        return
    rows = _of_file(place, found) if isinstance(place, Path) else _of_database(place, found)
    rows += [
        ("summed up", f"{counted(found.minutes, 'minute')}, {counted(found.hours, 'hour')}"),
        ("blobs", f"{found.blobs}; {found.blob_bytes / _MIB:.1f} MiB, the same content once"),
        ("retention ends", found.retention_error or f"{counted(found.ending_readings, 'reading')},"
         f" {found.ending_blob_bytes / _MIB:.1f} MiB of blobs"),
    ]  # fmt: skip
    if found.restored_ms is not None:
        was = f"{format_time(found.restored_ms)}, from {format_time(found.backup_ms)}"
        rows.append(("restored", was))
    print_table(("WHAT", "HOW MUCH"), rows)


def _of_file(path: Path, found: Inventory) -> list[tuple[str, str]]:
    return [
        ("file", f"{path}, {found.file_bytes / _MIB:.1f} MiB"),
        ("write-ahead log", f"{found.log_bytes / _MIB:.1f} MiB"),
        ("devices", f"{found.devices}"),
        ("messages", f"{found.messages} not compacted, {found.held} of them without a date"),
        ("readings", f"{found.chunk_readings} in {counted(found.chunks, 'chunk')} of"
         f" {found.series} series"),
    ]  # fmt: skip


def _of_database(place: StorePlace, found: Inventory) -> list[tuple[str, str]]:
    return [
        ("database", f"{place}, {found.file_bytes / _MIB:.1f} MiB"),
        ("devices", f"{found.devices}"),
        ("messages", f"{found.messages} kept, {found.held} of them without a date"),
        ("readings", f"{found.chunk_readings} of {found.series} series"),
    ]


@store.command()
@click.argument("target", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--with-keys", is_flag=True,
              help="The keys of CA, server and devices as well: guard FILE like the CA.")
@json_option
@click.pass_obj
def backup(folder: Path, target: Path, with_keys: bool, as_json: bool) -> None:
    """Write the store, its blobs and the settings into FILE, while the server runs.

    It is the store of one moment. Keys are not in it without --with-keys: keep copies of ca/,
    server/ and secret.key elsewhere. Needs free disk for the store twice.
    """
    path = load_settings(folder).store_path(folder, "this backup is")
    with progress("backing up") as advance:
        made = make_backup(folder, path, target, with_keys, advance)
    text = f"{target}: {made.bytes / _MIB:.1f} MiB, {counted(made.blobs, 'blob')}, "
    text += "with the keys." if with_keys else f"without keys: keep {_keys_of(folder)} too."
    print_result(as_json, {"file": str(target), **made._asdict(), "with_keys": with_keys}, text)
    if made.lost_blobs:
        click.echo(f"A quota removed {counted(made.lost_blobs, 'blob')} meanwhile.", err=True)


@store.command()
@click.argument("source", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@json_option
@click.pass_obj
def restore(folder: Path, source: Path, as_json: bool) -> None:
    """Put the backup FILE into FOLDER, which must be new or empty.

    Everything is verified first. What was revoked, removed or disabled since the backup is good
    again: say it once more before the server starts.
    """
    if is_served(folder):
        raise FolderError(f"a server runs on {folder}: stop it, and restore into a new folder")
    with progress("restoring") as advance:
        found = restore_backup(source, folder, actor(), advance)
    moment = format_time(found.made_ms)
    text = f"{folder}: {counted(found.files, 'file')} as of {moment}."
    print_result(as_json, {"folder": str(folder), **found._asdict()}, text)
    click.echo(
        f"Revoke, remove and disable again what was since {moment}: devices, certificates, tokens.",
        err=True,
    )
    if not found.has_keys:
        click.echo(
            f"No keys were in it: copy ca/ and server/ to {folder}, and secret.key if there was"
            " one (of pre-shared keys).",
            err=True,
        )


def _keys_of(folder: Path) -> str:
    # Only a fleet with pre-shared keys has the third.
    return "ca/, server/, secret.key" if (folder / "secret.key").exists() else "ca/ and server/"
