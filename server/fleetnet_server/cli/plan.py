"""`fleetnet plan`: what a fleet needs, and how it comes back; docs/scaling.md explains both."""

import dataclasses
import math
from typing import Any

import click

from fleetnet_server.cli.output import json_option, print_json, print_table
from fleetnet_server.sim.sizing import FIGURES, figures_with, rows, size_of
from fleetnet_server.sim.storm_model import KINDS, Case, Outcome, run

# Eighty columns hold the plot: the time before it, the number behind it.
_BAR = 54
_LINES = 24

_MOST_DEVICES = 10_000_000  # a minute of arithmetic, and half a gigabyte


@click.group()
def plan() -> None:
    """Reckon what a fleet needs, and how it returns after a storm. Nothing is run."""


@plan.command()
@click.argument("devices", type=click.IntRange(1, 1_000_000_000))
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help="Take another figure; may be given again.",
)
@click.option("--figures", is_flag=True, help="List the figures that it was reckoned by, instead.")
@json_option
def size(devices: int, changes: tuple[str, ...], figures: bool, as_json: bool) -> None:
    """Print what so many devices need, and what they cost.

    Measured figures are of the machine that docs/scaling.md names: `fleetnet bench` has yours.
    Prices are assumed: set your own.
    """
    changed = dict(_parsed(text) for text in changes)
    values = figures_with(changed)
    if figures:
        _print_figures(values, as_json)
        return
    found = size_of(devices, **changed)
    if as_json:
        document = {key: _plain(value) for key, value in found._asdict().items()}
        document["cost_per_device"] = round(found.cost_per_device, 6)
        print_json({**document, "figures": values})
        return
    print_table(("WHAT", "HOW MUCH", "BY"), [(one.what, one.text, one.how) for one in rows(found)])


def _parsed(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise click.UsageError(f"--set {text}: say NAME=NUMBER, as in message_every_s=10") from None


def _print_figures(values: dict[str, float], as_json: bool) -> None:
    if as_json:
        print_json({
            "figures": {
                name: {**one._asdict(), "value": values[name]} for name, one in FIGURES.items()
            }
        })  # fmt: skip
        return
    print_table(
        ("FIGURE", "VALUE", "UNIT", "IT IS", "WHY"),
        [
            (name, f"{values[name]:g}", one.unit, one.origin, one.why)
            for name, one in FIGURES.items()
        ],
    )


@plan.command()
@click.argument("devices", type=click.IntRange(1, _MOST_DEVICES))
@click.option("--nodes", default=1, show_default=True, type=click.IntRange(1, 100_000),
              help="Server processes, with the devices spread evenly.")
@click.option("--lost", type=click.IntRange(1, 100_000),
              help="So many of them are struck.  [default: 1; outage and power: all]")
@click.option("--kind", default="kill", show_default=True, type=click.Choice(KINDS),
              help="A clean stop, a kill -9, power that returns to the devices, or a region that "
              "was cut off.")
@click.option("--away", type=click.FloatRange(0), metavar="SECONDS",
              help="Until the lost ones are back.  [default: never when some are left, else 5; "
              "outage: 600]")
@click.option("--sessions-per-s", default=200.0, show_default=True, type=click.FloatRange(0.1),
              help="The setting of each node.")
@click.option("--max-sessions", default=20_000, show_default=True, type=click.IntRange(1),
              help="The setting of each node.")
@click.option("--cores", default=1, show_default=True, type=click.IntRange(1, 256),
              help="Of each node, for handshakes.")
@click.option("--handshake-ms", default=FIGURES["session_ms"].value, show_default=True,
              type=click.FloatRange(0.01), help="CPU of letting one device in.")
@click.option("--detect", default=3.0, show_default=True, type=click.FloatRange(0),
              metavar="SECONDS", help="Until the balancer notices.")
@click.option("--silent", is_flag=True,
              help="The machine is gone: nothing answers, links have to time out.")
@click.option("--impatient", is_flag=True, help="Devices try each 0.5 s: the known bad fleet.")
@click.option("--seed", default=1, show_default=True, help="Same seed, same storm.")
@json_option
def storm(as_json: bool, **options: Any) -> None:
    """Simulate how devices return to their servers, by the second; no device is run.

    A million take about a minute. Real ones, up to some thousands: `fleetnet sim --storm`.
    """
    case = _case(options)
    found = run(case)
    if as_json:
        print_json(_document(case, found))
        return
    _print_storm(found)


def _case(options: dict[str, Any]) -> Case:
    kind, nodes = options["kind"], options["nodes"]
    is_region = kind in ("outage", "power")
    lost = options["lost"] or (nodes if is_region else 1)
    away_s = options["away"]
    if away_s is None:
        usual_s = 600.0 if kind == "outage" else 5.0
        away_s = usual_s if is_region or lost >= nodes or kind == "restart" else math.inf
    return Case(
        devices=options["devices"], nodes=nodes, lost=lost, kind=kind, away_s=away_s,
        sessions_per_s=options["sessions_per_s"], max_sessions=options["max_sessions"],
        cores=options["cores"], handshake_s=options["handshake_ms"] / 1000,
        detect_s=options["detect"], is_silent=options["silent"],
        is_patient=not options["impatient"], seed=options["seed"],
    )  # fmt: skip


def _document(case: Case, found: Outcome) -> dict[str, Any]:
    asked = {key: _plain(value) for key, value in dataclasses.asdict(case).items()}
    answer = {key: _plain(value) for key, value in found._asdict().items() if key != "back_at"}
    by_second = {str(second): many for second, many in sorted(found.back_at.items())}
    return {"case": asked, **answer, "back_at": by_second}


def _plain(value: Any) -> Any:
    """Return a number as JSON can carry it; None for what never happens."""
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value


def _print_storm(found: Outcome) -> None:
    for line in plot(found):
        click.echo(line)
    click.echo(
        f"{found.back:,} of {found.hit:,} devices are back {found.took_s:,.1f} s after their "
        f"servers, half of them {found.p50_s:,.1f} s after the storm, 99 of 100 after "
        f"{found.p99_s:,.1f} s"
    )
    click.echo(
        f"{found.attempts_per_device:.2f} attempts a device; {found.held:,} waited for their turn, "
        f"{found.refused:,} times one was told when to come again, {found.given_up:,} found nobody"
    )
    click.echo(
        f"at most {found.most_per_s:,} a second; handshakes kept {100 * found.busy:.0f} % of the "
        "nodes' cores busy"
    )


def plot(found: Outcome) -> list[str]:
    """Return lines of text: seconds after the storm, a bar, devices back a second."""
    if not found.back_at:
        return []
    first, last = min(found.back_at), max(found.back_at)
    step = -(-(last - first + 1) // _LINES)
    sums = [
        sum(found.back_at[second] for second in range(begin, begin + step)) / step
        for begin in range(first, last + 1, step)
    ]
    most = max(sums)
    return [
        f"{first + number * step:>7,} s {'#' * round(_BAR * many / most):<{_BAR}} {many:,.0f}/s"
        for number, many in enumerate(sums)
    ]
