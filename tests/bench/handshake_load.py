"""Full mutual handshakes, eight under way at once, each closed when it is done.

    python handshake_load.py LINK PORT SECONDS BUNDLE

Prints {"ready": true} after ten handshakes that do not count, waits for a line, and prints
{"handshakes", "seconds", "version", "cipher"}. In TLS 1.3 the client is done before the
server has looked at its certificate: a handshake counts when the server has answered
close_notify by closing.
"""

import json
import select
import sys
import time

from device_links import SecureSocket, device_context

from fleetnet.ports.openssl_context import Context

_AT_ONCE = 8
_PATIENCE_S = 5.0


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
                raise RuntimeError("the server said nothing for 5 s")
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
            raise RuntimeError("the server said nothing for 5 s")
        for descriptor, _ in ready:
            if under_way[descriptor].go_on():
                poller.unregister(descriptor)
                under_way.pop(descriptor).link.close()
                count += 1
    poller.close()
    return count


def main(arguments: list[str]) -> None:
    link, number, seconds, bundle = arguments
    context = device_context(bundle, link)
    for _ in range(10):
        cipher, version = shake_hands(context, int(number))
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    count = shake_many(context, int(number), float(seconds))
    sums = {"handshakes": count, "seconds": time.monotonic() - began}
    print(json.dumps({**sums, "version": version, "cipher": cipher}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
