"""A fleet's folder for the bench, and its server in a process of its own."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import apsw
from processes import Process, cores, running

from fleetnet_server.config import load_settings
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.bundle import bundle_config
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.store.bulk import register
from fleetnet_server.store.sqlite import SqliteStore

BENCH_SETTINGS = {
    "FLEETNET_TLS_PORT": "0",
    "FLEETNET_DTLS_PORT": "0",
    "FLEETNET_BIND": "127.0.0.1",
    # Every handshake of a row may be under way at once.
    "FLEETNET_MAX_HANDSHAKES": "4096",
    # A bench opens thousands of sessions of one address at once: the gates are not measured.
    "FLEETNET_SESSIONS_PER_S": "100000",
    "FLEETNET_ADDRESS_HANDSHAKES_BURST": "1000000",
}


class Server(NamedTuple):
    """A running server: its process and its ports."""

    process: Process
    tls_port: int
    dtls_port: int


def make_fleet(folder: Path, devices: int) -> None:
    """Make a fleet with bench-0000 and so on; nothing is done for those that exist.

    As `fleetnet device add` for each, but none waits for the disk.
    """
    if not folder.exists():
        create_fleet(folder, ("localhost",))
    settings = load_settings(folder)
    authority = Authority.load(folder)
    lifetime = timedelta(seconds=settings.device_lifetime_s)
    made = []
    with SqliteStore(settings.store_path(folder)) as store:
        for index in range(len(store.devices()), devices):
            name = f"bench-{index:04d}"
            issued = authority.issue_device(name, lifetime=lifetime)
            config = bundle_config(folder, settings, name, "tls")
            bundle = folder / "devices" / name
            bundle.mkdir(mode=0o700)
            (bundle / "cert.der").write_bytes(issued.certificate)
            (bundle / "key.der").write_bytes(issued.key)
            (bundle / "ca.der").write_bytes(authority.bundle_anchor)
            (bundle / "config.json").write_text(json.dumps(config))
            made.append((name, issued))
        register(store, authority, made, ServerKeys(folder).pins(), "bench")


def bundles(folder: Path, count: int) -> list[str]:
    """Return the folders of the first ``count`` devices."""
    return [str(folder / "devices" / f"bench-{index:04d}") for index in range(count)]


def serve_command(folder: Path) -> list[str]:
    """Return the command that serves a fleet, as a user would."""
    fleetnet = "import sys; from fleetnet_server.cli.main import main; sys.exit(main())"
    return [sys.executable, "-c", fleetnet, "-C", str(folder), "serve", "--json", "--quiet"]


@contextlib.contextmanager
def serving(folder: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Server]:
    """Run the server of a fleet on the measured core; ``settings``: beside the bench's own."""
    environment = {**BENCH_SETTINGS, **settings}
    with running(serve_command(folder), cores()[0], environment) as process:
        ready = process.answer(30)
        yield Server(process, ready["tls_port"], ready["dtls_port"])


def stored(folder: Path) -> tuple[int, int]:
    """Return how many messages and readings the store holds; the server must be stopped."""
    path = load_settings(folder).store_path(folder)
    connection = apsw.Connection(str(path))
    try:
        messages, readings = connection.execute(
            "SELECT count(*), sum(json_array_length(body, '$[3]')) FROM messages WHERE kind = 16"
        ).get
    finally:
        connection.close()
    return messages, readings or 0


def empty_store(folder: Path) -> None:
    """Remove the messages of an earlier row, so that every row begins alike."""
    path = load_settings(folder).store_path(folder)
    connection = apsw.Connection(str(path))
    try:
        connection.execute("DELETE FROM messages; DELETE FROM epochs; VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    os.sync()
