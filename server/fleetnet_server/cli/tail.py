"""`fleetnet tail`: readings as they become durable."""

from pathlib import Path

import click

from fleetnet_server.cli.output import format_time, format_value, print_json, print_line
from fleetnet_server.config import load_settings
from fleetnet_server.store.query import follow


@click.command()
@click.option("--device", help="Only this device.")
@click.option("--channel", help="Only this channel.")
@click.option("--from-start", is_flag=True, help="Begin with the oldest message, not the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines: one object a reading.")
@click.pass_obj
def tail(
    folder: Path, device: str | None, channel: str | None, from_start: bool, as_json: bool
) -> None:
    """Print readings as they become durable, until Ctrl-C."""
    path = load_settings(folder).store_path(folder)
    after_id = 0 if from_start else None
    try:
        for reading in follow(path, after_id, device=device, channel=channel):
            if as_json:
                print_json(reading._asdict())
            else:
                when = format_time(reading.unix_ms)
                value = format_value(reading.value)
                print_line((when, reading.device, reading.channel, value))
    except KeyboardInterrupt:
        return
