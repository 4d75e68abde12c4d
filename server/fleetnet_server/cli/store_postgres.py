"""`fleetnet store migrate` and `fleetnet store roles`: tables and roles in PostgreSQL."""

from pathlib import Path

import click

from fleetnet_server.cli.output import json_option, print_result
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.errors import ConfigError
from fleetnet_server.store import schema
from fleetnet_server.store.opening import open_store
from fleetnet_server.store_place import PostgresPlace

_USER = click.option(
    "--user",
    metavar="NAME",
    help="Connect as this user; password in FOLDER/postgres.NAME.password or ~/.pgpass.",
)


@click.command()
@_USER
@json_option
@click.pass_obj
def migrate(folder: Path, user: str | None, as_json: bool) -> None:
    """Make the tables in PostgreSQL, or bring them to this version.

    As the tables' owner: fleetnet_owner where `fleetnet store roles` made its password, else the
    user in `store`. Stop servers of an older version first. A store file needs none of it: it is
    brought to this version when it is opened.
    """
    place = load_settings(folder).store_place(folder)
    if isinstance(place, Path):
        before, now = schema.stored_version(place), schema.SCHEMA_VERSION
        open_store(place).close()
    else:
        before, now = _migrate(place, user, folder)
    if before == now:
        text = f"{place}: layout {now}, nothing to do."
    else:
        text = f"{place}: layout {now}" + (f", was {before}." if before else ", made anew.")
    print_result(as_json, {"store": str(place), "before": before, "layout": now}, text)


@click.command()
@click.option("--apply", "is_applied", is_flag=True, help="Do it, instead of printing the SQL.")
@_USER
@json_option
@click.pass_obj
def roles(folder: Path, is_applied: bool, user: str | None, as_json: bool) -> None:
    """Print the SQL of the roles that own, serve and read the tables; --apply does it.

    fleetnet_owner makes the tables, fleetnet_server serves and cannot change the audit log,
    fleetnet_reader sees readings and devices, no keys. --apply wants a user who may make roles,
    and writes a password for each new one to FOLDER/postgres.ROLE.password (the server's to
    FOLDER/postgres.password).
    """
    from fleetnet_server.store.postgres import roles as known

    place = _database(load_settings(folder), folder)
    if not is_applied:
        statements = known.creating(place.database or place.user)
        text = "".join(f"{statement};\n" for statement in statements)
        text += "-- The rights on the tables are given by `fleetnet store migrate`."
        print_result(as_json, {"statements": statements}, text)
        return
    written = known.apply(place.as_user(user, folder) if user else place, folder)
    lines = [f"{place}: roles {', '.join(known.ROLES)}."]
    lines += [f"Password in {path}" for path in written]
    if place.user != known.SERVER:
        served = place.as_user(known.SERVER).url
        lines.append(f'Serve as {known.SERVER}: store = "{served}" in fleetnet.toml')
    lines.append("Next: `fleetnet store migrate`")
    document = {"roles": list(known.ROLES), "password_files": [str(path) for path in written]}
    print_result(as_json, document, "\n".join(lines))


def _database(settings: Settings, folder: Path) -> PostgresPlace:
    place = settings.store_place(folder)
    if isinstance(place, Path):
        raise ConfigError(
            f"the store is the file {place}, which has no roles: set `store` in fleetnet.toml to "
            "postgresql://[USER@]HOST[:PORT]/DATABASE"
        )
    return place


def _migrate(place: PostgresPlace, user: str | None, folder: Path) -> tuple[int, int]:
    from fleetnet_server.store.postgres import migrations
    from fleetnet_server.store.postgres.roles import OWNER, password_path

    if user is None and password_path(folder, OWNER).exists():
        user = OWNER
    return migrations.migrate(place.as_user(user, folder) if user else place)
