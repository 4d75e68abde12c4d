"""Datagrams to a DTLS server that is not ours, as fast as it answers.

    python dtls_load.py PEER PORT READINGS SECONDS BUNDLE...

PEER: echo (gnutls-serv: the answer is the body) or coap (libcoap: a confirmable PUT, whose answer
is 2.04). One session a bundle. Prints {"open": N}, waits for a line, loads, and prints {"sent",
"answered", "lost", "seconds"}.
"""

import json
import select
import sys
import time

from device_links import device_context
from payloads import body

from fleetnet_server.bench.links import SecureSocket, connect_all

# Together they stay below the 208 KiB that Linux gives the peer's socket: 2.3 KiB a datagram.
_IN_FLIGHT = 64
_LOST_S = 1.0
# RFC 7252, section 3: version 1, confirmable, no token; 0.03 PUT; Uri-Path (option 11).
_CON_PUT = b"\x40\x03"
_PATH = bytes((0xB0 + 12,)) + b"example_data"
_DONE = (b"\x60\x44", b"\x60\x41")  # acknowledgement, 2.04 Changed or 2.01 Created


def coap_put(message: int, payload: bytes) -> bytes:
    """Return a confirmable PUT of example_data."""
    return _CON_PUT + message.to_bytes(2, "big") + _PATH + b"\xff" + payload


class Sender:
    """One session."""

    def __init__(self, link: SecureSocket, peer: str, payload: bytes, most: int):
        self.link = link
        self.sent = 0
        self.answered = 0
        self.lost = 0
        self._is_coap = peer == "coap"
        self._payload = payload
        self._most = most
        self._echoed = 0
        self._heard = time.monotonic()

    def visit(self) -> int:
        """Send what may be in flight; return how many."""
        count = self._most - (self.sent - self.answered - self.lost)
        for _ in range(count):
            self.sent += 1
            put = coap_put(self.sent & 0xFFFF, self._payload) if self._is_coap else self._payload
            self.link.ssl.write(put)
            self.link.transmit()  # a datagram each
        return count

    def receive(self) -> None:
        """Take what arrived. Raises RuntimeError when it is no answer."""
        self.link.feed()
        while data := self.link.ssl.read():
            self._heard = time.monotonic()
            if not self._is_coap:
                # An echo may come in pieces.
                self._echoed += len(data)
                self.answered = self._echoed // len(self._payload)
            elif data[:2] in _DONE:
                self.answered += 1
            else:
                raise RuntimeError(f"the server said {data[:16].hex()}")

    def give_up(self) -> None:
        """Count as lost what had no answer for long."""
        now = time.monotonic()
        if now - self._heard > _LOST_S:
            self.lost = self.sent - self.answered
            self._heard = now


def main(arguments: list[str]) -> None:
    peer, number, readings, seconds = arguments[:4]
    contexts = [device_context(bundle, "dtls") for bundle in arguments[4:]]
    most = max(1, _IN_FLIGHT // len(contexts))
    # gnutls-serv has one session at a time, and none before the first has begun.
    links = connect_all(contexts, int(number), at_once=8)
    senders = [Sender(link, peer, body(int(readings)), most) for link in links]
    poller = select.epoll()
    by_descriptor = {}
    for sender in senders:
        by_descriptor[sender.link.sock.fileno()] = sender
        poller.register(sender.link.sock, select.EPOLLIN)
    print(json.dumps({"open": len(senders)}), flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    is_over = False
    while not is_over or any(one.answered + one.lost < one.sent for one in senders):
        is_over = is_over or time.monotonic() - began > float(seconds)
        for sender in senders:
            if not is_over:
                sender.visit()
            sender.give_up()
        for descriptor, _ in poller.poll(0.01):
            by_descriptor[descriptor].receive()
    names = ("sent", "answered", "lost")
    sums = {name: sum(getattr(one, name) for one in senders) for name in names}
    print(json.dumps({**sums, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
