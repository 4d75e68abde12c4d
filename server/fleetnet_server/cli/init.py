"""`fleetnet init`: a new fleet folder, whole or not at all."""

import secrets
import shutil
from pathlib import Path

import click

from fleetnet_server.cli.output import print_json
from fleetnet_server.config import FILE_NAME, Settings
from fleetnet_server.errors import FolderError
from fleetnet_server.identity import pki
from fleetnet_server.identity.files import (
    PUBLIC,
    make_private_folder,
    move_folder_into_place,
    write_new_file,
)
from fleetnet_server.store.sqlite import SqliteStore

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def init(default: Path, folder: Path | None, hosts: tuple[str, ...], as_json: bool) -> None:
    """Make a fleet in FOLDER (default: the one of -C): CA, server certificate, store.

    Nothing is ever overwritten.
    """
    target = folder or default
    create_fleet(target, hosts or _LOCAL_HOSTS[:1])
    if as_json:
        print_json({"folder": str(target), "host": (hosts or _LOCAL_HOSTS)[0]})
        return
    click.echo(f"Fleet made in {target}. Keep {target / 'ca' / 'key.der'} safe: it signs devices.")
    click.echo(f"Next: fleetnet -C {target} device add NAME")


def create_fleet(folder: Path, hosts: tuple[str, ...]) -> None:
    """Make a fleet folder.

    FOLDER/fleetnet.toml, fleet.db, ca/{ca.der,ca.pem,key.der}, server/{cert.der,key.der},
    devices/. Everything is built beside it and renamed at the end.

    Args:
        hosts: names and addresses of the server's certificate; this machine's own are added.

    Raises:
        FolderError: the folder has something in it, or cannot be made.
        CredentialError: a host that is neither a name nor an address.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderError(f"{folder} is not empty and was left alone: name another folder")
    temporary = folder.absolute().with_name(f".{folder.absolute().name}.{secrets.token_hex(4)}")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        make_private_folder(temporary)
        _fill(temporary, hosts)
        move_folder_into_place(temporary, folder.absolute())
    except OSError as error:
        raise FolderError(f"{folder} cannot be made: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(folder: Path, hosts: tuple[str, ...]) -> None:
    ca = pki.create_ca()
    server = pki.issue_server(ca, (*hosts, *_LOCAL_HOSTS))
    for name in ("ca", "server", "devices"):
        make_private_folder(folder / name)
    write_new_file(folder / "ca" / "key.der", ca.key)
    write_new_file(folder / "ca" / "ca.der", ca.certificate, PUBLIC)
    write_new_file(folder / "ca" / "ca.pem", pki.to_pem(ca.certificate), PUBLIC)
    write_new_file(folder / "server" / "key.der", server.key)
    write_new_file(folder / "server" / "cert.der", server.certificate, PUBLIC)
    SqliteStore(folder / str(Settings.model_fields["store"].default)).close()
    write_new_file(folder / FILE_NAME, _settings_text(hosts[0]).encode(), PUBLIC)


def _settings_text(host: str) -> str:
    """Return a settings file in which everything but the host is a comment."""
    lines = ["# Settings of this fleet; FLEETNET_<KEY> in the environment wins.", ""]
    for key, field in Settings.model_fields.items():
        value = host if key == "host" else field.default
        shown = f'"{value}"' if isinstance(value, str) else str(value)
        mark = "" if key == "host" else "# "
        note = f"  # {field.description}" if field.description else ""
        lines.append(f"{mark}{key} = {shown}{note}")
    return "\n".join(lines) + "\n"
