"""The other end of a client program on real MicroPython: servers of the ssl module for one client.

The programs are stream_client.py and surface_client.py; each prints one JSON line.
"""

import contextlib
import hashlib
import json
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fleetnet_server.identity.pki import Credential
from fleetnet_server.sim.interpreters import device_environment
from interpreters import Interpreter
from pki import key_pem

PROGRAM = Path(__file__).with_name("stream_client.py")
HOST = "127.0.0.1"
PATIENCE_S = 30.0
# What a handshake may take where a test needs a short time: more, if the machine was too busy.
HANDSHAKES_S = [1, 3, 9]
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]

Talk = Callable[[ssl.SSLSocket], None]


def server_of(
    folder: Path, server: Credential, version: ssl.TLSVersion, ca: Credential | None = None
) -> ssl.SSLContext:
    """A context of exactly one TLS version; ``ca``: clients must show a certificate of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    (folder / "server.crt").write_text(ssl.DER_cert_to_PEM_cert(server.certificate))
    (folder / "server.key").write_bytes(key_pem(server.key))
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    if ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=ca.certificate)
    return context


def read_to_end(sock: socket.socket) -> None:
    """Half-close and wait for the peer: closing over unread bytes would reset the link, and
    an alert that is on its way would be lost."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass


def serve_one(
    listener: socket.socket, context: ssl.SSLContext, talk: Talk, ends: list[Any]
) -> None:
    """Accept one client; ``ends`` gets what ended the handshake or the talk, or "done"."""
    try:
        raw, _ = listener.accept()
    except OSError as error:  # nobody came: the client's own end tells more
        ends.append(error)
        return
    raw.settimeout(PATIENCE_S)
    with context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as secure:
        try:
            secure.do_handshake()
            talk(secure)
            ends.append("done")
        except (OSError, AssertionError) as error:
            ends.append(error)
        # Past the TLS layer, which is of no use after an error.
        with socket.socket(fileno=secure.detach()) as plain:
            plain.settimeout(PATIENCE_S)
            read_to_end(plain)


@contextlib.contextmanager
def server(context: ssl.SSLContext, talk: Talk) -> Iterator[tuple[int, list[Any]]]:
    """A server for one connection; its port, and how that ended."""
    ends: list[Any] = []
    with socket.create_server((HOST, 0)) as listener:
        # Small, so that a writer really has to wait for a peer that does not read.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        listener.settimeout(PATIENCE_S)
        thread = threading.Thread(target=serve_one, args=(listener, context, talk, ends))
        thread.start()
        try:
            yield listener.getsockname()[1], ends
        finally:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def run_client(
    runtime: Interpreter | None,
    task: str,
    program: Path = PROGRAM,
    environment: dict[str, str] | None = None,
    **options: object,
) -> dict[str, Any]:
    """Run one task of a client program to its end; return its line."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(options, file)
        file.flush()
        done = subprocess.run(
            [runtime.path if runtime else sys.executable, str(program), task, file.name],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env=device_environment() | (environment or {}),
        )
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def write_files(
    folder: Path, anchor: Credential, device: Credential | None = None
) -> dict[str, str]:
    """Lay down what a client needs, as the options of its program."""
    files = {"ca": anchor.certificate}
    if device is not None:
        files |= {"cert": device.certificate, "key": device.key}
    for name, data in files.items():
        (folder / f"{name}.der").write_bytes(data)
    return {name: str(folder / f"{name}.der") for name in files}


def greet(secure: ssl.SSLSocket) -> None:
    assert secure.recv(100) == b"hello\n"
    secure.sendall(b"welcome\n")


def speak_after(may_take_s: float) -> Talk:
    """Say nothing for longer than the handshake may take, then one line."""

    def talk(secure: ssl.SSLSocket) -> None:
        time.sleep(1.5 * may_take_s)
        secure.sendall(b"late\n")

    return talk


def take_all(secure: ssl.SSLSocket, count: int, received: "hashlib._Hash") -> None:
    """Receive so many bytes."""
    left = count
    while left:
        data = secure.recv(min(left, 65536))
        assert data, f"{left} B are missing"
        received.update(data)
        left -= len(data)


def read_late(count: int, received: "hashlib._Hash", answer: bytes) -> Talk:
    """Say nothing for a while, so that the client's buffers fill; then take all, and answer."""

    def talk(secure: ssl.SSLSocket) -> None:
        assert secure.recv(100) == b"start\n"
        time.sleep(0.3)
        take_all(secure, count, received)
        secure.sendall(answer)

    return talk


def wait_longer(
    runtime: Interpreter | None, may_take_s: float, port: int, files: dict[str, str]
) -> dict[str, Any]:
    """Run the client that hears a line later than its handshake may take."""
    task, handshake_ms = "wait_longer_than_the_handshake", round(1000 * may_take_s)
    return run_client(runtime, task, port=port, handshake_ms=handshake_ms, **files)
