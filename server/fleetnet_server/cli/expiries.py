"""`fleetnet cert list`: when certificates end."""

import time
from pathlib import Path

import click

from fleetnet_server.cli.output import format_time, json_option, print_json, print_table
from fleetnet_server.config import load_settings
from fleetnet_server.identity import expiry
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.expiry import Expiry
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.store.expiry import device_certificates
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.ports import Store


@click.command("list")
@click.option("--soon", is_flag=True, help="Only what ends soon or has ended.")
@json_option
@click.pass_obj
def list_command(folder: Path, soon: bool, as_json: bool) -> None:
    """List when certificates end: devices', the server's own, the CAs'; the nearest first.

    soon: 30 days are left (of a CA 365), or a third of the certificate's life where that is
    less. urgent: 7 days (90), or a tenth. A device is listed with the certificate that it uses.
    """
    settings = load_settings(folder)
    with open_store(settings.store_place(folder)) as store:
        found = read_expiries(folder, store)
    if soon:
        found = [one for one in found if one.level != expiry.OK]
    if as_json:
        print_json([one._asdict() for one in found])
        return
    print_table(("KIND", "NAME", "ENDS", "LEVEL"), [_row(one) for one in found])


def read_expiries(folder: Path, store: Store) -> list[Expiry]:
    """Return what a fleet's folder says, also where it has no CA or server pair yet.

    Raises:
        CredentialError: there is one, and it cannot be read.
    """
    has_ca = (folder / "ca" / "ca.der").exists()
    has_server = (folder / "server" / "cert.der").exists()
    return expiry.expiries(
        time.time_ns() // 1_000_000,
        device_certificates(store),
        ServerKeys(folder) if has_server else None,
        Authority.load(folder) if has_ca else None,
    )


def _row(one: Expiry) -> tuple[str, str, str, str]:
    return one.kind, one.name, format_time(one.not_after_ms), one.level
