"""`fleetnet sim`: see sim/simulation.py; this file takes the order and shows the outcome."""

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from fleetnet_server.cli.output import print_json, progress
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.served import is_served
from fleetnet_server.sim.bundles import bundles_path, make_bundles
from fleetnet_server.sim.faults import FAULTS
from fleetnet_server.sim.plan import DAY_S, Plan
from fleetnet_server.sim.report import document
from fleetnet_server.sim.shapes import SHAPES
from fleetnet_server.sim.simulation import Order, Simulation
from fleetnet_server.sim.storm import STORMS
from fleetnet_server.sim.tables import final_tables, live_table
from fleetnet_server.sim.wire import Address
from fleetnet_server.wording import counted

# Of the past a reading a minute is a usual amount; of the present one a second.
_HISTORY_RATE, _RATE = 1 / 60, 1.0

_SECONDS = 30.0

# So long after the ramp a storm comes; what is steady before it can be measured.
_STORM_AT_S = 10.0

# Over DTLS a device whose server was killed notices within its keepalive of 25 s; then 30 s
# are left to look at.
_AFTER_STORM_S = 55.0


@click.command()
@click.option("--devices", default=100, show_default=True, type=click.IntRange(1, 20_000))
@click.option("--processes", default=2, show_default=True, type=click.IntRange(1, 64))
@click.option(
    "--micropython",
    default=0,
    type=click.IntRange(0, 200),
    help="As many devices more, each in a MicroPython process (`fleetnet demo -h`: which).",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 86_400),
    help="How long all send, after the ramp.  [default: 30; with a storm until it is over]",
)
@click.option(
    "--rate",
    type=click.FloatRange(0.0001, 1000),
    help="Readings a second of each device.  [default: 1; with --days one a minute]",
)
@click.option(
    "--transport",
    type=click.Choice(["tls", "dtls", "auto", "mixed"]),
    default="mixed",
    show_default=True,
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    type=click.Choice(list(SHAPES)),
    default=["steady"],
    show_default=True,
    help="Kind of traffic; given again, devices take turns.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    type=click.Choice(list(FAULTS)),
    help="What strikes every device; may be given again.",
)
@click.option(
    "--ramp",
    default=100.0,
    show_default=True,
    type=click.FloatRange(0, 100_000),
    help="Devices that start in a second; 0: all at once.",
)
@click.option(
    "--storm-at",
    type=click.FloatRange(0, 86_400),
    metavar="SECONDS",
    help="When the storm comes: so long after the ramp.  [default: 10 with --storm]",
)
@click.option(
    "--storm",
    default=None,
    type=click.Choice(STORMS),
    help="What restarts: the server (by SIGTERM, or by kill -9), or every device.  "
    "[default with --storm-at: restart; power for a server that runs already]",
)
@click.option(
    "--impatient",
    is_flag=True,
    help="Devices try again every 0.5 s, whatever the server asks: the known bad fleet.",
)
@click.option("--seed", default=1, show_default=True, help="Same seed, same schedule.")
@click.option(
    "--days",
    default=0.0,
    type=click.FloatRange(0, 366),
    help="Make the past: so many days of readings, dated as they would have been.",
)
@click.option(
    "--scale",
    default=0.0,
    type=click.FloatRange(0),
    help="Seconds of past in a second; 0: as fast as it goes.",
)
@click.option(
    "--server",
    metavar="HOST[:PORT]",
    help="A server that is elsewhere; TLS and DTLS on the same port, 7443 if none is named.",
)
@click.option(
    "--bundles",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="For --server: the file that --only-make made there.",
)
@click.option("--only-make", is_flag=True, help="Register the devices, name their file, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document at the end.")
@click.pass_obj
def sim(folder: Path, /, only_make: bool, as_json: bool, **options: Any) -> None:
    """Run simulated devices against a server, and report what came of it.

    The devices are registered as sim-00001 and so on, and run the real device library. When no
    server uses the fleet's folder, one is started for the run, on free ports of this machine.
    Exits with 1 when a reading is missing, or is stored twice.
    """
    order = _order(folder, **options)
    if only_make:
        _make_devices(order)
        if as_json:
            print_json({"bundles": str(order.bundles), "devices": options["devices"]})
        else:
            click.echo(f"{order.bundles}: private keys of {counted(options['devices'], 'device')}.")
        return
    simulation = Simulation(order)  # it refuses before a device is registered
    _make_devices(order)
    console = Console(stderr=as_json)
    asyncio.run(_show(simulation, console))
    simulation.compare()
    found = document(simulation)
    if as_json:
        print_json(found)
    else:
        console.print(final_tables(found))
    sys.exit(0 if found["complete"] else 1)


