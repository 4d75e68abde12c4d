"""Context.wrap_socket without asyncio: TLS and DTLS, blocking or not, both ends."""

import socket
import struct
import threading
import time
from typing import Any

import pytest

from fleetnet.errors import (
    CredentialError,
    HandshakeTimeout,
    LimitError,
    LinkClosed,
    LinkError,
    Rejected,
    TrustError,
    Unsupported,
    WrongCA,
    WrongPin,
)
from fleetnet.limits import DATAGRAM_PAYLOAD
from fleetnet.ports.cpython_sockets import MAX_BYTES, SecureSocket
from fleetnet.ports.openssl_context import (
    CERT_OPTIONAL,
    Context,
    client_context,
    server_context,
)
from pki import Pki
from ports.secure_peers import (
    HOST,
    PATIENCE_S,
    connected,
    contexts,
    echo,
    lossy_relay,
    peer,
)

BULK = bytes(range(251)) * 8000

every_kind = pytest.mark.parametrize("datagram", [False, True], ids=["tls", "dtls"])


@every_kind
def test_blocking_both_ways(pki: Pki, datagram: bool) -> None:
    client, server = contexts(pki, datagram)
    with peer(server, echo) as thread:
        with client.wrap_socket(
            connected(thread.port, datagram), server_hostname="localhost"
        ) as secure:
            assert secure.verified and secure.getpeercert() == pki.server.certificate
            cipher = secure.cipher()
            assert cipher and cipher[1] == ("DTLSv1.2" if datagram else "TLSv1.3")
            assert secure.write(b"hello") == 5
            assert secure.recv(4) == b"echo"
            # The rest of a datagram is gone, that of a stream is not.
            if not datagram:
                assert secure.recv(99) == b" hello"
    assert thread.end == (True, pki.device.certificate, None, cipher)
    assert secure.fileno() == -1


@every_kind
def test_a_shared_key(datagram: bool) -> None:
    key = bytes(range(32))
    with peer(server_context(psk={"cam-1": key}, datagram=datagram), echo) as thread:
        client = client_context(psk=("cam-1", key), datagram=datagram)
        with client.wrap_socket(connected(thread.port, datagram)) as secure:
            secure.send(b"hello")
            assert secure.recv(99) == b"echo hello"
            assert secure.verified and secure.getpeercert() is None
    assert thread.end[:3] == (True, None, b"cam-1")


@every_kind
def test_nothing_blocks_when_it_must_not(pki: Pki, datagram: bool) -> None:
    client, server = contexts(pki, datagram)
    go = threading.Event()

    def later(secure: SecureSocket) -> bytes | None:
        data = secure.recv(99)
        go.wait(PATIENCE_S)
        secure.send(b"answer")
        return data

    with peer(server, later) as thread:
        secure = client.wrap_socket(
            connected(thread.port, datagram, 0),
            server_hostname="localhost",
            do_handshake_on_connect=False,
        )
        assert secure.cipher() is None and secure.getpeercert() is None
        assert secure.recv(99) is None
        with pytest.raises(LinkError, match="blocking socket"):
            secure.sendall(b"x")
        while secure.send(b"hello") is None:
            time.sleep(0.002)
        assert secure.do_handshake() is True
        assert secure.recv(99) is None and secure.read() is None and secure.readline() is None
        go.set()
        while (data := secure.recv(99)) is None:
            time.sleep(0.002)
        assert data == b"answer"
        secure.close()
    assert thread.end == b"hello"


