"""wrap_socket: each argument reaches its context, and misuse is named, on every runtime."""

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetnet import CERT_OPTIONAL, CERT_REQUIRED, client_context, wrap_socket
from fleetnet.errors import CredentialError, FleetError, LinkClosed, Rejected
from fleetnet_server.identity.pki import to_pem
from fleetnet_server.sim.interpreters import device_environment
from interpreters import Interpreter, interpreters
from pki import Pki, key_pem

Runtime = Interpreter | None
every_runtime = pytest.mark.parametrize(
    "runtime", [*interpreters(), None], ids=lambda each: each.name if each else "cpython"
)

# Wraps a socket with each of the given sets of arguments; prints what came of it as JSON.
PROGRAM = """
import json, socket, sys
from fleetnet import FleetError, wrap_socket

with open(sys.argv[1]) as file:
    given = json.load(file)
for arguments in given["sets"]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if given["udp"] else socket.SOCK_STREAM)
    if given["port"]:
        sock.connect(socket.getaddrinfo("127.0.0.1", given["port"])[0][-1])
    try:
        secure = wrap_socket(sock, *arguments.pop("positional", ()), **arguments)
        answer = ["wrapped", secure.verified, secure.cipher() is not None]
        if given["port"]:
            secure.write(b"hello\\n")
            answer.append(secure.read(100).decode())
        secure.close()
    except FleetError as error:
        answer = [type(error).__name__, str(error)]
    print(json.dumps(answer))
"""


