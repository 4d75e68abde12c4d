"""Who waits on a stream of a camera, and for what: both ways at once, given up, closed, cut.

The programs are those of stream_client.py, on real MicroPython processes and on CPython.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from interpreters import Interpreter, interpreters
from listening import echoing
from pki import Pki
from ports.peers import (
    HANDSHAKES_S,
    HOST,
    PATIENCE_S,
    VERSIONS,
    read_late,
    run_client,
    server,
    server_of,
    speak_after,
    wait_longer,
    write_files,
)
from ports.test_micropython_tls import BULK, BULK_BYTES, every_runtime, every_version

SURFACE = Path(__file__).with_name("surface_client.py")

every_micropython = pytest.mark.parametrize(
    "runtime", interpreters(), ids=lambda each: each.name
)


@every_runtime
def test_reader_that_gives_up_leaves_the_writer_alone(
    runtime: Interpreter | None, pki: Pki, tmp_path: Path
) -> None:
    received = hashlib.sha256()
    talk = read_late(BULK_BYTES, received, b"!all of it\n")
    with server(server_of(tmp_path, pki.server, VERSIONS[0]), talk) as (port, ends):
        files = write_files(tmp_path, pki.ca)
        answer = run_client(runtime, "give_up_reading_beside_a_writer", port=port, **files)
    assert received.hexdigest() == hashlib.sha256(BULK).hexdigest(), ends
    timeouts, line = answer["result"]
    assert timeouts and line.lstrip("!") == "all of it\n"


@every_runtime
def test_writer_that_gives_up_leaves_the_reader_alone(
    runtime: Interpreter | None, pki: Pki, tmp_path: Path
) -> None:
    def speak_late(secure: ssl.SSLSocket) -> None:
        assert secure.recv(100) == b"start\n"
        time.sleep(0.5)
        secure.sendall(b"late\n")

    with server(server_of(tmp_path, pki.server, VERSIONS[0]), speak_late) as (port, _):
        files = write_files(tmp_path, pki.ca)
        answer = run_client(runtime, "give_up_writing_beside_a_reader", port=port, **files)
    assert answer == {"result": "late\n"}


@every_micropython
def test_close_ends_a_reader_though_another_socket_takes_the_number(
    runtime: Interpreter, pki: Pki, tmp_path: Path
) -> None:
    def hold(secure: ssl.SSLSocket) -> None:
        assert secure.recv(100) == b"start\n"
        with contextlib.suppress(OSError):
            secure.recv(1)

    with server(server_of(tmp_path, pki.server, VERSIONS[1]), hold) as (port, _):
        files = write_files(tmp_path, pki.ca)
        answer = run_client(runtime, "close_and_open_another", port=port, **files)
    assert answer == {"result": ""}


@every_micropython
@pytest.mark.parametrize("timeout_ms", [None, 20_000])
async def test_close_ends_a_receiver_though_another_socket_takes_the_number(
    runtime: Interpreter, timeout_ms: int | None, pki: Pki, tmp_path: Path
) -> None:
    async with echoing(pki) as port:
        files = write_files(tmp_path, pki.ca, pki.device)
        answer = await asyncio.to_thread(
            run_client,
            runtime,
            "close_under_a_receiver",
            SURFACE,
            port=port,
            timeout_ms=timeout_ms,
            **files,
        )
    assert answer["error"] == "LinkClosed", answer


@every_micropython
async def test_datagram_peer_that_says_close_notify(
    runtime: Interpreter, pki: Pki, tmp_path: Path
) -> None:
    """Else a device would learn of it by a silence of 10 s and more."""
    async with echoing(pki) as port:
        files = write_files(tmp_path, pki.ca, pki.device)
        answer = await asyncio.to_thread(
            run_client, runtime, "hear_the_end", SURFACE, port=port, **files
        )
    assert answer["error"] == "LinkClosed", answer
    assert answer["text"].endswith("closed the association")


@every_runtime
def test_plain_peer_that_has_no_more_to_say_and_listens_on(runtime: Interpreter | None) -> None:
    heard: list[bytes] = []

    def shut(listener: socket.socket) -> None:
        with listener.accept()[0] as sock:
            sock.settimeout(PATIENCE_S)
            heard.append(receive(sock, 6))
            sock.sendall(b"last\n")
            sock.shutdown(socket.SHUT_WR)
            heard.append(receive(sock, 100))

    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(PATIENCE_S)
        thread = threading.Thread(target=shut, args=(listener,))
        thread.start()
        number = listener.getsockname()[1]
        answer = run_client(runtime, "write_behind_the_end", port=number, plain=True)
        thread.join(PATIENCE_S)
    assert answer == {"result": ["last\n", "", ""]}
    assert heard == [b"start\n", b"still here\n"]


@every_micropython
@every_version
def test_peer_that_has_no_more_to_say_and_listens_on(
    runtime: Interpreter, version: ssl.TLSVersion, pki: Pki, tmp_path: Path
) -> None:
    heard: list[bytes] = []

    def shut(secure: ssl.SSLSocket) -> None:
        assert secure.recv(100) == b"start\n"
        secure.sendall(b"last\n")
        secure.settimeout(0)
        with contextlib.suppress(OSError):
            secure.unwrap()  # close_notify, and no wait for the client's own
        with socket.socket(fileno=os.dup(secure.fileno())) as plain:
            plain.settimeout(PATIENCE_S)
            heard.append(plain.recv(100))

    with server(server_of(tmp_path, pki.server, version), shut) as (port, _):
        files = write_files(tmp_path, pki.ca)
        answer = run_client(runtime, "write_behind_the_end", port=port, **files)
    assert answer == {"result": ["last\n", "", ""]}
    assert heard[0][:1] == b"\x17"  # a record of data


def receive(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := source.recv(size - len(data))):
        data += more
    return data


def relay(listener: socket.socket, port: int) -> None:
    """Join a client with the server at ``port``; what comes back is cut in each record's header."""
    with listener.accept()[0] as near, socket.create_connection((HOST, port)) as far:
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def pass_on() -> None:
            with contextlib.suppress(OSError):
                while data := near.recv(4096):
                    far.sendall(data)
                far.shutdown(socket.SHUT_WR)

        up = threading.Thread(target=pass_on)
        up.start()
        with contextlib.suppress(OSError):
            while head := receive(far, 5):
                near.sendall(head[:3])
                time.sleep(0.03)
                near.sendall(head[3:] + receive(far, int.from_bytes(head[3:], "big")))
            near.shutdown(socket.SHUT_WR)
        up.join(PATIENCE_S)


