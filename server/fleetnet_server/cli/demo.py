"""`fleetnet demo`: see sim/demo.py; this file shows it."""

import asyncio
import json
import signal
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from fleetnet_server.sim.demo import Demo


@click.command()
@click.option("--seconds", default=3600, show_default=True, help="How long the devices send.")
@click.option("--rate", default=10, show_default=True, help="Samples a second; each is 2 readings.")
@click.option("--devices", default=3, show_default=True, help="Devices on TLS, and on DTLS.")
@click.option("--keep", type=click.Path(path_type=Path), help="Make the fleet here and keep it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document at the end.")
def demo(seconds: int, rate: int, devices: int, keep: Path | None, as_json: bool) -> None:
    """Run a back-end and real MicroPython devices, and compare what was sent and stored.

    Exits with 1 when sent, acknowledged and stored differ for any device. Ctrl-C ends it
    early and cleanly; the comparison is made all the same.

    MicroPython is looked for in FLEETNET_MICROPYTHON (programs, separated by colons), on PATH, and
    in .tools of the working directory and of fleetnet's checkout, where `make demo` puts it.
    """
    run = Demo(seconds, rate, devices, keep)
    console = Console(stderr=as_json)
    agreed = asyncio.run(_show(run, console))
    if as_json:
        rows = [
            {"device": d.name, "transport": d.transport, "firmware": d.firmware, "sent": d.sent,
             "acknowledged": d.acknowledged, "stored": d.stored, "agrees": d.agrees}
            for d in run.devices
        ]  # fmt: skip
        click.echo(json.dumps({"agrees": agreed, "devices": rows}))
    else:
        console.print(_table(run, final=True))
        total = sum(device.stored for device in run.devices)
        if agreed:
            console.print(f"{total} readings: sent = acknowledged = stored, on every device.")
        else:
            console.print("The numbers do not agree.", style="bold red")
    sys.exit(0 if agreed else 1)


async def _show(run: Demo, console: Console) -> bool:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, run.stop)
    if not console.is_interactive:
        return await run.run(lambda: None)
    began = time.monotonic()
    with Live(console=console, refresh_per_second=4, transient=True) as live:

        def refresh() -> None:
            live.update(_table(run, final=False, elapsed=time.monotonic() - began))

        return await run.run(refresh)


def _table(run: Demo, final: bool, elapsed: float = 0.0) -> Table:
    title = f"fleetnet demo: {run.ports}"
    if not final:
        title += f", {elapsed:.0f} of {run.seconds} s (Ctrl-C)"
    table = Table(title=title, min_width=len(title) + 2)
    # Eighty columns hold it: what went wrong stands below the table.
    for heading in ("device", "link", "MicroPython", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("sent", "acked", "stored") if final else ("sent", "acked"):
        table.add_column(heading, justify="right", no_wrap=True)
    if final:
        table.add_column("", no_wrap=True)
    for device in run.devices:
        state = "done" if device.report.get("done") else device.report.get("state", "starting")
        version = device.firmware.removeprefix("MicroPython ")
        cells = [device.name, device.transport, version, state]
        cells += [str(device.sent), str(device.acknowledged)]
        if final:
            cells += [str(device.stored), "agrees" if device.agrees else "differs"]
        table.add_row(*cells)
    errors = [f"{d.name}: {d.report['error']}" for d in run.devices if d.report.get("error")]
    if errors:
        table.caption = "\n".join(errors)
    return table
