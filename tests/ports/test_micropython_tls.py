"""fleetnet.streams on real MicroPython processes, against servers of the ssl module.

The same client program runs on CPython as well: what a program sees must not differ.
"""

import contextlib
import hashlib
import socket
import ssl
from pathlib import Path

import pytest

from fleetnet_server.identity.pki import to_pem
from interpreters import Interpreter, interpreters
from pki import Pki, key_pem
from ports.peers import (
    HANDSHAKES_S,
    HOST,
    VERSIONS,
    greet,
    read_late,
    run_client,
    server,
    server_of,
    speak_after,
    take_all,
    wait_longer,
    write_files,
)

BULK_BYTES = 8_000_000  # as in the program
BULK = bytes(range(250)) * (BULK_BYTES // 250)
RUNTIMES = [*interpreters(), None]

every_runtime = pytest.mark.parametrize(
    "runtime", RUNTIMES, ids=lambda each: each.name if each else "cpython"
)
every_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda each: each.name)


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
    talk = read_late(BULK_BYTES, received, b"all of it\n")
    with server(server_of(tmp_path, pki.server, version), talk) as (port, ends):
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
    files = write_files(tmp_path, pki.ca)
    for may_take_s in HANDSHAKES_S:
        with server(server_of(tmp_path, pki.server, version), speak_after(may_take_s)) as (port, _):
            answer = wait_longer(runtime, may_take_s, port, files)
        if answer.get("error") != "HandshakeTimeout":
            break
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
        take_all(secure, BULK_BYTES, received)
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
        files = write_files(tmp_path, pki.ca)
        answer = wait_longer(runtime, 1, silent.getsockname()[1], files)
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
