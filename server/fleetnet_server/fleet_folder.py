"""A new fleet folder, whole or not at all, and what its server's certificate is for."""

import shutil
from datetime import timedelta
from pathlib import Path

from fleetnet_server.config import FILE_NAME, Settings
from fleetnet_server.errors import FolderError
from fleetnet_server.identity.authority import DEFAULT_NAME, Authority
from fleetnet_server.identity.files import (
    PUBLIC,
    hidden_beside,
    make_private_folder,
    move_folder_into_place,
    write_new_file,
)
from fleetnet_server.identity.generations import COPY_KEYS
from fleetnet_server.identity.key_types import P256
from fleetnet_server.identity.server_keys import ServerKeys, refuse_existing
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.wording import counted

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


def create_fleet(
    folder: Path, hosts: tuple[str, ...], *, has_ca: bool = True, is_flat: bool = False
) -> None:
    """Make a fleet folder.

    FOLDER/fleetnet.toml, fleet.db, ca/ (identity/generations.py), server/
    (identity/server_keys.py), devices/. Everything is built beside it and renamed at the end.

    Args:
        hosts: names and addresses of the server's certificate; this machine's own are added.
        has_ca: False leaves ca/ and server/ empty. is_flat: see Authority.create.

    Raises:
        FolderError: the folder has something in it, or cannot be made.
        CredentialError: a host that is neither a name nor an address.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderError(f"{folder} is not empty and was left alone: name another folder")
    temporary = hidden_beside(folder.absolute())
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        make_private_folder(temporary)
        for name in ("ca", "server", "devices"):
            make_private_folder(temporary / name)
        if has_ca:
            create_credentials(temporary, hosts, is_flat=is_flat)
        SqliteStore(temporary / str(Settings.model_fields["store"].default)).close()
        write_new_file(temporary / FILE_NAME, _settings_text(hosts[0]).encode(), PUBLIC)
        move_folder_into_place(temporary, folder.absolute())
    except OSError as error:
        raise FolderError(f"{folder} cannot be made: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def create_credentials(
    folder: Path,
    hosts: tuple[str, ...],
    *,
    name: str = DEFAULT_NAME,
    key_type: str = P256,
    permit: tuple[str, ...] = (),
    root_key_file: Path | None = None,
    is_flat: bool = False,
    lifetime: timedelta | None = None,
) -> Authority:
    """Make the first CA and the server's first certificate.

    Raises:
        CredentialError, FolderError, OSError: as Authority.create and ServerKeys.create.
    """
    refuse_existing(folder)
    authority = Authority.create(
        folder, name=name, key_type=key_type, permit=(*hosts, *permit),
        root_key_file=root_key_file, is_flat=is_flat,
    )  # fmt: skip
    ServerKeys.create(folder, authority, server_hosts(hosts), lifetime)
    return authority


def create_pair(folder: Path, authority: Authority, settings: Settings) -> None:
    """Make the first pair of a server whose fleet has a CA. Raises as ServerKeys.create."""
    lifetime = timedelta(seconds=settings.server_lifetime_s)
    ServerKeys.create(folder, authority, server_hosts((settings.host,)), lifetime)


def refuse_registered(folder: Path, settings: Settings) -> None:
    """Make no CA beside devices that trust another one. Raises FolderError."""
    with open_store(settings.store_place(folder)) as store:
        count = len(store.devices())
    if count:
        raise FolderError(
            f"{folder} has {counted(count, 'registered device')}, of another CA: {COPY_KEYS}. A "
            "new CA would lock out every device that has a certificate; --force makes one all the "
            "same"
        )


def server_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a server's certificate is for: its hosts and this machine's own names."""
    return (*hosts, *LOCAL_HOSTS)


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
