"""fleetnet.streams on real MicroPython processes, against servers of the ssl module.

The same client program runs on CPython as well: what a program sees must not differ.
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

import pytest

from fleetnet_server.identity.pki import Credential, to_pem
from fleetnet_server.sim.interpreters import device_environment
from interpreters import Interpreter, interpreters
from pki import Pki, key_pem

PROGRAM = Path(__file__).with_name("stream_client.py")
HOST = "127.0.0.1"
PATIENCE_S = 15.0
BULK_BYTES = 8_000_000  # as in the program
BULK = bytes(range(250)) * (BULK_BYTES // 250)
RUNTIMES = [*interpreters(), None]
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]

every_runtime = pytest.mark.parametrize(
    "runtime", RUNTIMES, ids=lambda each: each.name if each else "cpython"
)
every_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda each: each.name)

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
    raw, _ = listener.accept()
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


def run_client(runtime: Interpreter | None, task: str, **options: object) -> dict[str, Any]:
    """Run one task of the client program to its end; return its line."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(options, file)
        file.flush()
        done = subprocess.run(
            [runtime.path if runtime else sys.executable, str(PROGRAM), task, file.name],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env=device_environment(),
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


@every_runtime
@every_version
def test_verified_connection(
    runtime: Interpreter | None, version: ssl.TLSVersion, pki: Pki, tmp_path: Path
) -> None:
    context = server_of(tmp_path, pki.server, version, pki.ca)
    with server(context, greet) as (port, ends):
        files = write_files(tmp_path, pki.ca, pki.device)
        answer = run_client(runtime, "greet", port=port, **files)
    assert answer == {"result": ["welcome\n", True, version.name.replace("_", ".")]}
    assert ends == ["done"]


@every_runtime
@every_version
@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("server_of_other_ca", "WrongCA"),
        ("server_expired", "CertificateExpired"),
        ("server_future", "CertificateNotYetValid"),
        ("server_elsewhere", "WrongName"),
    ],
)
def test_server_that_is_not_trusted(
    runtime: Interpreter | None,
    version: ssl.TLSVersion,
    which: str,
    expected: str,
    pki: Pki,
    tmp_path: Path,
) -> None:
    heard: list[bytes] = []
    context = server_of(tmp_path, getattr(pki, which), version)
    with server(context, lambda secure: heard.append(secure.recv(100))) as (port, ends):
        answer = run_client(runtime, "greet", port=port, **write_files(tmp_path, pki.ca))
    assert answer["error"] == expected, answer
    assert heard in ([], [b""]), ends


@every_runtime
def test_insecure_connection_says_that_it_is(
    runtime: Interpreter | None, pki: Pki, tmp_path: Path
) -> None:
    context = server_of(tmp_path, pki.server_expired, VERSIONS[0])
    with server(context, greet) as (port, _):
        answer = run_client(runtime, "greet", port=port, insecure=True)
    assert answer == {"result": ["welcome\n", False, "TLSv1.2"]}


@every_runtime
@every_version
@pytest.mark.parametrize(
    ("which", "alerts"),
    [
        ("device_of_other_ca", (48,)),
        ("device_expired", (45,)),
        (None, (40, 116)),  # TLS 1.2, TLS 1.3
    ],
)
def test_refused_client_certificate(
    runtime: Interpreter | None,
    version: ssl.TLSVersion,
    which: str | None,
    alerts: tuple[int, ...],
    pki: Pki,
    tmp_path: Path,
) -> None:
    """In TLS 1.3 the client's first write succeeds, and its first read tells; mbedTLS hides the
    number of an encrypted alert."""
    files = write_files(tmp_path, pki.ca, getattr(pki, which) if which else None)
    with server(server_of(tmp_path, pki.server, version, pki.ca), greet) as (port, ends):
        answer = run_client(runtime, "greet", port=port, **files)
    assert answer["error"] == "Rejected", answer
    if runtime is not None and version == ssl.TLSVersion.TLSv1_3:
        assert answer["alert"] is None
    else:
        assert answer["alert"] in alerts, answer
        assert f"TLS alert {answer['alert']}" in answer["text"]
    assert isinstance(ends[0], ssl.SSLError)


@every_runtime
@every_version
def test_client_that_reads_first(
    runtime: Interpreter | None, version: ssl.TLSVersion, pki: Pki, tmp_path: Path
) -> None:
    def speak(secure: ssl.SSLSocket) -> None:
        secure.sendall(b"you first\n")

    with server(server_of(tmp_path, pki.server, version), speak) as (port, _):
        answer = run_client(runtime, "listen_first", port=port, **write_files(tmp_path, pki.ca))
    assert answer == {"result": "you first\n"}


@every_runtime
def test_reader_that_gives_up_loses_nothing(
    runtime: Interpreter | None, pki: Pki, tmp_path: Path
) -> None:
    def dribble(secure: ssl.SSLSocket) -> None:
        assert secure.recv(100) == b"start\n"
        secure.sendall(b"ab")
        assert secure.recv(100) == b"more\n"
        secure.sendall(b"cd")

    with server(server_of(tmp_path, pki.server, VERSIONS[1]), dribble) as (port, _):
        answer = run_client(runtime, "give_up_reading", port=port, **write_files(tmp_path, pki.ca))
    assert answer == {"result": [3, "abcd"]}


