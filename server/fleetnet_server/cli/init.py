"""`fleetnet init`: a new fleet folder, whole or not at all."""

from pathlib import Path

import click

from fleetnet_server.cli.output import json_option, print_json
from fleetnet_server.fleet_folder import LOCAL_HOSTS, create_fleet


@click.command()
@click.argument("folder", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME|IP",
    help="Name or address that devices connect to; repeat it for more. The first one goes "
    "into the devices' bundles. Without it: localhost.",
)
@click.option("--no-ca", is_flag=True, help="Leave out the CA: `ca init` or `ca import` follows.")
@click.option("--flat-ca", is_flag=True, help="One CA, no issuing CA below it: for hubs.")
@json_option
@click.pass_obj
def init(
    default: Path,
    folder: Path | None,
    hosts: tuple[str, ...],
    no_ca: bool,
    flat_ca: bool,
    as_json: bool,
) -> None:
    """Make a fleet in FOLDER (default: the one of -C): CA, server certificate, store.

    Nothing is ever overwritten. For another key type, an offline root or a CA that you have:
    --no-ca, then `fleetnet ca init` or `fleetnet ca import`.
    """
    target = folder or default
    create_fleet(target, hosts or LOCAL_HOSTS[:1], has_ca=not no_ca, is_flat=flat_ca)
    if as_json:
        print_json({"folder": str(target), "host": (hosts or LOCAL_HOSTS)[0]})
        return
    if no_ca:
        click.echo(f"Fleet made in {target}, without a CA.")
        click.echo(f"Next: fleetnet -C {target} ca init, or ca import")
        return
    click.echo(f"Fleet made in {target}. Keep {target / 'ca'} safe: it signs devices.")
    click.echo(f"Next: fleetnet -C {target} device add NAME")
