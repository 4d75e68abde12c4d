"""A SecureSocket server in a thread, for one client, and the socket of that client."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from fleetnet.errors import FleetError
from fleetnet.ports.cpython_sockets import SecureSocket
from fleetnet.ports.openssl_context import Context, client_context, server_context
from pki import Pki

HOST = "127.0.0.1"
PATIENCE_S = 30.0


class Peer(threading.Thread):
    """Our server in a thread, for one client; ``talk`` runs with its SecureSocket."""

    def __init__(self, context: Context, talk: Callable[[SecureSocket], Any]):
        super().__init__()
        self.context = context
        self.talk = talk
        self.end: Any = "not begun"
        kind = socket.SOCK_DGRAM if context.datagram else socket.SOCK_STREAM
        self.sock = socket.socket(type=kind)
        self.sock.settimeout(PATIENCE_S)
        self.sock.bind((HOST, 0))
        self.port = self.sock.getsockname()[1]
        if not context.datagram:
            self.sock.listen()

    def _accept(self) -> socket.socket:
        if not self.context.datagram:
            return self.sock.accept()[0]
        # The call shape of MicroPython's documents: one UDP socket for one client.
        self.sock.connect(self.sock.recvfrom(1, socket.MSG_PEEK)[1])
        return self.sock.dup()

    def run(self) -> None:
        try:
            with self._accept() as raw:
                raw.settimeout(PATIENCE_S)
                address = repr(raw.getpeername()).encode()
                with self.context.wrap_socket(raw, True, client_id=address) as secure:
                    self.end = self.talk(secure)
        except (FleetError, OSError) as error:
            self.end = error
        finally:
            self.sock.close()


@contextlib.contextmanager
def peer(context: Context, talk: Callable[[SecureSocket], Any]) -> Iterator[Peer]:
    thread = Peer(context, talk)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def echo(secure: SecureSocket) -> Any:
    data = secure.recv(4096)
    assert data is not None
    secure.sendall(b"echo " + data)
    return (secure.verified, secure.getpeercert(), secure.psk_identity, secure.cipher())


def connected(port: int, datagram: bool, timeout: float | None = PATIENCE_S) -> socket.socket:
    sock = socket.socket(type=socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM)
    sock.connect((HOST, port))
    sock.settimeout(timeout)
    return sock


def contexts(pki: Pki, datagram: bool) -> tuple[Context, Context]:
    return (
        client_context(pki.ca.certificate, *pki.device, datagram=datagram),
        server_context(*pki.server, pki.ca.certificate, datagram=datagram),
    )


@contextlib.contextmanager
def lossy_relay(port: int, count: int) -> Iterator[tuple[int, list[bytes]]]:
    """Stand before a UDP server and lose the first ``count`` datagrams to it.

    Yields the relay's port and what it lost.
    """
    lost: list[bytes] = []
    with socket.socket(type=socket.SOCK_DGRAM) as relay:
        relay.bind((HOST, 0))
        relay.settimeout(PATIENCE_S)

        def carry() -> None:
            home: Any = None
            with contextlib.suppress(OSError):
                while (received := relay.recvfrom(2048))[0] != b"stop":
                    data, address = received
                    if address[1] == port:
                        relay.sendto(data, home)
                    elif len(lost) < count:
                        lost.append(data)
                    else:
                        home = address
                        relay.sendto(data, (HOST, port))

        carrier = threading.Thread(target=carry)
        carrier.start()
        try:
            yield relay.getsockname()[1], lost
        finally:
            relay.sendto(b"stop", relay.getsockname())
            carrier.join(PATIENCE_S)
