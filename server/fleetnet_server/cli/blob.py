"""`fleetnet blob`: files and frames that devices sent."""

import shutil
import sys
from pathlib import Path

import click

from fleetnet_server.cli.output import format_time, print_json, print_table
from fleetnet_server.config import load_settings
from fleetnet_server.errors import StoreError
from fleetnet_server.store.blobs import StoredBlob, find_blob, list_blobs

# IANA CoAP content formats that devices use (RFC 7252 section 12.3 and its registry).
_FORMATS = {0: "text", 22: "jpeg", 23: "png", 42: "bytes", 50: "json", 60: "cbor"}


@click.group()
def blob() -> None:
    """List and fetch files and frames that devices sent."""


@blob.command("list")
@click.option("--device", help="Only this device.")
@click.option("--name", help="Only blobs of this name.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many, the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines: one object a blob.")
@click.pass_obj
def list_command(
    folder: Path, device: str | None, name: str | None, limit: int | None, as_json: bool
) -> None:
    """Print blobs, the newest first."""
    found = list_blobs(load_settings(folder).store_path(folder), device, name, limit)
    if as_json:
        for one in found:
            print_json(one._asdict())
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
@click.pass_obj
def get_command(folder: Path, blob_id: int, target: Path) -> None:
    """Copy the content of blob ID to the file TARGET, or to standard output for `-`."""
    one = find_blob(load_settings(folder).store_path(folder), blob_id)
    source = folder / "blobs" / one.path
    try:
        if str(target) == "-":
            with source.open("rb") as content:
                shutil.copyfileobj(content, sys.stdout.buffer)
        else:
            shutil.copyfile(source, target)
    except FileNotFoundError as error:
        raise StoreError(f"blob {blob_id}: {error.filename} is missing") from error