def wrap_all(
    runtime: Runtime, folder: Path, *sets: dict[str, Any], port: int = 0, udp: bool = False
) -> tuple[list[list[Any]], str]:
    """Return the answer to each set of arguments, and whatever else was printed."""
    (folder / "program.py").write_text(PROGRAM)
    (folder / "sets.json").write_text(json.dumps({"sets": sets, "port": port, "udp": udp}))
    done = subprocess.run(
        [
            runtime.path if runtime else sys.executable,
            str(folder / "program.py"),
            str(folder / "sets.json"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=device_environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("[")]
    assert len(answers) == len(sets), done.stdout
    return answers, "\n".join(line for line in lines if not line.startswith("["))


@pytest.fixture
def paths(pki: Pki, tmp_path: Path) -> dict[str, str]:
    contents = {
        "ca": pki.ca.certificate,
        "otherca": pki.other_ca.certificate,
        "cert": pki.device.certificate,
        "key": pki.device.key,
    }
    for name, data in contents.items():
        (tmp_path / f"{name}.der").write_bytes(data)
    return {name: str(tmp_path / f"{name}.der") for name in contents}


@pytest.fixture
def echo(pki: Pki, tmp_path: Path) -> Iterator[int]:
    """A TLS server of the ssl module that greets each client and asks none for a certificate."""
    (tmp_path / "server.pem").write_bytes(to_pem(pki.server.certificate) + key_pem(pki.server.key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                raw = listener.accept()[0]
            except OSError:
                return
            raw.settimeout(30)
            try:
                with context.wrap_socket(raw, server_side=True) as secure:
                    secure.sendall(b"you said " + secure.recv(100))
                    secure.recv(1)
            except OSError:
                raw.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(30)


@every_runtime
def test_misuse_is_named(runtime: Runtime, tmp_path: Path, paths: dict[str, str]) -> None:
    ca, cert, key = paths["ca"], paths["cert"], paths["key"]
    psk = {"psk_ident": "cam-01", "psk_key": "k" * 16}
    anchors = "no trust anchor" if runtime else "server_hostname"
    cases = [
        ({"cert": cert}, "CredentialError", "belong together"),
        ({"keyfile": key}, "CredentialError", "belong together"),
        ({"key": key, "keyfile": key, "cert": cert}, "CredentialError", "same argument"),
        ({"cadata": ca, "ca_certs": ca}, "CredentialError", "same argument"),
        ({"cadata": ca, "server_hostname": "localhost"}, "CredentialError", "CERT_REQUIRED"),
        ({"cert_reqs": 3}, "CredentialError", "cert_reqs"),
        ({"cert_reqs": 2, "do_handshake": False}, "CredentialError", anchors),
        ({"cert_reqs": 2, "cadata": ca}, "CredentialError", "server_hostname"),
        ({"cert_reqs": 1, "cadata": ca}, "CredentialError", "server_hostname"),
        ({"positional": [True]}, "CredentialError", "server needs"),
        ({"positional": [True, key, cert], "cert_reqs": 2}, "CredentialError", "anchor"),
        ({"positional": [True, key, cert], "cert_reqs": 1}, "CredentialError", "anchor"),
        ({"positional": [True, key, cert, 0, ca]}, "CredentialError", "CERT_REQUIRED"),
        ({"psk_ident": "cam-01"}, "CredentialError", "belong together"),
        ({"psk_key": "k"}, "CredentialError", "belong together"),
        ({**psk, "cert": cert, "key": key}, "CredentialError", "takes the place"),
        ({**psk, "cert_reqs": 2}, "CredentialError", "takes the place"),
    ]
    answers, _ = wrap_all(runtime, tmp_path, *(arguments for arguments, *_ in cases))
    for (arguments, kind, words), answer in zip(cases, answers, strict=True):
        assert answer[0] == kind and words in answer[1], (arguments, answer)


@every_runtime
def test_server_that_asks_without_insisting(
    runtime: Runtime, tmp_path: Path, paths: dict[str, str]
) -> None:
    arguments = {
        "positional": [True, paths["key"], paths["cert"], 1, paths["ca"]],
        "do_handshake": False,
    }
    answers, _ = wrap_all(runtime, tmp_path, arguments)
    if runtime is None:
        assert answers[0][0] == "wrapped"
    else:
        assert answers[0][0] == "Unsupported" and "CERT_REQUIRED" in answers[0][1]


@every_runtime
def test_datagram_sockets(runtime: Runtime, tmp_path: Path) -> None:
    sets = [
        {"datagram": True, "positional": [True]},
        {"datagram": True, "do_handshake": False},
        {"do_handshake": False},
    ]
    answers, _ = wrap_all(runtime, tmp_path, *sets[: 2 if runtime else 3], udp=True)
    assert answers[0][0] == "Unsupported" and "client_id" in answers[0][1]
    assert answers[1] == ["wrapped", False, False]
    if runtime is None:  # MicroPython's sockets do not tell what they are
        assert answers[2][0] == "CredentialError" and "datagram=True" in answers[2][1]


@every_runtime
def test_what_cert_reqs_means_for_a_client(
    runtime: Runtime, tmp_path: Path, paths: dict[str, str], echo: int
) -> None:
    named = {"server_hostname": "localhost"}
    sets: list[dict[str, Any]] = [
        {},
        {"cert_reqs": 0, **named},
        {"cert_reqs": 1, "cadata": paths["ca"], **named},
        {"cert_reqs": 2, "ca_certs": paths["ca"], **named},
        {"positional": [False, None, None, 2, paths["ca"], "localhost", True]},
        {"cert_reqs": 1, "cadata": paths["otherca"], **named},
        {"cert_reqs": 2, "cadata": paths["otherca"], **named},
        {"cert_reqs": 2, "cadata": paths["ca"], "server_hostname": "other.example"},
        {"cert_reqs": 2, "cadata": paths["ca"], "do_handshake": False, **named},
    ]
    answers, printed = wrap_all(runtime, tmp_path, *sets, port=echo)
    assert [answer[0] for answer in answers[5:8]] == ["WrongCA", "WrongCA", "WrongName"]
    assert [answer[:2] for answer in answers[:5]] == [["wrapped", False]] * 2 + [
        ["wrapped", True]
    ] * 3
    assert all(answer[3] == "you said hello\n" for answer in answers[:5])
    assert answers[8] == ["wrapped", True, False, "you said hello\n"]
    assert printed.count("verifies nobody") == 1


@pytest.mark.parametrize(
    ("reqs", "credential", "comes_in"),
    [
        (0, None, True),
        (CERT_OPTIONAL, None, True),
        (CERT_OPTIONAL, "device", True),
        (CERT_OPTIONAL, "device_of_other_ca", False),
        (CERT_OPTIONAL, "device_expired", False),
        (CERT_REQUIRED, None, False),
        (CERT_REQUIRED, "device", True),
        (CERT_REQUIRED, "device_of_other_ca", False),
    ],
)
def test_what_cert_reqs_means_for_a_server(
    pki: Pki, reqs: int, credential: str | None, comes_in: bool
) -> None:
    """CPython; on MicroPython OPTIONAL is refused (above), NONE and REQUIRED are row 4's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), 10)
        theirs = listener.accept()[0]
    theirs.settimeout(30)
    pair = getattr(pki, credential) if credential else (None, None)
    said: list[object] = []

    def serve() -> None:
        try:
            secure = wrap_socket(
                theirs,
                server_side=True,
                key=pki.server.key,
                cert=pki.server.certificate,
                cert_reqs=reqs,
                cadata=pki.ca.certificate if reqs else None,
            )
            said.append(secure.readline())
            secure.sendall(b"welcome\n")
            secure.close()
        except FleetError as error:
            said.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        context = client_context(pki.ca.certificate, *pair)
        secure = context.wrap_socket(ours, server_hostname="localhost")
        secure.sendall(b"hello\n")
        answer = secure.readline()
    except (Rejected, LinkClosed):
        answer = b""
    finally:
        thread.join(30)
        ours.close()
    assert answer == (b"welcome\n" if comes_in else b"")
    assert (said[0] == b"hello\n") == comes_in, said


def test_a_refused_argument_leaves_the_socket_open() -> None:
    with socket.socket() as sock:
        with pytest.raises(CredentialError):
            wrap_socket(sock, psk_ident="cam-01")
        assert sock.fileno() >= 0