@every_runtime
@every_version
def test_writer_that_gives_up_sends_nothing_twice(
    runtime: Interpreter | None, version: ssl.TLSVersion, pki: Pki, tmp_path: Path
) -> None:
    received = hashlib.sha256()

    def read_late(secure: ssl.SSLSocket) -> None:
        assert secure.recv(100) == b"start\n"
        time.sleep(0.3)
        left = BULK_BYTES
        while left:
            data = secure.recv(min(left, 65536))
            assert data, f"{left} B are missing"
            received.update(data)
            left -= len(data)
        secure.sendall(b"all of it\n")

    with server(server_of(tmp_path, pki.server, version), read_late) as (port, ends):
        answer = run_client(runtime, "give_up_writing", port=port, **write_files(tmp_path, pki.ca))
    assert received.hexdigest() == hashlib.sha256(BULK).hexdigest(), ends
    assert answer["result"][1] == "all of it\n"
    # CPython's drain() is content as soon as the transport is below its high-water mark.
    assert answer["result"][0] or runtime is None


@every_runtime
@every_version
def test_peer_that_speaks_after_the_deadline_of_the_handshake(
    runtime: Interpreter | None, version: ssl.TLSVersion, pki: Pki, tmp_path: Path
) -> None:
    def speak_late(secure: ssl.SSLSocket) -> None:
        time.sleep(1.5)
        secure.sendall(b"late\n")

    with server(server_of(tmp_path, pki.server, version), speak_late) as (port, _):
        files = write_files(tmp_path, pki.ca)
        answer = run_client(runtime, "wait_longer_than_the_handshake", port=port, **files)
    assert answer == {"result": "late\n"}


@every_runtime
def test_close_ends_a_waiting_reader(runtime: Interpreter | None, pki: Pki, tmp_path: Path) -> None:
    def hold(secure: ssl.SSLSocket) -> None:
        assert secure.recv(100) == b"start\n"
        with contextlib.suppress(OSError):
            secure.recv(1)

    with server(server_of(tmp_path, pki.server, VERSIONS[1]), hold) as (port, _):
        files = write_files(tmp_path, pki.ca)
        answer = run_client(runtime, "close_under_a_reader", port=port, **files)
    assert answer == {"result": ["", ""]}


@every_runtime
def test_stream_that_ends_too_early(runtime: Interpreter | None, pki: Pki, tmp_path: Path) -> None:
    def stop(secure: ssl.SSLSocket) -> None:
        assert secure.recv(100) == b"start\n"
        secure.sendall(b"half")

    with server(server_of(tmp_path, pki.server, VERSIONS[1]), stop) as (port, _):
        answer = run_client(runtime, "end_early", port=port, **write_files(tmp_path, pki.ca))
    assert answer == {"result": ["half", ""]}


@every_runtime
@every_version
def test_big_transfer_is_exact_both_ways(
    runtime: Interpreter | None, version: ssl.TLSVersion, pki: Pki, tmp_path: Path
) -> None:
    """The server sends everything before it reads: the client's writes meet a full pipe."""
    received = hashlib.sha256()

    def exchange(secure: ssl.SSLSocket) -> None:
        secure.sendall(BULK)
        left = BULK_BYTES
        while left:
            data = secure.recv(min(left, 65536))
            assert data, f"{left} B are missing"
            received.update(data)
            left -= len(data)
        secure.sendall(b"all of it\n")

    context = server_of(tmp_path, pki.server, version)
    with server(context, exchange) as (port, ends):
        answer = run_client(runtime, "bulk", port=port, **write_files(tmp_path, pki.ca))
    expected = hashlib.sha256(BULK).hexdigest()
    assert answer == {"result": [BULK_BYTES, expected, "all of it\n"]}, ends
    assert received.hexdigest() == expected


@every_runtime
def test_nobody_listens(runtime: Interpreter | None, pki: Pki, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind((HOST, 0))
        answer = run_client(
            runtime, "greet", port=closed.getsockname()[1], **write_files(tmp_path, pki.ca)
        )
    assert answer["error"] == "Unreachable", answer


@every_runtime
def test_somebody_who_says_nothing(runtime: Interpreter | None, pki: Pki, tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as silent:
        port = silent.getsockname()[1]
        answer = run_client(runtime, "greet", port=port, **write_files(tmp_path, pki.ca))
    assert answer["error"] == "HandshakeTimeout", answer


@every_runtime
def test_pem_loads_where_the_firmware_reads_it(
    runtime: Interpreter | None, pki: Pki, tmp_path: Path
) -> None:
    (tmp_path / "ca").write_bytes(to_pem(pki.ca.certificate))
    (tmp_path / "cert").write_bytes(to_pem(pki.device.certificate))
    (tmp_path / "key").write_bytes(key_pem(pki.device.key))
    files = {name: str(tmp_path / name) for name in ("ca", "cert", "key")}
    with server(server_of(tmp_path, pki.server, VERSIONS[0], pki.ca), greet) as (port, _):
        answer = run_client(runtime, "greet", port=port, **files)
    assert answer == {"result": ["welcome\n", True, "TLSv1.2"]}


@every_runtime
@pytest.mark.parametrize("broken", ["ca", "cert", "key", "missing", "two"])
def test_credentials_that_cannot_be_used(
    runtime: Interpreter | None, broken: str, pki: Pki, tmp_path: Path
) -> None:
    files = write_files(tmp_path, pki.ca, pki.device)
    if broken in files:
        Path(files[broken]).write_bytes(b"\x30\x82\x01\x00 no certificate at all")
    elif broken == "missing":
        Path(files["ca"]).unlink()
    elif broken == "two":
        Path(files["ca"]).write_bytes(pki.other_ca.certificate + pki.ca.certificate)
    answer = run_client(runtime, "load", **files)
    assert answer["error"] == "CredentialError", answer
    assert len(answer["text"]) > 20


@pytest.mark.parametrize("runtime", interpreters(), ids=lambda each: each.name)
def test_board_has_no_certificate_store(runtime: Interpreter) -> None:
    answer = run_client(runtime, "load")
    assert answer["error"] == "CredentialError"
    assert "ca=" in answer["text"]
