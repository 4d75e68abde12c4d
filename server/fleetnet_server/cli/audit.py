"""`fleetnet audit`: who decided what about which device."""

import time
from pathlib import Path

import click

from fleetnet_server.cli.durations import Duration
from fleetnet_server.cli.output import (
    format_time,
    format_value,
    print_json,
    print_line,
    print_table,
)
from fleetnet_server.config import load_settings
from fleetnet_server.store.audit import AuditTable, Entry
from fleetnet_server.store.sqlite import SqliteStore

_POLL_S = 0.2


@click.command()
@click.option("--device", help="Only what concerns this device.")
@click.option("--action", help="Only these, such as device-disable.")
@click.option("--since", "since_s", type=Duration(), help="Not older than this (2h).")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines: one object a row.")
@click.pass_obj
def audit(
    folder: Path, device: str | None, action: str | None, since_s: float | None, limit: int,
    follow: bool, as_json: bool,
) -> None:  # fmt: skip
    """Print the audit log, the newest rows last."""
    since_ms = None if since_s is None else time.time_ns() // 1_000_000 - round(1000 * since_s)
    with SqliteStore(load_settings(folder).store_path(folder)) as store:
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
        for entry in entries:
            print_json(entry._asdict())
    elif is_followed:
        for entry in entries:
            print_line(_row(entry))
    else:
        print_table(("AT", "ACTOR", "ACTION", "DEVICE", "DETAIL"), map(_row, entries))


def _row(entry: Entry) -> tuple[str, ...]:
    detail = format_value(entry.detail) if entry.detail else ""
    return format_time(entry.at_ms), entry.actor, entry.action, entry.device or "-", detail
