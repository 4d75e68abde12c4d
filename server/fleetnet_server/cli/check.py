"""`fleetnet check`: could the server start, and be trusted? Before it does."""

from pathlib import Path

import click

from fleetnet_server.cli.output import FAILURE, flat, json_option, print_json
from fleetnet_server.config import load_settings
from fleetnet_server.doctor import preflight
from fleetnet_server.doctor.findings import BAD, OK, Finding, document, lines, worst


@click.command()
@click.option("--strict", is_flag=True, help="Exit code 1 for warnings as well.")
@json_option
@click.pass_obj
def check(folder: Path, strict: bool, as_json: bool) -> None:
    """Look at everything that `fleetnet serve` needs, before it starts; nothing is changed.

    Settings, policy, CA, server's pair, who may read the keys, expiry, clock, store, ports, disk,
    limits. Secrets are not shown. Exit code 1 when something is bad.
    """
    found = preflight.examine(folder)
    found = [Finding(one.check, one.level, flat(one.text), flat(one.remedy)) for one in found]
    if as_json:
        settings = None
        if found[0].level != BAD:
            settings = preflight.document_of(load_settings(folder))
        print_json(document(found) | {"settings": settings})
    else:
        click.echo(lines(found))
    level = worst(found)
    if level == BAD or (strict and level != OK):
        raise SystemExit(FAILURE)
