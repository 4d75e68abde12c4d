"""P4: full mutual handshakes per second of a server's CPU."""

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from fleets import bundles, serving
from mqtt_peer import free_port, to_pem_files, wait_for_datagram_port
from processes import Process, cores, cpu_seconds, program, running


class Rate(NamedTuple):
    """What one server did."""

    handshakes: int
    cpu_s: float
    version: str
    cipher: str

    @property
    def per_core_second(self) -> float:
        return self.handshakes / self.cpu_s


def _load(server: Process, link: str, number: int, bundle: str, seconds: float) -> Rate:
    command = program("handshake_load.py", link, str(number), str(seconds), bundle)
    with running(command, cores()[1]) as load:
        load.answer(30)
        before = cpu_seconds(server.pid)
        load.say("go")
        sums = load.answer(seconds + 30)
        # What the last handshakes left behind is part of them.
        time.sleep(0.1)
        cpu_s = cpu_seconds(server.pid) - before
    return Rate(sums["handshakes"], cpu_s, sums["version"], sums["cipher"])


def fleetnet(folder: Path, link: str, seconds: float) -> Rate:
    """Measure `fleetnet serve`: its look into the registry is part of a handshake."""
    with serving(folder) as server:
        number = server.dtls_port if link == "dtls" else server.tls_port
        return _load(server.process, link, number, bundles(folder, 1)[0], seconds)


def s_server(folder: Path, link: str, seconds: float) -> Rate:
    """Measure `openssl s_server` with the same certificates, client certificate required."""
    with tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name:
        to_pem_files(folder, Path(name))
        number = free_port()
        command = [
            "openssl", "s_server", "-accept", f"127.0.0.1:{number}", "-cert", f"{name}/cert.pem",
            "-key", f"{name}/key.pem", "-CAfile", f"{name}/ca.pem", "-Verify", "1",
            "-verify_return_error", "-verify_quiet", "-quiet", "-no_ticket", "-num_tickets", "0",
            "-no_cache",
        ]  # fmt: skip
        with running(command, cores()[0], errors=subprocess.DEVNULL) as process:
            # It serves one connection at a time: a mere connect would be one.
            time.sleep(0.5)
            return _load(process, link, number, bundles(folder, 1)[0], seconds)


def coap_server() -> str | None:
    """Return libcoap's example server on OpenSSL, None when it is not installed."""
    return shutil.which("coap-server-openssl")


def coap_client() -> str | None:
    """Return its client on OpenSSL, None when it is not installed."""
    return shutil.which("coap-client-openssl")


def coap_command(folder: str, number: int) -> list[str]:
    """Return the command of libcoap's server, which listens for DTLS one above ``number``."""
    command = coap_server()
    assert command is not None
    return [
        command, "-A", "127.0.0.1", "-p", str(number), "-c", f"{folder}/cert.pem",
        "-j", f"{folder}/key.pem", "-C", f"{folder}/ca.pem", "-R", f"{folder}/ca.pem", "-v", "2",
    ]  # fmt: skip


def libcoap(folder: Path, seconds: float) -> Rate:
    """Measure libcoap's server with the same certificates, client certificate required."""
    with tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name:
        to_pem_files(folder, Path(name))
        number = free_port(socket.SOCK_DGRAM)
        command = coap_command(name, number)
        with running(command, cores()[0], errors=subprocess.DEVNULL) as process:
            wait_for_datagram_port(number + 1)
            return _load(process, "dtls", number + 1, bundles(folder, 1)[0], seconds)
