"""`fleetnet sim`: see sim/load.py; this file shows it."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.progress import Progress
from rich.table import Table

from fleetnet_server.config import load_settings
from fleetnet_server.sim.load import Load


@click.command()
@click.option("--devices", default=100, show_default=True, type=click.IntRange(1, 20_000))
@click.option("--processes", default=2, show_default=True, type=click.IntRange(1, 64))
@click.option("--seconds", default=30, show_default=True, type=click.IntRange(1))
@click.option("--rate", default=1.0, show_default=True, help="Readings a second of each device.")
@click.option("--transport", type=click.Choice(["tls", "dtls", "mixed"]), default="mixed")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document at the end.")
@click.pass_obj
def sim(
    folder: Path,
    devices: int,
    processes: int,
    seconds: int,
    rate: float,
    transport: str,
    as_json: bool,
) -> None:
    """Run simulated devices against this fleet's server.

    They are registered as sim-LINK-0001 and so on, and each runs the real device library.
    Exits with 1 when anything that was sent was not acknowledged.
    """
    console = Console(stderr=as_json)
    load = Load(folder, load_settings(folder), devices, processes)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("registering devices", total=devices)
        bundles = load.make_bundles(
            transport, lambda made: progress.update(task, completed=made)
        )
    sums = asyncio.run(_show(load, bundles, seconds, rate, console))
    complete = sums["done"] and sums["sent"] == sums["acknowledged"]
    if as_json:
        click.echo(json.dumps(sums))
    else:
        console.print(_table(load))
    sys.exit(0 if complete else 1)


async def _show(
    load: Load, bundles: list[Path], seconds: int, rate: float, console: Console
) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, load.stop)
    if not console.is_terminal:
        return await load.run(bundles, seconds, rate, lambda: None)
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        return await load.run(bundles, seconds, rate, lambda: live.update(_table(load)))


def _table(load: Load) -> Table:
    sums = load.sums()
    table = Table(title="fleetnet sim")
    for heading in ("devices", "online", "sent", "acknowledged", "dropped", "connects"):
        table.add_column(heading, justify="right")
    table.add_column("errors")
    numbers = [
        str(sums[key])
        for key in ("devices", "online", "sent", "acknowledged", "dropped", "connects")
    ]
    table.add_row(*numbers, ", ".join(sums["errors"]))
    return table
