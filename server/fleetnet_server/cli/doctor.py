"""`fleetnet doctor`: find what keeps devices from their server, and say what helps."""

import sys
from pathlib import Path

import click
from cryptography import x509

from fleetnet.errors import CredentialError
from fleetnet_server.cli.anchor import split_target
from fleetnet_server.cli.output import flat, json_option, print_json
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.doctor import device, examining, fleet
from fleetnet_server.doctor.findings import BAD, Finding, document, lines, worst
from fleetnet_server.identity import formats
from fleetnet_server.identity.looking import read_store

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)
_TLS_PORT = int(Settings.model_fields["tls_port"].default)


@click.command()
@click.argument("target", metavar="[HOST[:PORT]]", required=False, default="")
@click.option("--bundle", type=_FOLDER, metavar="FOLDER", help="A device's credentials: look at "
              "them, then connect with them over TLS and DTLS as the device would.")
@click.option("--name", metavar="NAME", help="With HOST: what its certificate has to be for. With "
              "--bundle: the device. Alone: the bundle of this device in the fleet's folder.")
@click.option("--ca", type=_FILE, metavar="FILE", help="With HOST: the anchor that devices have. "
              "Without it: this machine's store.")
@click.option("--udp-port", type=click.IntRange(1, 65535), help="With HOST: of DTLS, if another.")
@click.option("--port", metavar="PORT", help="A board on this serial port: the small doctor runs "
              "on it, with its own credentials.")
@click.option("--board-bundle", metavar="PATH", help="With --port: where on the board they are.")
@click.option("--timeout", "timeout_s", default=10.0, show_default=True,
              type=click.FloatRange(min=0.5, max=120), help="Seconds for each connection.")
@json_option
@click.pass_obj
def doctor(
    folder: Path, /, target: str, bundle: Path | None, name: str | None, ca: Path | None,
    udp_port: int | None, port: str | None, board_bundle: str | None, timeout_s: float,
    as_json: bool,
) -> None:  # fmt: skip
    """Look at the fleet's folder, at a bundle, at a server's address, or at a board.

    Each finding names its cause, and one line that helps. No key, certificate or device is
    changed. Exit code 1 when something is bad; a warning works, or has another way.
    """
    if sum(map(bool, (target, bundle, port))) > 1:
        raise click.UsageError("one at a time: HOST, --bundle or --port")
    if port:
        found = device.run_on(port, board_bundle, timeout_s)
    elif target:
        host, number = split_target(target, _TLS_PORT)
        found = examining.examine_server(
            host, number, _anchors(ca), udp_port=udp_port or 0, name=name, timeout_s=timeout_s
        )
    elif bundle or name:
        found = _of_bundle(folder, bundle, name, timeout_s)
    else:
        found = fleet.examine(folder, load_settings(folder))
    found = [Finding(one.check, one.level, flat(one.text), flat(one.remedy)) for one in found]
    if as_json:
        print_json(document(found))
    else:
        click.echo(lines(found))
    if worst(found) == BAD:
        sys.exit(1)


def _of_bundle(
    folder: Path, bundle: Path | None, name: str | None, timeout_s: float
) -> list[Finding]:
    is_fleet = examining.is_fleet(folder)
    if bundle is None:
        if not is_fleet:
            raise click.UsageError(f"no fleet at {folder}: name the bundle with --bundle FOLDER")
        bundle = folder / "devices" / str(name)
    here = (folder, load_settings(folder)) if is_fleet else None
    return examining.examine_bundle(bundle, name, here, timeout_s)


def _anchors(ca: Path | None) -> list[x509.Certificate]:
    if ca is None:
        return read_store("system")
    found = [item.value for item in formats.read_file(ca).of(formats.CERTIFICATE)]
    if not found:
        raise CredentialError(f"{ca} holds no certificate: name the anchor that devices have")
    return found
