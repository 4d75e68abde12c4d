"""`fleetnet cert`: certificates of any kind."""

import click

from fleetnet_server.cli.cert_tools import convert_command, inspect_command, self_signed_command
from fleetnet_server.cli.expiries import list_command
from fleetnet_server.cli.server_cert import server_command


@click.group()
def cert() -> None:
    """Certificates: when they end, the server's own, and tools for any other."""


cert.add_command(list_command)
cert.add_command(server_command)
cert.add_command(inspect_command)
cert.add_command(convert_command)
cert.add_command(self_signed_command)
