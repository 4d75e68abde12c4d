"""One process of devices that load the server of `fleetnet bench`.

    python -m fleetnet_server.bench.worker

The first line of standard input is a Job. Each further line is an order, answered by one line:

    {"do": "handshakes", "seconds": 2.5}        {"handshakes": 3000}
    {"do": "open", "count": 100}                {"open": 100}, so many more idle sessions
    {"do": "send", "seconds": 3, "readings": 1} {"messages": 180000, "resent": 0}

The end of standard input ends the sessions. An order that fails is answered by {"error": text}.
"""

import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from fleetnet.errors import FleetError
from fleetnet.ports.openssl_context import Context
from fleetnet.readings import ReadingBatch
from fleetnet_server.bench.handshakes import shake_hands, shake_many
from fleetnet_server.bench.links import device_context
from fleetnet_server.bench.sessions import Load
from fleetnet_server.sim.bundles import read_bundles

# What one message may carry, as a device's own batches: the largest one is 20 readings here.
_BODY_BYTES = 4096


class Job(NamedTuple):
    """What one process is told.

    Attributes:
        bundles: file of sim/bundles.py. link: "tls" or "dtls". port: the server's.
        part, parts: it is devices ``part``, ``part`` + ``parts``, ... of the file.
    """

    bundles: str
    link: str
    port: int
    part: int
    parts: int

    def to_line(self) -> bytes:
        """Return the job as one line."""
        return json.dumps(self._asdict()).encode() + b"\n"


class Worker:
    """The devices of a process, and what may be ordered of them."""

    def __init__(self, job: Job):
        self._job = job
        bundles = islice(read_bundles(Path(job.bundles)), job.part, None, job.parts)
        self._bundles = list(bundles)
        self._load = Load(job.link == "dtls", job.port)

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do what an order says, and return the answer. Raises FleetError, OSError."""
        if order["do"] == "handshakes":
            context = self._context(0)
            shake_hands(context, self._job.port)
            return {"handshakes": shake_many(context, self._job.port, order["seconds"])}
        if order["do"] == "open":
            first = len(self._load.devices)
            chosen = range(first, first + order["count"])
            contexts = [self._context(index) for index in chosen]
            self._load.add(contexts, [b""] * len(contexts))
            return {"open": len(self._load.devices)}
        return self._send(order["seconds"], order["readings"])

    def end(self) -> None:
        """Say good-bye for every device."""
        self._load.say_goodbye()

    def _send(self, seconds: float, readings: int) -> dict[str, Any]:
        load = self._load
        now_ms = time.time_ns() // 1_000_000
        for index, device in enumerate(load.devices):
            device.payload = make_body(readings, now_ms + index)
        # One reading: as a device that measures once a second. More: as one that catches up.
        load.most = 1 if readings == 1 else 64
        before = load.sums()
        load.run(seconds)
        load.drain()
        after = load.sums()
        return {
            "messages": after["acknowledged"] - before["acknowledged"],
            "resent": after["resent"] - before["resent"],
        }

    def _context(self, index: int) -> Context:
        one = self._bundles[index]
        return device_context(one["ca"], one["cert"], one["key"], self._job.link)


def make_body(readings: int, last_ms: int) -> bytes:
    """Return the body of a message of ``readings`` temperatures, the last one at ``last_ms``."""
    batch = ReadingBatch(_BODY_BYTES, readings)
    for number in range(readings):
        time_ms = last_ms - 1000 * (readings - number)
        is_taken = batch.add("temperature", 21.0 + number / 16, time_ms)
        assert is_taken
    return bytes(batch.to_payload())


def main() -> None:
    """Obey the orders of standard input."""
    worker = Worker(Job(**json.loads(sys.stdin.readline())))
    try:
        for line in sys.stdin:
            answer: dict[str, Any]
            try:
                answer = worker.obey(json.loads(line))
            except (FleetError, OSError) as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)
        worker.end()
    except KeyboardInterrupt:
        pass  # the process that started this one has it, too, and says so


if __name__ == "__main__":
    main()
