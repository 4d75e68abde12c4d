"""`fleetnet audit`: who decided what about which device."""

import contextlib
import time
from pathlib import Path

import click

from fleetnet_server.cli.completing import complete_device
from fleetnet_server.cli.output import (
    format_time,
    format_value,
    json_lines_option,
    print_json_lines,
    print_line,
    print_table,
)
from fleetnet_server.cli.times import since_option
from fleetnet_server.config import load_settings
from fleetnet_server.store.audit import AuditTable, Entry
from fleetnet_server.store.opening import open_store

_POLL_S = 0.2


@click.command()
@click.option("--device", shell_complete=complete_device, help="Only what concerns this device.")
@click.option("--action", help="Only these, such as device-disable.")
@since_option
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@json_lines_option("a row")
@click.pass_obj
def audit(
    folder: Path, device: str | None, action: str | None, since_ms: int | None, limit: int,
    follow: bool, as_json: bool,
) -> None:  # fmt: skip
    """Print the audit log, the newest rows last."""
    with (
        contextlib.suppress(KeyboardInterrupt) if follow else contextlib.nullcontext(),
        open_store(load_settings(folder).store_place(folder)) as store,
    ):
        table = AuditTable(store)
        newest = table.newest()
        _print(table.entries(0, device, action, since_ms, limit), as_json, follow)
        while follow:
            time.sleep(_POLL_S)
            if (now := table.newest()) > newest:
                _print(table.entries(newest, device, action, limit=now - newest), as_json, True)
                newest = now


def _print(entries: list[Entry], as_json: bool, is_followed: bool) -> None:
    if as_json:
        print_json_lines(entry._asdict() for entry in entries)
    elif is_followed:
        for entry in entries:
            print_line(_row(entry))
    else:
        print_table(("AT", "ACTOR", "ACTION", "DEVICE", "DETAIL"), map(_row, entries))


def _row(entry: Entry) -> tuple[str, ...]:
    detail = format_value(entry.detail) if entry.detail else ""
    return format_time(entry.at_ms), entry.actor, entry.action, entry.device or "-", detail
