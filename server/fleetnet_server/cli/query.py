"""`fleetnet query`: stored readings in order of time, or what they were by the minute or hour."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import click

from fleetnet_server.cli.durations import Duration
from fleetnet_server.cli.output import (
    format_time,
    format_value,
    json_lines_option,
    print_json_lines,
    print_table,
)
from fleetnet_server.cli.times import selection_options
from fleetnet_server.config import load_settings
from fleetnet_server.store.query import Reading
from fleetnet_server.store.selection import Selection, select
from fleetnet_server.store.summaries import SeriesSummary, has_sums, summarize_all

SUMMED_UP = (
    "Some of these times are summed up (retention.toml): `fleetnet query --every 1m`, or 1h,"
    " has their numbers."
)


@click.command()
@selection_options
@click.option("--every", "step_s", type=Duration(), metavar="DURATION",
              help="Count, lowest, mean and highest number of each 10s, 5m, 1h, 1d.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many, the oldest.")
@json_lines_option("a reading, or a step of a channel")
@click.pass_obj
def query(
    folder: Path, devices: tuple[str, ...], channels: tuple[str, ...], since_ms: int | None,
    until_ms: int | None, step_s: float | None, limit: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Print stored readings in order of time; those without a date come last.

    The answer streams, whatever its size. Into a file: `fleetnet export`. What retention.toml let
    go of is still there with --every, as long as its minutes or hours are kept.
    """
    path = load_settings(folder).store_place(folder)
    wanted = Selection(devices, channels, since_ms, until_ms)
    if step_s is not None:
        steps = summarize_all(path, wanted, max(1, round(step_s * 1000)))
        first = list(islice(steps, 1))
        _print_steps(islice(chain(first, steps), limit), as_json)
        if not first and any(True for _one in select(path, wanted, 1)):
            click.echo("No numbers with a date there, which --every sums up: see it without.",
                       err=True)  # fmt: skip
        return
    found = select(path, wanted, limit)
    if as_json:
        print_json_lines(reading._asdict() for reading in found)
    else:
        print_table(("TIME", "DEVICE", "CHANNEL", "VALUE"), _rows(found))
    if has_sums(path, wanted):
        click.echo(SUMMED_UP, err=True)


def _print_steps(found: Iterable[SeriesSummary], as_json: bool) -> None:
    if as_json:
        print_json_lines(one._asdict() for one in found)
        return
    columns = ("TIME", "DEVICE", "CHANNEL", "COUNT", "LOWEST", "MEAN", "HIGHEST")
    rows = (
        (format_time(one.unix_ms), one.device, one.channel, str(one.count),
         f"{one.low:.15g}", f"{one.mean:.6g}", f"{one.high:.15g}")
        for one in found
    )  # fmt: skip
    print_table(columns, rows)


def _rows(found: Iterable[Reading]) -> Iterator[tuple[str, str, str, str]]:
    for reading in found:
        yield (
            format_time(reading.unix_ms),
            reading.device,
            reading.channel,
            format_value(reading.value),
        )
