"""`fleetnet bench`: see bench/measure.py; this file runs it and says what it means."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import click

from fleetnet_server.bench import machine
from fleetnet_server.bench.measure import SESSIONS, WARM_SESSIONS, Bench, LinkFigures
from fleetnet_server.bench.sizing import Size, size_of
from fleetnet_server.cli.output import (
    Advance,
    json_option,
    print_json,
    print_table,
    progress,
)
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.sim.bundles import make_bundles

# Beside the sessions: each process of the load may open one more than its share.
_SPARE = 8

# Where more than half a core was busy otherwise, the figures are of a machine in use.
_NOISY = 0.5


@click.command()
@click.option("--seconds", default=20.0, show_default=True, type=click.FloatRange(2, 600),
              help="About how long; less is less exact.")
@click.option("--in", "place", metavar="FOLDER",
              type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Where the bench's store is written: on the disk that your fleet shall have. "
              "Default: the system's temporary folder.")
@json_option
def bench(seconds: float, place: Path | None, as_json: bool) -> None:
    """Measure what this machine bears, and what that means for a fleet.

    A server of its own, on loopback, is loaded by processes beside it: handshakes, idle
    sessions, and readings that it stores. It needs no fleet and leaves nothing behind. Figures
    are per second of the server's CPU, so that the load may share its cores.
    """
    with (
        tempfile.TemporaryDirectory(prefix="fleetnet-bench-", dir=place) as name,
        progress("measuring") as advance,
    ):
        found, others = _measure(Path(name) / "fleet", seconds, advance)
    memory, files = machine.memory_bytes(), machine.open_files()
    sizes = {
        link: size_of(figures, memory, files if link == "tls" else None)
        for link, figures in found.items()
    }
    if as_json:
        print_json(_document(found, sizes, memory, others))
        return
    _print_figures(found)
    for link, size in sizes.items():
        click.echo(f"{link.upper()}: {_meaning(size)}")
    click.echo(_conditions(found, others, memory))


def _measure(
    folder: Path, seconds: float, advance: Advance
) -> tuple[dict[str, LinkFigures], float]:
    advance(0.0, "making devices")
    create_fleet(folder, ("localhost",))
    count = WARM_SESSIONS + SESSIONS + _SPARE
    bundles = make_bundles(folder, load_settings(folder), count, lambda made: None)
    measured = Bench(folder, bundles, seconds, advance)
    return asyncio.run(measured.run()), measured.others


def _print_figures(found: dict[str, LinkFigures]) -> None:
    rows = []
    for link, one in found.items():
        rows.append(
            (
                link.upper(), f"{one.readings_per_core_s:,.0f}", f"{one.batched_per_core_s:,.0f}",
                f"{one.handshakes_per_core_s:,.0f}", f"{one.session_bytes / 1024:.0f} KiB",
            )
        )  # fmt: skip
    columns = (
        "LINK", "READINGS/CORE-S", "20 A MESSAGE", "HANDSHAKES/CORE-S", "MEMORY A SESSION"
    )  # fmt: skip
    print_table(columns, rows)


def _meaning(size: Size) -> str:
    why = {
        "cpu": "half of one core",
        "memory": "half of the memory that is free",
        "files": "the files that a process may open (`ulimit -Hn`, LimitNOFILE=)",
    }[size.bound]
    text = (
        f"about {size.devices:,} devices at 1 reading a second, bound by {why}; "
        f"all are back {size.back_s:,.0f} s after a restart at the earliest."
    )
    default = Settings.model_fields["max_sessions"].default
    if size.devices > default:
        text += f" Above {default:,} raise `max_sessions`."
    return text


def _conditions(found: dict[str, LinkFigures], others: float, memory: int) -> str:
    count = machine.cores()
    cores = "1 core" if count == 1 else f"{count} cores"
    wall = ", ".join(f"{one.readings_per_s:,.0f} {link.upper()}" for link, one in found.items())
    text = (
        f"Server and load shared {cores}; together they passed, readings a second of time as it "
        f"passes: {wall}. {memory / 2**30:.1f} GiB of memory are free."
    )
    if others > _NOISY:
        text += (
            f"\nOther programs kept {others:.1f} cores busy meanwhile: "
            "the figures are lower than on an idle machine."
        )
    return text


def _document(
    found: dict[str, LinkFigures], sizes: dict[str, Size], memory: int, others: float
) -> dict[str, Any]:
    links = [
        {
            "link": link,
            **{key: round(value, 1) for key, value in figures._asdict().items()},
            "fleet": {**sizes[link]._asdict(), "back_s": round(sizes[link].back_s, 1)},
        }
        for link, figures in found.items()
    ]
    return {
        "links": links, "cores": machine.cores(), "memory_bytes": memory,
        "busy_with_others": round(others, 2),
    }  # fmt: skip
