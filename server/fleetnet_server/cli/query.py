"""`fleetnet query`: stored readings in order of time."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from fleetnet_server.cli.output import format_time, format_value, print_json, print_table
from fleetnet_server.config import load_settings
from fleetnet_server.store.query import Reading
from fleetnet_server.store.query import query as query_store


class Moment(click.ParamType[int]):
    """ISO 8601 (UTC unless it says otherwise) or unix milliseconds; converts to unix ms."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        text = str(value)
        if text.isascii() and text.isdigit():
            return int(text)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r} is no time: write 2026-01-31T12:00:00 or unix ms", param, ctx)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)


@click.command()
@click.option("--device", help="Only this device.")
@click.option("--channel", help="Only this channel.")
@click.option("--start", "start_ms", type=Moment(), help="Not before; ISO 8601 or unix ms.")
@click.option("--end", "end_ms", type=Moment(), help="Not after; ISO 8601 or unix ms.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many, the oldest.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines: one object a reading.")
@click.pass_obj
def query(
    folder: Path,
    device: str | None,
    channel: str | None,
    start_ms: int | None,
    end_ms: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Print stored readings in order of time; those without a date come last."""
    path = load_settings(folder).store_path(folder)
    found = query_store(path, device, channel, start_ms, end_ms, limit)
    if as_json:
        for reading in found:
            print_json(reading._asdict())
        return
    print_table(("TIME", "DEVICE", "CHANNEL", "VALUE"), _rows(found))


def _rows(found: Iterator[Reading]) -> Iterator[tuple[str, str, str, str]]:
    for reading in found:
        yield (
            format_time(reading.unix_ms),
            reading.device,
            reading.channel,
            format_value(reading.value),
        )
