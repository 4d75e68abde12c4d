"""`fleetnet export`: stored readings into a file, whatever their number."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from fleetnet_server.cli.export_files import FORMATS, PARQUET, ExportFile, open_export
from fleetnet_server.cli.output import (
    PARTLY,
    Advance,
    format_time,
    json_option,
    print_json,
    progress,
)
from fleetnet_server.cli.query import SUMMED_UP
from fleetnet_server.cli.times import selection_options
from fleetnet_server.config import load_settings
from fleetnet_server.store.selection import Selection, device_names, select
from fleetnet_server.store.summaries import has_sums
from fleetnet_server.store_place import StorePlace
from fleetnet_server.wording import counted

# The bar moves after so many readings.
_STEP = 5000


@click.command()
@click.argument("target", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--format", "form", type=click.Choice(FORMATS),
              help="Default: what FILE ends with; csv to standard output.")
@selection_options
@click.option("--overwrite", is_flag=True, help="FILE may exist: replace it.")
@json_option
@click.pass_obj
def export(
    folder: Path, target: str, form: str | None, devices: tuple[str, ...],
    channels: tuple[str, ...], since_ms: int | None, until_ms: int | None, overwrite: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Write stored readings to FILE (- is standard output), in order of time.

    Memory does not grow with their number. Ranges that meet, --until T and then --since T, have
    every reading once. After Ctrl-C the file is whole up to a moment, which is printed to go on
    from; the exit code is 3. Parquet needs the extra `parquet`.
    """
    form = form or _form_of(target)
    if form == PARQUET and target == "-":
        raise click.UsageError("Parquet is no stream: name a file")
    path = load_settings(folder).store_place(folder)
    device_names(path, devices)  # before a file is made for nothing
    wanted = Selection(devices, channels, since_ms, until_ms)
    with open_export(form, target, overwrite) as file, progress("exporting") as advance:
        is_whole = _copy(path, wanted, file, advance)
        if not is_whole:
            until_ms = file.cut() if file.last_ms is not None else (since_ms or 0)
    document = {
        "file": target, "format": form, "readings": file.count, "since_ms": since_ms,
        "until_ms": until_ms, "complete": is_whole,
    }  # fmt: skip
    _report(document, as_json)
    if has_sums(path, wanted):
        click.echo(SUMMED_UP, err=True)
    if not is_whole:
        raise SystemExit(PARTLY)


def _copy(path: StorePlace, wanted: Selection, file: ExportFile, advance: Advance) -> bool:
    """Write the readings; False: Ctrl-C came first."""
    first_ms = wanted.start_ms
    end_ms = time.time_ns() // 1_000_000 if wanted.end_ms is None else wanted.end_ms
    with _interruption() as is_interrupted:
        for reading in select(path, wanted):
            if is_interrupted():
                return False
            if first_ms is None:
                first_ms = reading.unix_ms
            file.write(reading)
            if file.count % _STEP == 0 and reading.unix_ms is not None and first_ms is not None:
                share = (reading.unix_ms - first_ms) / max(1, end_ms - first_ms)
                advance(share, f"{file.count} readings")
    return True


@contextmanager
def _interruption() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether Ctrl-C was pressed; the second one interrupts.

    An exception in the midst of a reading would leave half of it.
    """
    before = signal.getsignal(signal.SIGINT)
    pressed = []

    def press(number: int, frame: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def _report(document: dict[str, Any], as_json: bool) -> None:
    # Where the readings go to standard output, nothing else does.
    is_err = document["file"] == "-"
    if as_json and not is_err:
        print_json(document)
        return
    readings = counted(document["readings"], "reading")
    text = f"{readings}." if is_err else f"{document['file']}: {readings}."
    if not document["complete"]:
        moment = format_time(document["until_ms"])
        text = f"Interrupted after {readings}; go on with --since {moment}"
    click.echo(text, err=is_err)


def _form_of(target: str) -> str:
    if target == "-":
        return FORMATS[0]
    ending = Path(target).suffix.lower().removeprefix(".")
    known = {"csv": "csv", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": PARQUET}
    if ending not in known:
        raise click.UsageError(f"{target}: which format? Its name does not tell: --format csv")
    return known[ending]
