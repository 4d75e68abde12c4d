"""`fleetnet tail`: readings as they become durable."""

import contextlib
import sys
import threading
import time
from pathlib import Path

import click

from fleetnet_server.cli.output import (
    format_time,
    format_value,
    json_lines_option,
    print_json,
    print_line,
)
from fleetnet_server.cli.times import names_options
from fleetnet_server.config import load_settings
from fleetnet_server.served import is_surely_idle
from fleetnet_server.store.following import follow
from fleetnet_server.store.selection import device_names, is_pattern, matches

_LOOK_S = 1.0  # between two looks whether the server is there


@click.command()
@names_options
@click.option("--from-start", is_flag=True, help="Begin with the oldest reading, not the newest.")
@json_lines_option("a reading")
@click.pass_obj
def tail(
    folder: Path, devices: tuple[str, ...], channels: tuple[str, ...], from_start: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Print readings as they become durable, until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        _follow(folder, devices, channels, from_start, as_json)


def _follow(
    folder: Path, devices: tuple[str, ...], channels: tuple[str, ...], from_start: bool,
    as_json: bool,
) -> None:  # fmt: skip
    path = load_settings(folder).store_place(folder)
    device_names(path, devices)  # a misspelt one would be waited for in vain
    is_idle = is_surely_idle(folder)
    if is_idle:
        click.echo(
            f"No server runs on {folder}: nothing new comes until `fleetnet serve` does.", err=True
        )
    elif sys.stderr.isatty():
        click.echo("Waiting for readings; Ctrl-C ends.", err=True)
    threading.Thread(target=_look_after, args=(folder, is_idle), daemon=True).start()
    one = devices[0] if len(devices) == 1 and not is_pattern(devices[0]) else None
    for reading in follow(path, 0 if from_start else None, device=one):
        if not matches(reading.device, devices) or not matches(reading.channel, channels):
            continue
        if as_json:
            print_json(reading._asdict())
        else:
            when = format_time(reading.unix_ms)
            print_line((when, reading.device, reading.channel, format_value(reading.value)))


def _look_after(folder: Path, is_idle: bool) -> None:
    """Say when the server ends or comes back: without a word silence would look like quiet."""
    while True:
        time.sleep(_LOOK_S)
        if is_surely_idle(folder) == is_idle:
            continue
        is_idle = not is_idle
        what = "has ended: nothing new comes until it runs" if is_idle else "is there"
        click.echo(f"The server of {folder} {what} again.", err=True)