def _order(folder: Path, **options: Any) -> Order:
    days = options["days"]
    if options["scale"] and not days:
        raise click.UsageError("--scale is for the past: say how much with --days")
    rate = options["rate"] or (_HISTORY_RATE if days else _RATE)
    settings = None if options["server"] else load_settings(folder)
    now_ms = time.time_ns() // 1_000_000
    plan = Plan(
        seconds=_seconds(options, settings), rate=rate, transport=options["transport"],
        devices=options["devices"], patient=not options["impatient"],
        shapes=tuple(options["shapes"]), faults=tuple(options["faults"]), seed=options["seed"],
        ramp=options["ramp"], scale=options["scale"], days=days,
        # Milliseconds, times a thousand: no two runs share numbers, and they fit a double.
        base=now_ms * 1000, history_ms=now_ms - int(days * DAY_S * 1000) if days else 0,
    )  # fmt: skip
    common: dict[str, Any] = {
        "plan": plan, "devices": options["devices"], "processes": options["processes"],
        "storm_at_s": _storm_at_s(options), "micropython": options["micropython"],
    }  # fmt: skip
    if settings is None:
        if options["bundles"] is None:
            raise click.UsageError("--server needs --bundles: the file that --only-make made there")
        return Order(
            bundles=options["bundles"], folder=None, settings=None, storm="power",
            address=_address(options["server"]), **common,
        )  # fmt: skip
    storm = options["storm"] or ("power" if is_served(folder) else "restart")
    return Order(
        bundles=bundles_path(folder), folder=folder, settings=settings, storm=storm, **common
    )


def _make_devices(order: Order) -> None:
    """Register the devices, unless they were made elsewhere."""
    if order.folder is None or order.settings is None:
        return
    count = order.devices + order.micropython
    with progress("making devices") as advance:
        make_bundles(
            order.folder, order.settings, count, lambda n: advance(n / count, f"{n} of {count}")
        )


def _storm_at_s(options: dict[str, Any]) -> float | None:
    at_s: float | None = options["storm_at"]
    return _STORM_AT_S if at_s is None and options["storm"] else at_s


def _seconds(options: dict[str, Any], settings: Settings | None) -> float:
    """Return how long all send: as ordered, or until a storm is over."""
    storm_at_s = _storm_at_s(options)
    if options["seconds"] is not None or storm_at_s is None:
        return float(options["seconds"] or _SECONDS)
    rate = settings.sessions_per_s if settings is not None else options["devices"]
    return storm_at_s + float(options["devices"] / rate) + _AFTER_STORM_S


def _address(text: str) -> Address:
    host, _, number = text.rpartition(":") if text.count(":") == 1 else (text, "", "7443")
    if not number.isdecimal() or not 0 < int(number) < 65_536:
        raise click.UsageError(f"--server {text}: the port is no number from 1 to 65535")
    return Address(host.strip("[]"), int(number), int(number))


async def _show(simulation: Simulation, console: Console) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, simulation.stop)
    if not console.is_interactive:
        await simulation.run(lambda: None)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:

        def show() -> None:
            live.update(live_table(simulation, time.monotonic() - simulation.began))

        await simulation.run(show)
