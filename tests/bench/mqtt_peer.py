"""The pipeline one would build instead: mosquitto, an aiomqtt subscriber, SQLite."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from fleets import bundles
from processes import Process, cores, cpu_seconds, program, running
from telemetry import Flow

from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.pki import to_pem


def mosquitto() -> str | None:
    """Return the broker's program; Debian has it in a folder that a user's PATH lacks."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def to_pem_files(fleet: Path, target: Path) -> None:
    """Write ca.pem, cert.pem and key.pem of the fleet's server, for programs that read PEM."""
    pem = serialization.Encoding.PEM
    # The devices send their leaf alone: the broker needs the issuing CA, too.
    anchors = Authority.load(fleet).client_anchors
    (target / "ca.pem").write_bytes(b"".join(map(to_pem, anchors)))
    shutil.copy(fleet / "server" / "chain.pem", target / "cert.pem")
    key = serialization.load_der_private_key((fleet / "server/key.der").read_bytes(), None)
    (target / "key.pem").write_bytes(
        key.private_bytes(
            pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    (target / "key.pem").chmod(0o600)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """Return a port that nobody uses now."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        number: int = sock.getsockname()[1]
        return number


def wait_for_port(number: int, timeout_s: float = 10.0) -> None:
    """Wait until something accepts connections there."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", number), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def wait_for_datagram_port(number: int, timeout_s: float = 15.0) -> None:
    """Wait until a UDP socket is bound there (proc(5), net/udp). Raises RuntimeError."""
    deadline = time.monotonic() + timeout_s
    while f":{number:04X} " not in "".join(
        Path(f"/proc/net/{name}").read_text() for name in ("udp", "udp6")
    ):
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing listens on UDP port {number} after {timeout_s:.0f} s")
        time.sleep(0.02)


def _write_configuration(folder: Path, secure: int, more: str = "") -> str:
    """Write a configuration with a listener for devices; its PEM files are in ``folder``."""
    path = folder / "mosquitto.conf"
    path.write_text(
        f"""per_listener_settings true
persistence false
log_dest none
max_queued_messages 0
max_inflight_messages 1000
set_tcp_nodelay true
user root
listener {secure} 127.0.0.1
cafile {folder}/ca.pem
certfile {folder}/cert.pem
keyfile {folder}/key.pem
require_certificate true
use_identity_as_username true
{more}"""
    )
    return str(path)


def broker_command(fleet: Path, folder: Path, number: int) -> list[str]:
    """Return the command of a broker for devices of a fleet; its files come into ``folder``."""
    command = mosquitto()
    assert command is not None
    to_pem_files(fleet, folder)
    return [command, "-c", _write_configuration(folder, number)]


@contextlib.contextmanager
def _broker(fleet: Path, folder: Path) -> Iterator[tuple[Process, int, int]]:
    """Run mosquitto; the subscriber's listener is without TLS, in the peer's favour."""
    command = mosquitto()
    assert command is not None
    to_pem_files(fleet, folder)
    secure, plain = free_port(), free_port()
    plain_lines = f"listener {plain} 127.0.0.1\nallow_anonymous true\n"
    configuration = _write_configuration(folder, secure, plain_lines)
    with running([command, "-c", configuration], cores()[0], errors=subprocess.DEVNULL) as process:
        wait_for_port(plain)
        yield process, secure, plain


def _wait_until_stored(subscriber: Process, messages: int) -> int:
    """Return the rows once everything is stored; bounded by 90 s."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        subscriber.say("?")
        answer = subscriber.answer(30)
        if answer["stored"] >= messages:
            rows: int = answer["rows"]
            return rows
        time.sleep(0.1)
    raise RuntimeError(f"peer: {answer['stored']} of {messages} messages stored after 90 s")


def measure(
    fleet: Path, devices: int, readings: int, batched: bool, style: str, seconds: float
) -> Flow:
    """Load the pipeline; the CPU of mosquitto and of the subscriber counts.

    Args:
        style: "rows" (one a reading) or "bodies" (one a message).
    """
    with tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name:
        folder = Path(name)
        with _broker(fleet, folder) as (broker, secure, plain):
            subscribe = program("mqtt_subscriber.py", str(plain), str(folder / "peer.db"), style)
            publish = program(
                "mqtt_load.py", str(secure), str(readings), "20" if batched else "1", str(seconds),
                *bundles(fleet, devices),
            )  # fmt: skip
            with (
                running(subscribe, cores()[0]) as subscriber,
                running(publish, cores()[1]) as load,
            ):
                subscriber.answer(20)
                load.answer(90)
                before = cpu_seconds(broker.pid) + cpu_seconds(subscriber.pid)
                began = time.monotonic()
                load.say("go")
                sums = load.answer(seconds + 90)
                rows = _wait_until_stored(subscriber, sums["sent"])
                wall_s = time.monotonic() - began
                cpu_s = cpu_seconds(broker.pid) + cpu_seconds(subscriber.pid) - before
    count = sums["sent"] * readings
    if rows != (count if style == "rows" else sums["sent"]):
        raise RuntimeError(f"peer: {rows} rows stored of {count} readings")
    return Flow(count, cpu_s, wall_s, 0.0, 0, sums["sent"])
