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

_DRAIN_S = 60.0
_TIMERS_S = 0.2
_IDLE_POLL_S = 0.002


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
                if index % 64 == 63:
                    self.serve(0)
            self.serve(0 if sent else _IDLE_POLL_S)

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
        return
    began = time.monotonic()
    cpu = time.process_time()
    if float(seconds) > 0:
        load.run(float(seconds))
        load.drain()
    sums = {**load.sums(), "seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}
    print(json.dumps(sums), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1:])
