"""Contexts' attributes, and sockets without asyncio, on real MicroPython processes."""

import asyncio
import hashlib
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from end_to_end.fleet import free_port
from fleetnet.ports.cpython import open_datagram
from fleetnet.ports.openssl_context import client_context
from fleetnet_server.identity.pki import Credential
from fleetnet_server.sim.interpreters import device_environment
from interpreters import Interpreter, interpreters
from listening import echoing
from pki import Pki, key_pem
from ports.peers import HOST, VERSIONS, greet, run_client, server, server_of, write_files

PROGRAM = Path(__file__).with_name("surface_client.py")
BULK_BYTES = 300_000
PATIENCE_S = 30
KEEPS = """
import io, tls
context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
context.verify_mode = tls.CERT_NONE
print(dir(context.wrap_socket(io.BytesIO(), do_handshake_on_connect=False)))
"""

every_runtime = pytest.mark.parametrize("runtime", interpreters(), ids=lambda each: each.name)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_exactly(secure: ssl.SSLSocket, count: int) -> None:
    while count:
        data = secure.recv(min(count, 65536))
        assert data, f"{count} B are missing"
        count -= len(data)


@every_runtime
def test_blocking_client(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    def talk(secure: ssl.SSLSocket) -> None:
        assert secure.recv(100) == b"hello\n"
        secure.sendall(b"one\ntw")
        secure.sendall(b"o\n")
        read_exactly(secure, BULK_BYTES)
        secure.sendall(b"that was all")
        secure.unwrap()

    with server(server_of(tmp_path, pki.server, VERSIONS[0], pki.ca), talk) as (port, ends):
        files = write_files(tmp_path, pki.ca, pki.device)
        answer = run_client(runtime, "blocking", PROGRAM, port=port, bulk=BULK_BYTES, **files)
    certificate = sha256(pki.server.certificate)
    lines = ["one\n", "two\n"]
    assert answer == {"result": ["TLSv1.2", certificate, lines, "that", " was all"]}, ends


@every_runtime
def test_client_that_never_blocks(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    def slow(secure: ssl.SSLSocket) -> None:
        assert secure.recv(100) == b"hello\n"
        time.sleep(0.1)
        secure.sendall(b"welcome\n")
        secure.recv(1)

    with server(server_of(tmp_path, pki.server, VERSIONS[0]), slow) as (port, _):
        answer = run_client(runtime, "polled", PROGRAM, port=port, **write_files(tmp_path, pki.ca))
    assert answer == {"result": [[None, None], True, "welcome\n", None]}


@every_runtime
async def test_datagrams_without_asyncio(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    files = write_files(tmp_path, pki.ca, pki.device)
    async with echoing(pki) as port:
        answer = await asyncio.to_thread(
            run_client, runtime, "polled", PROGRAM, port=port, datagram=True, **files
        )
    early, _, line, more = answer["result"]
    assert (early, line, more) == ([None, None], "hello\n", None)


@every_runtime
def test_read_with_a_timeout(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    with server(server_of(tmp_path, pki.server, VERSIONS[0]), greet) as (port, _):
        files = write_files(tmp_path, pki.ca)
        answer = run_client(runtime, "impatient", PROGRAM, port=port, **files)
    assert answer == {"result": ["LinkError", "welcome\n"]}


@every_runtime
@pytest.mark.parametrize("datagram", [False, True])
def test_handshake_with_nobody(
    runtime: Interpreter, datagram: bool, pki: Pki, tmp_path: Path
) -> None:
    kind = socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM
    with socket.socket(type=kind) as silent:
        silent.bind((HOST, 0))
        if not datagram:
            silent.listen()
        port = silent.getsockname()[1]
        files = write_files(tmp_path, pki.ca)
        answer = run_client(runtime, "no_answer", PROGRAM, port=port, datagram=datagram, **files)
    assert answer["error"] == "HandshakeTimeout", answer
    assert "300 ms" in answer["text"]


def server_files(folder: Path, pki: Pki) -> dict[str, str]:
    return write_files(folder, pki.ca, pki.server)


@contextmanager
def accepting(runtime: Interpreter, task: str, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """The program as a server that listens; what it prints is its answer."""
    path = Path(options["ca"]).with_name("options.json")
    path.write_text(json.dumps(options))
    command = [runtime.path, str(PROGRAM), task, str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=device_environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        try:
            yield process
        finally:
            process.kill()


def speak(port: int, pki: Pki, folder: Path, device: Credential | None) -> bytes:
    """A client of the ssl module; what it hears."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pki.ca.certificate)
    if device is not None:
        (folder / "device.crt").write_text(ssl.DER_cert_to_PEM_cert(device.certificate))
        (folder / "device.pem").write_bytes(key_pem(device.key))
        context.load_cert_chain(folder / "device.crt", folder / "device.pem")
    with socket.create_connection((HOST, port), PATIENCE_S) as raw:
        with context.wrap_socket(raw, server_hostname="localhost") as secure:
            secure.sendall(b"good day\n")
            return secure.recv(100)


@every_runtime
def test_server_with_mutual_tls(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    port = free_port()
    files = server_files(tmp_path, pki)
    with accepting(runtime, "accept_one", port=port, **files) as process:
        assert speak(port, pki, tmp_path, pki.device) == b"echo good day\n"
        answer = json.loads(process.communicate(timeout=PATIENCE_S)[0])
    version = "TLSv1.3" if answer["result"][0] == "TLSv1.3" else "TLSv1.2"
    assert answer == {"result": [version, sha256(pki.device.certificate), 2]}


@every_runtime
@pytest.mark.parametrize("which", [None, "device_of_other_ca"])
def test_server_refuses_a_stranger(
    runtime: Interpreter, which: str | None, pki: Pki, tmp_path: Path
) -> None:
    port = free_port()
    device = getattr(pki, which) if which else None
    with accepting(runtime, "accept_one", port=port, **server_files(tmp_path, pki)) as process:
        try:
            assert speak(port, pki, tmp_path, device) == b""
        except OSError:
            pass  # an alert, or a reset that overtook it
        answer = json.loads(process.communicate(timeout=PATIENCE_S)[0])
    assert answer["error"] == "WrongCA", answer


@every_runtime
async def test_datagram_server_on_one_socket(
    runtime: Interpreter, pki: Pki, tmp_path: Path
) -> None:
    port = free_port()
    files = server_files(tmp_path, pki)
    with accepting(runtime, "accept_datagrams", port=port, **files) as process:
        assert process.stdout is not None
        context = client_context(pki.ca.certificate, *pki.device, datagram=True)
        if "dtls_server" not in runtime.features:
            with socket.socket(type=socket.SOCK_DGRAM) as knock:
                knock.sendto(b"?", (HOST, port))
                answer = json.loads(process.stdout.readline())
            assert answer["error"] == "Unsupported", answer
            assert "1.26" in answer["text"]
            return
        client = await open_datagram(HOST, port, context, "localhost", 5000)
        client.send(b"good day")
        assert await client.receive(30_000) == b"echo good day"
        client.close()
        answer = json.loads(process.stdout.readline())
    assert answer == {"result": ["DTLSv1.2", sha256(pki.device.certificate)]}


@every_runtime
def test_attributes_of_a_context(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    files = write_files(tmp_path, pki.ca, pki.server)
    with socket.create_server((HOST, 0)) as nobody:
        port = nobody.getsockname()[1]
        answer = run_client(runtime, "attributes", PROGRAM, port=port, **files)
    said, ciphers, tries = answer["result"]
    assert said == ["verified", True, 2, False, "insecure", False, 0]
    assert "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256" in ciphers
    assert tries[0] == [2, True]  # a client takes OPTIONAL for REQUIRED
    names = [name for name, _ in tries[1:]]
    assert names == ["CredentialError"] * 5 + ["Unsupported"], tries
    assert "TLS-NO-SUCH" in tries[2][1]
    assert "server_side" in tries[4][1]
    assert "server_hostname=" in tries[5][1]


@every_runtime
def test_chosen_cipher(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    chosen = "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256"
    with server(server_of(tmp_path, pki.server, VERSIONS[0]), greet) as (port, _):
        files = write_files(tmp_path, pki.ca)
        answer = run_client(runtime, "say", PROGRAM, port=port, ciphers=[chosen], **files)
    assert answer["result"]["cipher"] == [chosen, "TLSv1.2"], answer


class Meddler(asyncio.DatagramProtocol):
    """Carries datagrams between a client and a server, and answers the first of the client with
    what looks like the end of a handshake: ChangeCipherSpec, and a record of epoch 1."""

    def __init__(self, port: int):
        self.server = (HOST, port)
        self.client: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        if address == self.server:
            self.transport.sendto(data, self.client)
            return
        if self.client is None:
            self.client = address
            spec = b"\x14\xfe\xfd" + bytes(8) + b"\0\1\1"
            finished = b"\x16\xfe\xfd\0\1" + bytes(6) + b"\0\x28" + bytes(40)
            self.transport.sendto(spec + finished, address)
        self.transport.sendto(data, self.server)


@every_runtime
async def test_forged_end_of_a_handshake(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    """cipher() on an unfinished handshake would end the process."""
    files = write_files(tmp_path, pki.ca, pki.device)
    async with echoing(pki) as port:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: Meddler(port), (HOST, 0))
        through = transport.get_extra_info("sockname")[1]
        answer = await asyncio.to_thread(
            run_client, runtime, "say_dtls", PROGRAM, port=through, **files
        )
        transport.close()
    result = answer["result"]
    assert result["line"] == "hello\n", answer
    keeps = "getpeercert" in runtime.run("-c", KEEPS).stdout
    assert result["early"] == (result["cipher"] if keeps else None)
