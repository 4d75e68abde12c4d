"""`fleetnet cert server`: a new certificate for the server, and the change of its key."""

from datetime import timedelta
from pathlib import Path

import click

from fleetnet.errors import CredentialError
from fleetnet_server.cli.actor import actor
from fleetnet_server.cli.output import format_time, json_option, print_json
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.errors import FolderError
from fleetnet_server.fleet_folder import server_hosts
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.store.audit_rows import add_audit
from fleetnet_server.store.expiry import devices_without_pin
from fleetnet_server.store.opening import open_store

# How many devices a refusal names before it counts the rest.
_NAMED = 20


@click.command("server")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME|IP",
    help="Name or address that devices connect to; repeat it for more. Without it: as now.",
)
@click.option(
    "--change-key",
    is_flag=True,
    help="Take the next key into use, which devices have pinned, and make another next one.",
)
@click.option("--force", is_flag=True, help="Change the key although devices do not know it.")
@json_option
@click.pass_obj
def server_command(
    folder: Path, hosts: tuple[str, ...], change_key: bool, force: bool, as_json: bool
) -> None:
    """Make a new certificate for the server, for the same key.

    A running server notices within a second; sessions go on, new connections get it. It renews
    its certificate by itself when less than a third of its life is left: this command is for
    other names, and for another key.

    --change-key is refused while a device does not have the next key's pin: without a date it
    could not come in any more. Devices get the pins in their bundle and by rotation.
    """
    settings = load_settings(folder)
    if not (folder / "server" / "key.der").exists():
        Authority.load(folder)  # says what to do when that is missing as well
        raise CredentialError(
            f"{folder / 'server'} holds no key: copy server/ from where you keep the keys; a "
            "fleet without devices gets one by `fleetnet ca init`"
        )
    try:
        keys = _renew(folder, settings, hosts, change_key, force)
    except OSError as error:
        raise FolderError(
            f"{folder / 'server'} cannot be written: {error}; the old pair stays in force"
        ) from error
    _audit(folder, settings, keys, change_key)
    if settings.host not in keys.hosts:
        click.echo(
            f"Note: it is not for {settings.host}, the host of this fleet's settings, by which "
            "devices know their server.",
            err=True,
        )
    if as_json:
        print_json(_document(keys, change_key))
        return
    what = "New key and certificate" if change_key else "New certificate"
    click.echo(
        f"{what} for {', '.join(keys.hosts)}, until {format_time(keys.not_after_ms)}: "
        f"serial {keys.serial:x}."
    )


def _renew(
    folder: Path, settings: Settings, hosts: tuple[str, ...], change_key: bool, force: bool
) -> ServerKeys:
    authority = Authority.load(folder)
    lifetime = timedelta(seconds=settings.server_lifetime_s)
    wanted = server_hosts(hosts) if hosts else ()
    try:
        before = ServerKeys(folder)
    except CredentialError as error:
        if change_key:
            raise
        click.echo(f"Note: {error}.", err=True)
        return ServerKeys.repair(
            folder, authority, wanted or server_hosts((settings.host,)), lifetime
        )
    if change_key and not force:
        _check_devices(folder, settings, before)
    return before.renew(authority, wanted, change_key=change_key, lifetime=lifetime)


def _check_devices(folder: Path, settings: Settings, keys: ServerKeys) -> None:
    pins = keys.pins()
    if len(pins) < 2:
        return  # renew() says what to do
    with open_store(settings.store_place(folder)) as store:
        lacking = devices_without_pin(store, pins[1], keys.next_made_ms)
    if lacking:
        more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        raise CredentialError(
            f"these devices do not know the next key: {', '.join(lacking[:_NAMED])}{more}; they "
            "get it by rotation when they are online. Wait, disable them, or --force"
        )


def _audit(folder: Path, settings: Settings, keys: ServerKeys, key_changed: bool) -> None:
    action = "server-key-changed" if key_changed else "server-certificate-renewed"
    detail = {"serial": f"{keys.serial:x}", "hosts": list(keys.hosts)}
    with open_store(settings.store_place(folder)) as store:
        store.transact(lambda connection: add_audit(connection, actor(), action, None, detail))


def _document(keys: ServerKeys, key_changed: bool) -> dict[str, object]:
    return {
        "serial": f"{keys.serial:x}",
        "hosts": list(keys.hosts),
        "not_after_ms": keys.not_after_ms,
        "pins": keys.pins(),
        "key_changed": key_changed,
    }
