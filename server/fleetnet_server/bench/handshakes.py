"""Full mutual handshakes, eight under way at once, each closed when it is done.

In TLS 1.3 the client is done before the server has looked at its certificate: a handshake
counts when the server has answered close_notify by closing.
"""

import select
import time

from fleetnet.ports.openssl_context import Context
from fleetnet_server.bench.errors import BenchError
from fleetnet_server.bench.links import SecureSocket

_AT_ONCE = 8
_PATIENCE_S = 5


class Handshake:
    """One connection, from connect to the server's close."""

    def __init__(self, context: Context, number: int):
        self.link = SecureSocket(context, "127.0.0.1", number)
        self.is_closing = False
        self.cipher = ("", "")

    def go_on(self) -> bool:
        """Take what arrived; True when there is nothing more to do."""
        if not self.is_closing:
            if not self.link.handshake():
                return False
            self.cipher = self.link.ssl.cipher()
            self.link.ssl.close_notify()
            self.link.transmit()
            self.is_closing = True
            return self.link.datagram
        try:
            return not self.link.sock.recv(65536)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True


def shake_hands(context: Context, number: int) -> tuple[str, str]:
    """Do one handshake; return (cipher, version)."""
    one = Handshake(context, number)
    try:
        while not one.go_on():
            if not select.select([one.link.sock], [], [], _PATIENCE_S)[0]:
                raise BenchError(f"the server said nothing for {_PATIENCE_S} s")
    finally:
        one.link.close()
    return one.cipher


def shake_many(context: Context, number: int, seconds: float) -> int:
    """Keep eight handshakes under way for so long; return how many were completed."""
    poller = select.epoll()
    under_way: dict[int, Handshake] = {}
    count = 0
    end = time.monotonic() + seconds
    while under_way or time.monotonic() < end:
        while len(under_way) < _AT_ONCE and time.monotonic() < end:
            one = Handshake(context, number)
            under_way[one.link.sock.fileno()] = one
            poller.register(one.link.sock, select.EPOLLIN)
            one.go_on()
        ready = poller.poll(_PATIENCE_S)
        if not ready:
            raise BenchError(f"the server said nothing for {_PATIENCE_S} s")
        for descriptor, _ in ready:
            if under_way[descriptor].go_on():
                poller.unregister(descriptor)
                under_way.pop(descriptor).link.close()
                count += 1
    poller.close()
    return count