@every_micropython
def test_records_that_tcp_cuts(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    """A client that reads first has to see the end of the handshake all the same."""
    context = server_of(tmp_path, pki.server, VERSIONS[0])
    files = write_files(tmp_path, pki.ca)
    for may_take_s in HANDSHAKES_S:
        with (
            server(context, speak_after(may_take_s)) as (port, _),
            socket.create_server((HOST, 0)) as listener,
        ):
            listener.settimeout(PATIENCE_S)
            thread = threading.Thread(target=relay, args=(listener, port))
            thread.start()
            answer = wait_longer(runtime, may_take_s, listener.getsockname()[1], files)
            thread.join(PATIENCE_S)
        if answer.get("error") != "HandshakeTimeout":
            break
    assert answer == {"result": "late\n"}


@every_micropython
def test_pieces_that_look_like_the_end_of_a_handshake(runtime: Interpreter) -> None:
    """The body of one record, cut so that its pieces have the length of headers.

    Whoever answers may send that. Taken for the end it ended the process, where keys are shared:
    mbedTLS was asked for the suite of a session that there was not.
    """
    pieces = [b"\x16\x03\x03\x00\x40", b"\x14abcd", b"\x16abcd"]

    def forge(listener: socket.socket) -> None:
        with listener.accept()[0] as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.recv(4096)
            for piece in pieces:
                sock.sendall(piece)
                time.sleep(0.1)

    kind = {"psk": ("dev", "6b" * 16)} if "psk" in runtime.features else {"insecure": True}
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(PATIENCE_S)
        thread = threading.Thread(target=forge, args=(listener,))
        thread.start()
        number = listener.getsockname()[1]
        answer = run_client(runtime, "say", SURFACE, port=number, **kind)
        thread.join(PATIENCE_S)
    assert answer["error"] == "LinkClosed", answer
