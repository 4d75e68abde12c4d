"""`fleetnet logs`: what devices logged."""

from pathlib import Path

import click

from fleetnet_server.cli.completing import complete_device
from fleetnet_server.cli.output import (
    format_time,
    json_lines_option,
    print_json_lines,
    print_table,
)
from fleetnet_server.cli.times import since_option
from fleetnet_server.config import load_settings
from fleetnet_server.store.logs import logs as read_logs


@click.command()
@click.argument("device", required=False, shell_complete=complete_device)
@since_option
@click.option("--limit", type=click.IntRange(min=1), help="At most this many, the oldest.")
@json_lines_option("a line")
@click.pass_obj
def logs(
    folder: Path, device: str | None, since_ms: int | None, limit: int | None, as_json: bool
) -> None:
    """Print what DEVICE, or all devices, logged, in order of time."""
    found = read_logs(load_settings(folder).store_place(folder), device, since_ms, limit)
    if as_json:
        print_json_lines(line._asdict() for line in found)
        return
    print_table(
        ("TIME", "DEVICE", "LEVEL", "TEXT"),
        ((format_time(line.unix_ms), line.device, line.level, line.text) for line in found),
    )
