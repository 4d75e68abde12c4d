"""A UDP relay between clients and one server, which loses and copies what it is told to.

    with relay(server_port, rule) as found:
        ... connect to found.port ...

``rule(from_client, datagram)`` returns what goes on in the datagram's place, in order.
"""

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator

HOST = "127.0.0.1"
_PATIENCE_S = 20.0

Rule = Callable[[bool, bytes], list[bytes]]


class Relay(threading.Thread):
    """See the module's docstring. Attributes: port. carried: (from_client, datagram), in order."""

    def __init__(self, server: int, rule: Rule):
        super().__init__()
        self._rule = rule
        self._server = server
        self._front = socket.socket(type=socket.SOCK_DGRAM)
        self._front.bind((HOST, 0))
        self.port: int = self._front.getsockname()[1]
        self._backs: dict[object, socket.socket] = {}  # by the client's address
        self._wake, self._end = socket.socketpair()
        self.carried: list[tuple[bool, bytes]] = []

    def run(self) -> None:
        while True:
            homes = {sock: home for home, sock in self._backs.items()}
            ready, _, _ = select.select([self._wake, self._front, *homes], [], [])
            if self._wake in ready:
                return
            for sock in ready:
                # A port that has gone answers with an ICMP error: lost, as on the wire.
                with contextlib.suppress(OSError):
                    self._carry(sock, homes.get(sock))

    def _carry(self, sock: socket.socket, home: object) -> None:
        data, address = sock.recvfrom(65536)
        from_client = sock is self._front
        self.carried.append((from_client, data))
        for datagram in self._rule(from_client, data):
            if from_client:
                self._back(address).send(datagram)
            else:
                self._front.sendto(datagram, home)  # type: ignore[arg-type]

    def _back(self, address: object) -> socket.socket:
        if address not in self._backs:
            sock = self._backs[address] = socket.socket(type=socket.SOCK_DGRAM)
            sock.connect((HOST, self._server))
        return self._backs[address]

    def close(self) -> None:
        self._end.send(b"!")
        self.join(_PATIENCE_S)
        for sock in (self._front, self._wake, self._end, *self._backs.values()):
            sock.close()


@contextlib.contextmanager
def relay(server: int, rule: Rule) -> Iterator[Relay]:
    thread = Relay(server, rule)
    thread.start()
    try:
        yield thread
    finally:
        thread.close()
