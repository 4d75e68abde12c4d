"""P11: round trips of a camera's frame over DTLS, over a network of 80 ms, with and without loss.

The network is tests/bad_network.py: seeded, so that a run meets the losses of the run before as
long as both send alike. A round trip is 80 ms of the time that the frame took.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from devices import bundle_for
from fleets import Server, bundles, serving
from handshakes import coap_command
from mqtt_peer import free_port, to_pem_files, wait_for_datagram_port
from processes import HERE, cores, running

from fleetnet_server.sim.interpreters import device_environment

sys.path.append(str(HERE.parent))

from bad_network import Faults, UdpProxy

RTT_S = 0.080
_SEED = 11
_PATIENCE_S = 120


def trips(seconds: float) -> float:
    """Return how many round trips so long is."""
    return seconds / RTT_S


async def _through(number: int, loss: float, command: Any) -> tuple[float, bytes]:
    """Run a program behind the bad network; return its seconds and its output.

    Args:
        number: the server's port. command: makes the program's command from the proxy's port.

    Raises:
        RuntimeError: it failed. TimeoutError: it took two minutes.
    """
    one_way = {"loss": loss, "delay_ms": 1000 * RTT_S / 2}
    proxy = UdpProxy(("127.0.0.1", number), _SEED, Faults(**one_way), Faults(**one_way))
    await proxy.start()
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        "taskset", "-c", str(cores()[1]), *command(proxy.address[1]),
        env=device_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _PATIENCE_S)
        took_s = time.monotonic() - began
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await proxy.close()
    if process.returncode:
        raise RuntimeError(f"{command(0)[0]} failed: {process.returncode}")
    return took_s, output


def ours(interpreter: str, fleet: Path, loss: float, frames: int) -> list[float]:
    """Return the round trips of each frame, sorted; ``loss``: 0 to 1, each way."""
    with tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name, serving(fleet) as server:

        def command(port: int) -> list[str]:
            bundle = bundle_for(fleet, Server(server.process, port, port), "dtls", Path(name))
            return [interpreter, str(HERE / "frame_device.py"), bundle, str(frames)]

        _, output = asyncio.run(_through(server.dtls_port, loss, command))
    seen = json.loads(output.splitlines()[-1])
    return sorted(trips(took / 1000) for took in seen["took_ms"])


def libcoap(fleet: Path) -> float:
    """Return the round trips of libcoap's client for the same frame, blocks of 1,024 B.

    A PUT of 16 B is subtracted, which has the same start and handshake.
    """
    with tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name:
        folder = Path(name)
        to_pem_files(fleet, folder)
        bundle = Path(bundles(fleet, 2)[1])
        device_pem_files(bundle, folder)
        number = free_port(socket.SOCK_DGRAM)
        with running(coap_command(name, number), cores()[0], errors=subprocess.DEVNULL):
            wait_for_datagram_port(number + 1)
            took = []
            for size in (16, 60_000):
                (folder / "frame").write_bytes(os.urandom(size))
                work = _through(number + 1, 0.0, lambda port: client_command(folder, port))
                took.append(asyncio.run(work)[0])
    return trips(took[1] - took[0])


def client_command(folder: Path, number: int) -> list[str]:
    """Return the command that puts the file ``frame``."""
    return [
        "coap-client-openssl", "-m", "put", "-f", f"{folder}/frame", "-v", "2",
        "-B", str(_PATIENCE_S), "-c", f"{folder}/device.pem", "-j", f"{folder}/device-key.pem",
        "-C", f"{folder}/device-ca.pem", "-R", f"{folder}/device-ca.pem",
        f"coaps://127.0.0.1:{number}/example_data",
    ]  # fmt: skip


def device_pem_files(bundle: Path, target: Path) -> None:
    """Write device.pem, device-key.pem and device-ca.pem of a bundle."""
    pem = serialization.Encoding.PEM
    for name, der in (("device", "cert"), ("device-ca", "ca")):
        certificate = x509.load_der_x509_certificate((bundle / f"{der}.der").read_bytes())
        (target / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
    key = serialization.load_der_private_key((bundle / "key.der").read_bytes(), None)
    path = target / "device-key.pem"
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