def test_a_bulk_through_a_small_window(pki: Pki) -> None:
    """A client that must not block sends more than fits; nothing is lost or doubled."""
    client, server = contexts(pki, False)

    def slow(secure: SecureSocket) -> bytes:
        time.sleep(0.05)
        data = b""
        while piece := secure.recv(100_000):
            data += piece
        return data

    with peer(server, slow) as thread:
        sock = connected(thread.port, False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        secure = client.wrap_socket(sock, server_hostname="localhost")
        secure.setblocking(False)
        view, refused = memoryview(BULK), 0
        while len(view):
            count = secure.send(view)  # type: ignore[arg-type]
            refused += count is None
            view = view[count or 0 :]
            time.sleep(0.0005 if count is None else 0)
        secure.setblocking(True)
        secure.sendall(b"end")
        secure.close()
    assert thread.end == BULK + b"end" and refused


def test_lines_and_everything_to_the_end(pki: Pki) -> None:
    client, server = contexts(pki, False)

    def lines(secure: SecureSocket) -> bytes | None:
        secure.sendall(b"one\n" + b"2" * 9000 + b"\nthr")
        secure.sendall(b"ee\n")
        assert secure.recv(1) == b"."
        secure.sendall(b"rest" * 1000)
        return secure.read(0)

    with peer(server, lines) as thread:
        secure = client.wrap_socket(connected(thread.port, False), server_hostname="localhost")
        assert [secure.readline() for _ in range(3)] == [
            b"one\n",
            b"2" * 9000 + b"\n",
            b"three\n",
        ]
        secure.send(b".")
        assert secure.read() == b"rest" * 1000
        assert secure.read() == b"" and secure.readline() == b"" and secure.recv(5) == b""
        secure.close()
        secure.close()
        with pytest.raises(LinkClosed):
            secure.recv(1)
        with pytest.raises(LinkClosed):
            secure.send(b"x")


def test_nothing_is_kept_in_a_size_that_the_peer_chooses(pki: Pki) -> None:
    client, server = contexts(pki, False)

    def flood(secure: SecureSocket) -> None:
        secure.sendall(b"x" * 4 * MAX_BYTES)

    with peer(server, flood) as thread:
        with (
            client.wrap_socket(
                connected(thread.port, False), server_hostname="localhost"
            ) as secure,
            pytest.raises(LimitError),
        ):
            secure.readline()
        assert thread.port


@every_kind
def test_a_server_that_is_not_trusted(pki: Pki, datagram: bool) -> None:
    server = server_context(*pki.server_of_other_ca, datagram=datagram)
    for client, expected in (
        (client_context(pki.ca.certificate, datagram=datagram), WrongCA),
        (client_context(pins=[bytes(32)], datagram=datagram), WrongPin),
    ):
        with peer(server, echo) as thread:
            sock = connected(thread.port, datagram)
            with pytest.raises(expected):
                client.wrap_socket(sock, server_hostname="localhost")
            assert sock.fileno() == -1
        assert isinstance(thread.end, Rejected)  # our alert arrived


@every_kind
def test_a_client_that_is_not_trusted(pki: Pki, datagram: bool) -> None:
    client = client_context(pki.ca.certificate, *pki.device_of_other_ca, datagram=datagram)
    server = server_context(*pki.server, pki.ca.certificate, datagram=datagram)
    with peer(server, echo) as thread:
        with pytest.raises(Rejected) as caught:
            secure = client.wrap_socket(
                connected(thread.port, datagram), server_hostname="localhost"
            )
            secure.recv(1)  # TLS 1.3: the server decides after our handshake
        assert caught.value.alert == 48
    assert isinstance(thread.end, TrustError)


def test_an_alert_is_not_overtaken_by_a_reset(pki: Pki) -> None:
    """TLS 1.3: what the client sends meanwhile is unread when the server refuses it."""
    client = client_context(pki.ca.certificate, *pki.device_of_other_ca)
    with peer(server_context(*pki.server, pki.ca.certificate), echo) as thread:
        secure = client.wrap_socket(connected(thread.port, False), server_hostname="localhost")
        for _ in range(20):
            secure.sendall(bytes(16_384))
        with pytest.raises(Rejected) as caught:
            secure.recv(1)
        assert caught.value.alert == 48


class Narrow(socket.socket):
    """Takes 100 bytes a time."""

    def send(self, data: Any, flags: int = 0) -> int:
        return super().send(data[:100], flags)


def test_a_socket_may_take_a_part_only(pki: Pki) -> None:
    client, server = contexts(pki, False)
    with peer(server, echo) as thread:
        sock = Narrow()
        sock.connect((HOST, thread.port))
        with client.wrap_socket(sock, server_hostname="localhost") as secure:
            secure.sendall(b"y" * 1000)
            assert secure.recv(2000) == b"echo " + b"y" * 1000


def test_optional_certificates(pki: Pki) -> None:
    server = server_context(*pki.server, pki.ca.certificate)
    server.verify_mode = CERT_OPTIONAL
    for pair, expected in (((), None), (pki.device, pki.device.certificate)):
        with peer(server, echo) as thread:
            context = client_context(pki.ca.certificate, *pair)
            with context.wrap_socket(
                connected(thread.port, False), server_hostname="localhost"
            ) as secure:
                secure.send(b"hello")
                assert secure.recv(99) == b"echo hello"
        assert thread.end[:2] == (expected is not None, expected)


@every_kind
def test_timeouts(pki: Pki, datagram: bool) -> None:
    client, server = contexts(pki, datagram)
    done = threading.Event()
    with peer(server, lambda secure: done.wait(PATIENCE_S)) as thread:
        secure = client.wrap_socket(connected(thread.port, datagram), server_hostname="localhost")
        secure.settimeout(0.05)
        with pytest.raises(LinkError, match=r"nothing within 0\.05 s"):
            secure.recv(1)
        assert secure.send(b"still alive") == 11
        done.set()
        secure.close()


@every_kind
def test_a_peer_that_is_silent(pki: Pki, datagram: bool) -> None:
    with socket.socket(type=socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM) as silent:
        silent.bind((HOST, 0))
        if not datagram:
            silent.listen()
        context = client_context(pki.ca.certificate, datagram=datagram)
        sock = connected(silent.getsockname()[1], datagram, 0.1)
        with pytest.raises(HandshakeTimeout):
            context.wrap_socket(sock, server_hostname="localhost")
        assert sock.fileno() == -1


def test_lost_flights_are_sent_again(pki: Pki) -> None:
    """The first datagram to the server is lost; only the handshake's timer helps."""
    client, server = contexts(pki, True)
    with peer(server, echo) as thread, lossy_relay(thread.port, 1) as (port, lost):
        secure = client.wrap_socket(connected(port, True), server_hostname="localhost")
        secure.send(b"hello")
        assert secure.recv(99) == b"echo hello"
        secure.close()
    assert len(lost) == 1 and thread.end[0] is True


@every_kind
def test_a_broken_connection(pki: Pki, datagram: bool) -> None:
    client, server = contexts(pki, datagram)

    def leave(secure: SecureSocket) -> None:
        if not datagram:  # a reset in place of an orderly end
            linger = struct.pack("ii", 1, 0)
            secure._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            secure._sock.close()

    with peer(server, leave) as thread:
        secure = client.wrap_socket(connected(thread.port, datagram), server_hostname="localhost")
        with pytest.raises(LinkClosed):
            while secure.recv(1) is not None:
                pass
        with pytest.raises(LinkClosed):
            secure.send(b"x")


def test_an_end_without_close_notify_is_an_end(pki: Pki) -> None:
    """MicroPython sends none."""
    client, server = contexts(pki, False)

    def drop(secure: SecureSocket) -> None:
        secure.sendall(b"last")
        secure._sock.close()

    with peer(server, drop) as thread:
        secure = client.wrap_socket(connected(thread.port, False), server_hostname="localhost")
        assert secure.read() == b"last"
        secure.close()


def test_what_is_refused_leaves_the_socket_alone(pki: Pki) -> None:
    client, server = contexts(pki, False)
    datagram_client, datagram_server = contexts(pki, True)
    left, right = socket.socketpair()
    with left, right, socket.socket(type=socket.SOCK_DGRAM) as udp:
        cases: list[tuple[Context, socket.socket, dict[str, Any], str]] = [
            (client, left, {}, "needs server_hostname"),
            (client, left, {"server_side": True}, "server_side"),
            (server, left, {}, "server_side"),
            (client, udp, {"server_hostname": "a"}, "UDP"),
            (datagram_client, left, {"server_hostname": "a"}, "UDP"),
        ]
        for context, sock, options, match in cases:
            with pytest.raises(CredentialError, match=match):
                context.wrap_socket(sock, **options)
        with pytest.raises(Unsupported, match="serve_dtls"):
            datagram_server.wrap_socket(udp, server_side=True)
        assert left.gettimeout() is None and left.send(b"plain") == 5
        assert right.recv(9) == b"plain"


def test_limits_of_a_datagram(pki: Pki) -> None:
    client, server = contexts(pki, True)
    with peer(server, echo) as thread:
        with client.wrap_socket(
            connected(thread.port, True), server_hostname="localhost"
        ) as secure:
            with pytest.raises(LimitError):
                secure.send(bytes(DATAGRAM_PAYLOAD + 1))
            with pytest.raises(Unsupported, match="DER only"):
                secure.getpeercert(False)
            assert secure.send(b"") == 0
            assert secure.send(bytes(DATAGRAM_PAYLOAD - 5)) == DATAGRAM_PAYLOAD - 5
            assert secure.recv(4096) == b"echo " + bytes(DATAGRAM_PAYLOAD - 5)


def test_who_begins_anew_does_not_take_an_association_over(pki: Pki) -> None:
    client, server = contexts(pki, True)
    seen = []

    def talk(secure: SecureSocket) -> None:
        for _ in range(2):
            seen.append(secure.recv(99))
        secure.send(b"bye")

    with peer(server, talk) as thread:
        first = client.wrap_socket(connected(thread.port, True), server_hostname="localhost")
        first.send(b"first")
        # The same address, as after a reboot.
        twin = client.wrap_socket(
            first._sock.dup(), server_hostname="localhost", do_handshake_on_connect=False
        )
        twin.setblocking(False)
        for _ in range(40):
            assert twin.do_handshake() is None
            time.sleep(0.005)
        first.send(b"second")
        data = None
        while data is None:
            data = first.recv(99)
        assert data == b"bye"
        twin.close()
        first.close()
    assert seen == [b"first", b"second"]
