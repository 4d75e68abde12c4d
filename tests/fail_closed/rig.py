"""Devices that try, and servers that listen: what the tests of this folder share.

A try is a run of try_connect.py by MicroPython or CPython. The default number of tries is small;
FLEETNET_TRIES=100 is the proof.
"""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from OpenSSL import SSL

from end_to_end.fleet import faked_clock
from fleetnet.ports import port
from fleetnet_server.app import Backend
from fleetnet_server.config import Settings
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.identity.pki import Credential
from fleetnet_server.net.dtls import DtlsListener
from fleetnet_server.net.tls import TlsListener
from fleetnet_server.sim.interpreters import device_environment
from interpreters import interpreters
from pki import Pki

TRIES = int(os.environ.get("FLEETNET_TRIES", "3"))
PROGRAM = Path(__file__).with_name("try_connect.py")
LINKS = ("tls1.2", "tls1.3", "dtls")
RUNTIMES = [*interpreters(), None]


def name_of(runtime: object) -> str:
    return "cpython" if runtime is None else runtime.name  # type: ignore[attr-defined,no-any-return]


class Ears:
    """A server's application: counts the bytes that reach it."""

    def __init__(self) -> None:
        self.heard = 0

    def receive_data(self, data: bytes) -> None:
        self.heard += len(data)

    def link_lost(self, error: object) -> None:
        pass


def write_bundle(
    folder: Path, anchor: Credential, device: Credential | None, link: str, port_number: int
) -> Path:
    folder.mkdir()
    config = {
        "name": "press-7",
        "host": "127.0.0.1",
        "tls_port": port_number,
        "dtls_port": port_number,
        "server_hostname": "localhost",
        "transport": "dtls" if link == "dtls" else "tls",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "ca.der").write_bytes(anchor.certificate)
    if device is not None:
        (folder / "cert.der").write_bytes(device.certificate)
        (folder / "key.der").write_bytes(device.key)
    return folder


async def run_device(
    runtime: object,
    bundle: Path,
    tries: int = TRIES,
    clock: str | None = None,
    strip: bool = False,
) -> list[list[object]]:
    """Run try_connect to its end; return its lines."""
    command = [sys.executable if runtime is None else runtime.path]  # type: ignore[attr-defined]
    environment = device_environment()
    if clock is not None:
        environment.update(faked_clock(clock))
    process = await asyncio.create_subprocess_exec(
        *command, str(PROGRAM), str(bundle), str(tries), *(["strip"] if strip else []),
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 20 + 6 * tries)
    assert process.returncode == 0, err.decode()
    lines = [json.loads(line) for line in out.splitlines() if line.startswith(b"[")]
    assert len(lines) == tries, (out, err)
    return lines


@asynccontextmanager
async def listener(
    server: Credential, anchor: Credential, link: str
) -> AsyncIterator[tuple[int, Ears]]:
    """A server of the real engine that only listens, and counts what it hears."""
    ears = Ears()
    datagram = link == "dtls"
    context = port.server_context(
        server.certificate, server.key, anchor.certificate, datagram=datagram
    )
    if link == "tls1.2":
        context.limit_version(SSL.TLS1_2_VERSION)
    kind = DtlsListener if datagram else TlsListener
    server_socket = kind(context, lambda *_: ears, lambda *_: None)  # type: ignore[arg-type]
    await server_socket.start("127.0.0.1", 0)
    try:
        yield server_socket.port, ears
    finally:
        server_socket.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def backend(
    pki: Pki, folder: Path, link: str, server: Credential | None = None
) -> AsyncIterator[Backend]:
    """The whole back-end, with this run's CA in place of its own."""
    server = server or pki.server
    create_fleet(folder, ("localhost",))
    for name in ("ca", "server"):
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
    (folder / "ca" / "ca.der").write_bytes(pki.ca.certificate)
    (folder / "server" / "cert.der").write_bytes(server.certificate)
    (folder / "server" / "key.der").write_bytes(server.key)
    settings = Settings(bind="127.0.0.1", tls_port=0, dtls_port=0)
    async with Backend(folder, settings) as running:
        if link == "tls1.2":
            running.tls.context.limit_version(SSL.TLS1_2_VERSION)
        yield running
