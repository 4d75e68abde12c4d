"""`fleetnet blob`: files and frames that devices sent."""

import shutil
import sys
from pathlib import Path

import click

from fleetnet_server.cli.completing import complete_device
from fleetnet_server.cli.output import (
    flat,
    format_time,
    json_lines_option,
    json_option,
    print_json_lines,
    print_result,
    print_table,
)
from fleetnet_server.cli.whole_file import whole_file
from fleetnet_server.config import load_settings
from fleetnet_server.errors import StoreError
from fleetnet_server.store.blobs import StoredBlob, find_blob, list_blobs

# IANA CoAP content formats that devices use (RFC 7252 section 12.3 and its registry).
_FORMATS = {0: "text", 22: "jpeg", 23: "png", 42: "bytes", 50: "json", 60: "cbor"}


@click.group()
def blob() -> None:
    """List and fetch files and frames that devices sent."""


@blob.command("list")
@click.option("--device", shell_complete=complete_device, help="Only this device.")
@click.option("--name", help="Only blobs of this name.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True,
              help="At most this many, the newest.")
@json_lines_option("a blob")
@click.pass_obj
def list_command(
    folder: Path, device: str | None, name: str | None, limit: int, as_json: bool
) -> None:
    """Print the newest blobs, the newest last."""
    found = list_blobs(load_settings(folder).store_place(folder), device, name, limit)[::-1]
    if as_json:
        print_json_lines(one._asdict() for one in found)
        return
    columns = ("ID", "TIME", "DEVICE", "NAME", "FORMAT", "BYTES", "SHA-256")
    print_table(columns, [_row(one) for one in found])


def _row(one: StoredBlob) -> tuple[str, ...]:
    return (
        str(one.id),
        format_time(one.time_ms),
        one.device,
        one.name,
        _FORMATS.get(one.content_format, str(one.content_format)),
        str(one.size),
        one.sha256[:16],
    )


@blob.command("get")
@click.argument("blob_id", type=click.IntRange(min=1), metavar="ID")
@click.argument("target", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--overwrite", is_flag=True, help="TARGET may exist: replace it.")
@json_option
@click.pass_obj
def get_command(
    folder: Path, blob_id: int, target: Path, overwrite: bool, as_json: bool
) -> None:
    """Copy the content of blob ID to the file TARGET, or to standard output for `-`."""
    one = find_blob(load_settings(folder).store_place(folder), blob_id)
    source = folder / "blobs" / one.path
    try:
        content = source.open("rb")
    except FileNotFoundError as error:
        raise StoreError(f"blob {blob_id}: {error.filename} is missing") from error
    with content:
        if str(target) == "-":
            shutil.copyfileobj(content, sys.stdout.buffer)
            sys.stdout.flush()  # here a closed pipe is an error that click knows
            return
        with whole_file(target, overwrite) as temporary, temporary.open("wb") as copy:
            shutil.copyfileobj(content, copy)
    text = f"{target}: {one.size} B, {flat(one.name)} of {one.device}."
    print_result(as_json, {"file": str(target), **one._asdict()}, text)
