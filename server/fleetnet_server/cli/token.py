"""`fleetnet token`: who may use the HTTP API, and for what."""

import time
from pathlib import Path

import click

from fleetnet_server.cli.actor import actor
from fleetnet_server.cli.durations import Duration
from fleetnet_server.cli.output import format_time, print_json, print_result, print_table
from fleetnet_server.config import load_settings
from fleetnet_server.errors import FolderError
from fleetnet_server.identity.scopes import READ, SCOPES
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.tokens import TokenTable

_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group()
def token() -> None:
    """Tokens of the HTTP API: add, list, revoke."""


@token.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    default=(READ,),
    show_default=True,
    help="What it is good for; more than one can be given.",
)
@click.option("--expires", "expires_s", type=Duration(), help="Good for so long (30d).")
@_json_option
@click.pass_obj
def add(
    folder: Path, name: str, scopes: tuple[str, ...], expires_s: float | None, as_json: bool
) -> None:
    """Make a token NAME and show it, once.

    admin includes the other scopes.
    """
    expires_ms = None
    if expires_s is not None:
        expires_ms = time.time_ns() // 1_000_000 + round(1000 * expires_s)
    with open_store(load_settings(folder).store_place(folder)) as store:
        table = TokenTable(store)
        made = table.add(name, scopes, actor(), expires_ms)
        shown = {"name": name, "token": made, "scopes": sorted(set(scopes))}
        try:
            print_result(
                as_json, shown | {"expires_ms": expires_ms},
                f"Token {name}: {made}. It is not shown again.",
            )  # fmt: skip
        except OSError as error:
            table.revoke(name, actor())  # nobody has it
            raise FolderError(
                f"token {name!r} could not be shown ({error.strerror}) and is revoked: make another"
            ) from None


@token.command("list")
@_json_option
@click.pass_obj
def list_tokens(folder: Path, as_json: bool) -> None:
    """List the tokens by name; never the tokens themselves."""
    with open_store(load_settings(folder).store_place(folder)) as store:
        found = TokenTable(store).all()
    if as_json:
        print_json([one._asdict() | {"scopes": sorted(one.scopes)} for one in found])
        return
    print_table(
        ("NAME", "SCOPES", "MADE", "EXPIRES", "USED"),
        [
            (
                one.name, " ".join(scope for scope in SCOPES if scope in one.scopes),
                format_time(one.created_ms),
                "never" if one.expires_ms is None else format_time(one.expires_ms),
                "never" if one.used_ms is None else format_time(one.used_ms),
            )
            for one in found
        ],
    )  # fmt: skip


@token.command()
@click.argument("name")
@_json_option
@click.pass_obj
def revoke(folder: Path, name: str, as_json: bool) -> None:
    """Refuse token NAME from now on."""
    with open_store(load_settings(folder).store_place(folder)) as store:
        TokenTable(store).revoke(name, actor())
    if as_json:
        print_json({"name": name, "revoked": True})
    else:
        click.echo(f"Token {name} revoked.")
