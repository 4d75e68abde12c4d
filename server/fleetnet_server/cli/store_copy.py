"""`fleetnet store copy`: from SQLite to PostgreSQL, or back."""

from contextlib import ExitStack
from pathlib import Path

import click

from fleetnet_server.cli.actor import actor
from fleetnet_server.cli.output import json_option, print_result, print_table, progress
from fleetnet_server.config import load_settings
from fleetnet_server.served import take_lock
from fleetnet_server.store.copy_verifying import Verified
from fleetnet_server.store.copying import Copied, copy_store
from fleetnet_server.store_place import StorePlace, is_postgres, postgres_place


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--user",
    metavar="NAME",
    help="Connect as this user; password in FOLDER/postgres.NAME.password or ~/.pgpass.",
)
@json_option
@click.pass_obj
def copy(folder: Path, source: str, target: str, user: str | None, as_json: bool) -> None:
    """Copy a store from a file into PostgreSQL, or back; FROM and TO are written as `store` is.

    Stop the server first; it does not start meanwhile. TO is a file that is not there yet, or a
    database in which `fleetnet store migrate` has made the tables; as their owner, like that one.
    Interrupted, it goes on where it was when the same command runs again. In the end both sides
    are read and compared. Blobs stay where they are, below FOLDER; so does `store` in
    fleetnet.toml.
    """
    load_settings(folder)  # there is a fleet, and its settings are good
    from_place, to_place = _place(source, folder, user), _place(target, folder, user)
    with ExitStack() as stack:
        # A server of this folder would write into the source, or serve half of the target.
        stack.enter_context(take_lock(folder))
        advance = stack.enter_context(progress("copying"))
        copied = copy_store(from_place, to_place, advance, actor())
    if as_json:
        document = {"from": str(from_place), "to": str(to_place), **_members(copied)}
        print_result(as_json, document, "")
        return
    if copied.verified is None:
        click.echo(f"{to_place} has the whole copy since before; nothing was changed.")
        return
    _print(copied, copied.verified)
    click.echo(f'Next: store = "{target}" in fleetnet.toml, then `fleetnet check`.', err=True)


def _print(copied: Copied, verified: Verified) -> None:
    rows = [(name, f"{count}") for name, count in verified.rows.items()]
    rows += [
        ("streams", f"{verified.streams}"),
        ("readings", f"{verified.readings} in {verified.series} series"),
    ]
    print_table(("THE SAME IN BOTH", "HOW MANY"), rows)
    rate = copied.copied / max(0.001, copied.seconds)
    rest = ", the rest before" if copied.resumed else ""
    click.echo(
        f"{copied.copied} rows and readings written in {copied.seconds:.1f} s ({rate:.0f}/s){rest};"
        f" compared in {verified.seconds:.1f} s.",
        err=True,
    )


def _place(store: str, folder: Path, user: str | None) -> StorePlace:
    if not is_postgres(store):
        return folder / store
    from fleetnet_server.store.postgres.roles import OWNER, password_path

    place = postgres_place(store, folder)
    if user is None and password_path(folder, OWNER).exists():
        user = OWNER
    return place.as_user(user, folder) if user else place


def _members(copied: Copied) -> dict[str, object]:
    return {
        "copied": copied.copied, "resumed": copied.resumed, "seconds": round(copied.seconds, 3),
        "verified": None if copied.verified is None else copied.verified._asdict(),
    }  # fmt: skip
