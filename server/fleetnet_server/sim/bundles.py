"""The identities of simulated devices: made in bulk, and kept in one file.

    FOLDER/sim/devices.jsonl        readable by its owner alone: it holds private keys
    {"ca", "server_hostname", "pins", "made_ms"}        the first line; bytes in base64
    {"name", "cert", "key"}                             a line for each device

A file a device, as `fleetnet device add` makes them, is five waits for the disk each. Copy the
file to another machine to run the simulator there (`fleetnet sim --server`).
"""

import base64
import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from fleetnet_server.config import Settings
from fleetnet_server.errors import FolderError
from fleetnet_server.identity.authority import Authority, Issued
from fleetnet_server.identity.files import replace_file
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.store.bulk import register
from fleetnet_server.store.opening import open_store

_ACTOR = "sim"


def bundles_path(folder: Path) -> Path:
    """Return where the bundles of a fleet's simulated devices are."""
    return folder / "sim" / "devices.jsonl"


def make_bundles(
    folder: Path, settings: Settings, count: int, on_made: Callable[[int], None]
) -> Path:
    """Have bundles for sim-00001 to ``count``, registered; return their file.

    Those that exist stay, as long as their CA and the server's keys are the fleet's and the
    registry knows them; else all are made anew.

    Raises:
        FolderError: the file cannot be written. CredentialError: the CA's key is missing.
        StoreUnavailable.
    """
    authority = Authority.load(folder)
    head = {
        "ca": _text(authority.bundle_anchor),
        "server_hostname": settings.host,
        "pins": ServerKeys(folder).pins(),
    }
    path = bundles_path(folder)
    with open_store(settings.store_place(folder)) as store:
        kept = _kept(path, head)
        if not all(store.lookup(line["name"]) for line in kept):
            kept = []  # another store, or somebody removed some
        lines = list(kept)
        made: list[tuple[str, Issued]] = []
        lifetime = timedelta(seconds=settings.device_lifetime_s)
        for number in range(len(kept) + 1, count + 1):
            name = f"sim-{number:05d}"
            issued = authority.issue_device(name, lifetime=lifetime)
            made.append((name, issued))
            lines.append(
                {"name": name, "cert": _text(issued.certificate), "key": _text(issued.key)}
            )
            on_made(number)
        if made:
            register(store, authority, made, head["pins"], _ACTOR)
            _write(path, [{**head, "made_ms": time.time_ns() // 1_000_000}, *lines])
    return path


def read_bundles(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a dict that Device takes for each line, but without the server's address.

    Raises:
        FolderError: no such file, or it is none of ours.
    """
    try:
        with path.open(encoding="ascii") as file:
            head = json.loads(next(file, ""))
            common = {**head, "ca": base64.b64decode(head["ca"])}
            for line in file:
                entry = json.loads(line)
                pair = {key: base64.b64decode(entry[key]) for key in ("cert", "key")}
                yield {**common, "name": entry["name"], **pair}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FolderError(
            f"{path} holds no simulated devices ({error}): make it with "
            "`fleetnet sim --only-make` on the server"
        ) from error


def _kept(path: Path, head: dict[str, Any]) -> list[dict[str, str]]:
    """Return the devices of a file that still fits the fleet, else []."""
    try:
        first, *lines = path.read_text(encoding="ascii").splitlines()
        found = json.loads(first)
        if any(found.get(key) != value for key, value in head.items()):
            return []
        return [json.loads(line) for line in lines]
    except (OSError, ValueError, AttributeError):
        return []


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        replace_file(path, text.encode())
    except OSError as error:
        raise FolderError(f"{path} cannot be written: {error}") from error


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
