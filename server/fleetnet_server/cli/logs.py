"""`fleetnet logs`: what devices logged."""

from pathlib import Path

import click

from fleetnet_server.cli.output import format_time, print_json, print_table
from fleetnet_server.cli.query import Moment
from fleetnet_server.config import load_settings
from fleetnet_server.store.logs import logs as read_logs


@click.command()
@click.argument("device", required=False)
@click.option("--start", "start_ms", type=Moment(), help="Not before; ISO 8601 or unix ms.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many, the oldest.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines: one object a line.")
@click.pass_obj
def logs(
    folder: Path, device: str | None, start_ms: int | None, limit: int | None, as_json: bool
) -> None:
    """Print what DEVICE, or all devices, logged, in order of time."""
    found = read_logs(load_settings(folder).store_path(folder), device, start_ms, limit)
    if as_json:
        for line in found:
            print_json(line._asdict())
        return
    print_table(
        ("TIME", "DEVICE", "LEVEL", "TEXT"),
        ((format_time(line.unix_ms), line.device, line.level, line.text) for line in found),
    )
