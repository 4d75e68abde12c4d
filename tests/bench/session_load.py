"""Load generator of the telemetry rows, and holder of the idle sessions.

    python session_load.py LINK PORT READINGS BATCHED SECONDS BUNDLE...

LINK: tls, tls12, dtls. READINGS: readings a message. BATCHED: 1: fill the window of one
device after the other; 0: one message a visit, one frame a write or datagram. Prints
{"open": N}, waits for a line, loads for SECONDS, waits until everything is acknowledged,
prints the sums, and ends when its standard input does.
"""

import json
import select
import sys
import time

from device_links import LoadDevice, connect_all, device_context
from payloads import body
from socket_queue import SocketQueue

from fleetnet.ports import port

_DRAIN_S = 60.0
_TIMERS_S = 0.2
_IDLE_POLL_S = 0.002

# The server's socket holds 416 KiB by default; 32 small datagrams are 24 KiB of it.
_POLITE_BYTES = 100_000
_VISITS_A_LOOK = 32


class Load:
    """All devices of one row."""

    def __init__(self, link: str, number: int, readings: int, most: int, bundles: list[str]):
        self.most = most
        fragment = 1136 if link == "dtls" else 4096
        contexts = [device_context(bundle, link) for bundle in bundles]
        self.devices = [
            LoadDevice(one, body(readings, index), fragment)
            for index, one in enumerate(connect_all(contexts, number))
        ]
        self._by_number = {device.link.sock.fileno(): device for device in self.devices}
        self._poller = select.epoll()
        for one in self._by_number:
            self._poller.register(one, select.EPOLLIN)
        self._timers_at = 0.0
        self._queue = SocketQueue(number) if link == "dtls" else None

    def open_all(self) -> None:
        """Wait until every session is open."""
        deadline = time.monotonic() + 30
        while not all(device.is_open for device in self.devices):
            if time.monotonic() > deadline:
                raise RuntimeError("sessions did not open within 30 s")
            self.serve(0.1)

    def serve(self, timeout_s: float) -> None:
        """Take what arrived for any device, and run the timers."""
        for number, _ in self._poller.poll(timeout_s):
            device = self._by_number[number]
            device.receive()
            if device.link.unsent:
                device.link.transmit()
        now = time.monotonic()
        if now >= self._timers_at:
            self._timers_at = now + _TIMERS_S
            for device in self.devices:
                device.handle_timer()

    def run(self, seconds: float) -> None:
        """Visit the devices round robin for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sent = 0
            for index, device in enumerate(self.devices):
                sent += device.visit(self.most)
                if index % _VISITS_A_LOOK == 0:
                    self._be_polite()
            self.serve(0 if sent else _IDLE_POLL_S)

    def _be_polite(self) -> None:
        """Take what arrived; go on once the server's socket has room."""
        self.serve(0)
        while self._queue is not None and self._queue.size() > _POLITE_BYTES:
            self.serve(0.001)

    def drain(self) -> None:
        """Wait until everything sent is acknowledged."""
        deadline = time.monotonic() + _DRAIN_S
        while any(device.acknowledged < device.sent for device in self.devices):
            if time.monotonic() > deadline:
                raise RuntimeError("not everything was acknowledged within 60 s")
            for device in self.devices:
                if device.session.sender.in_flight or device.link.unsent:
                    continue
                device.flush()
            self.serve(0.02)

    def say_goodbye(self) -> None:
        """End every session, so that the server need not wait for them."""
        for device in self.devices:
            device.session.bye(port.ticks())
            device.flush()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and any(d.is_open for d in self.devices):
            self.serve(0.05)

    def sums(self) -> dict[str, int]:
        return {
            "sent": sum(device.sent for device in self.devices),
            "acknowledged": sum(device.acknowledged for device in self.devices),
            "resent": sum(device.session.sender.resent for device in self.devices),
        }


def main(arguments: list[str]) -> None:
    link, number, readings, batched, seconds = arguments[:5]
    load = Load(link, int(number), int(readings), 64 if batched == "1" else 1, arguments[5:])
    load.open_all()
    print(json.dumps({"open": len(load.devices)}), flush=True)
    if not sys.stdin.readline():
        load.say_goodbye()
        return
    began = time.monotonic()
    cpu = time.process_time()
    if float(seconds) > 0:
        load.run(float(seconds))
        load.drain()
    sums = {**load.sums(), "seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}
    print(json.dumps(sums), flush=True)
    sys.stdin.readline()
    load.say_goodbye()


if __name__ == "__main__":
    main(sys.argv[1:])
