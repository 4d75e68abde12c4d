"""Publishers of the peer: MQTT 3.1.1 over TLS, QoS 1, 20 publishes in flight each.

    python mqtt_load.py PORT READINGS MOST SECONDS BUNDLE...

MOST: publishes of one visit (20: all that may be in flight; 1: one packet a write). Same
TLS engine and the same epoll loop as session_load.py; only the protocol differs.
"""

import json
import select
import sys
import time

from device_links import device_context
from mqtt_packets import CONNACK, connect, count_acknowledged, publish_parts
from payloads import body

from fleetnet_server.bench.links import SecureSocket, connect_all

_IN_FLIGHT = 20
_DRAIN_S = 60.0
_IDLE_POLL_S = 0.002


class Publisher:
    """One device of the peer."""

    def __init__(self, link: SecureSocket, name: str, payload: bytes):
        self.link = link
        self.sent = 0
        self.acknowledged = 0
        self.is_open = False
        self._rest = b""
        self._head, self._tail = publish_parts(f"devices/{name}/readings", payload)
        link.ssl.write(connect(name))
        link.transmit()

    def receive(self) -> None:
        """Take what arrived."""
        if not self.link.feed():
            raise RuntimeError("the broker closed the connection")
        while data := self.link.ssl.read():
            data = self._rest + data
            if not self.is_open and len(data) >= 4:
                if data[0] != CONNACK or data[3]:
                    raise RuntimeError(f"the broker refused: {data[:4].hex()}")
                self.is_open = True
                data = data[4:]
            count, self._rest = count_acknowledged(data)
            self.acknowledged += count

    def visit(self, most: int) -> int:
        """Publish at most ``most`` messages in one write."""
        count = min(most, _IN_FLIGHT - (self.sent - self.acknowledged))
        if count <= 0 or self.link.unsent:
            return 0
        packets = []
        for _ in range(count):
            self.sent += 1
            packets += (self._head, (self.sent % 65535 + 1).to_bytes(2, "big"), self._tail)
        self.link.ssl.write(b"".join(packets))
        self.link.transmit()
        return count


class Load:
    """All publishers."""

    def __init__(self, number: int, readings: int, bundles: list[str]):
        contexts = [device_context(bundle, "tls") for bundle in bundles]
        links = connect_all(contexts, number)
        self.publishers = [
            Publisher(link, f"bench-{index:04d}", body(readings, index))
            for index, link in enumerate(links)
        ]
        self._by_number = {one.link.sock.fileno(): one for one in self.publishers}
        self._poller = select.epoll()
        for one in self._by_number:
            self._poller.register(one, select.EPOLLIN)

    def serve(self, timeout_s: float) -> None:
        """Take what arrived for any publisher."""
        for number, _ in self._poller.poll(timeout_s):
            self._by_number[number].receive()

    def wait(self, what: str) -> None:
        """Wait until all are open (``what``: "open") or everything is acknowledged."""
        deadline = time.monotonic() + _DRAIN_S
        while time.monotonic() < deadline:
            for one in self.publishers:
                if one.link.unsent:
                    one.link.transmit()
            self.serve(0.02)
            if what == "open" and all(one.is_open for one in self.publishers):
                return
            if what == "done" and all(one.acknowledged == one.sent for one in self.publishers):
                return
        raise RuntimeError(f"publishers: not {what} after {_DRAIN_S:.0f} s")

    def run(self, most: int, seconds: float) -> None:
        """Visit the publishers round robin for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sent = 0
            for index, one in enumerate(self.publishers):
                if one.link.unsent:
                    one.link.transmit()
                sent += one.visit(most)
                if index % 32 == 0:
                    self.serve(0)
            self.serve(0 if sent else _IDLE_POLL_S)


def main(arguments: list[str]) -> None:
    number, readings, most, seconds = arguments[:4]
    load = Load(int(number), int(readings), arguments[4:])
    load.wait("open")
    print(json.dumps({"open": len(load.publishers)}), flush=True)
    if not sys.stdin.readline():
        return
    began = time.monotonic()
    load.run(int(most), float(seconds))
    load.wait("done")
    sent = sum(one.sent for one in load.publishers)
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - began}), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1:])
