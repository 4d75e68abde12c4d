"""What the parts cost by themselves, in this process, on the measured core."""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import repeat
from pathlib import Path
from typing import TypeVar

from payloads import body
from processes import cores

from fleetnet.frame import READINGS
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.store.sqlite import SqliteStore

_RECORD_BYTES = 37 + 8  # DTLS record, frame header
_BURST = 100
_BATCH = 1024

Found = TypeVar("Found")


def receive_datagram_us(readings: int, rounds: int = 400) -> float:
    """Return the CPU of one bare ``recvfrom`` of a datagram of that size, us."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        sender.connect(receiver.getsockname())
        datagram = bytes(len(body(readings)) + _RECORD_BYTES)
        spent = 0.0
        for _ in range(rounds):
            for _ in range(_BURST):
                sender.send(datagram)
            began = time.process_time()
            for _ in range(_BURST):
                receiver.recvfrom(2048)
            spent += time.process_time() - began
    finally:
        receiver.close()
        sender.close()
    return 1e6 * spent / (rounds * _BURST)


def _batches(readings: int, devices: int, count: int) -> Sequence[list[Message]]:
    payload = body(readings)
    now = time.time_ns() // 1_000_000
    t0, t1, problem, stored = inspect_body(READINGS, payload, lambda _: None, now)
    messages = [
        Message(
            1 + number % devices, 1 + number % devices, 3, 1 + number // devices, READINGS,
            t0, t1, now, stored, problem,
        )
        for number in range(count * _BATCH)
    ]  # fmt: skip
    return [messages[at : at + _BATCH] for at in range(0, len(messages), _BATCH)]


def insert_us(readings: int, devices: int, count: int = 40) -> float:
    """Return the CPU of storing one message, batched and committed, us."""
    batches = _batches(readings, devices, count)
    with (
        tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name,
        SqliteStore(Path(name) / "bound.db") as store,
    ):
        began = time.process_time()
        for batch in batches:
            store.commit(batch)
        spent = time.process_time() - began
    return 1e6 * spent / (count * _BATCH)


def inspect_us(readings: int, count: int = 20_000) -> float:
    """Return the CPU of checking one body, us."""
    payload = body(readings)
    began = time.process_time()
    for _ in repeat(None, count):
        inspect_body(READINGS, payload, lambda _: None, 0)
    return 1e6 * (time.process_time() - began) / count


def on_measured_core(work: Callable[[], Found]) -> Found:
    """Call ``work`` pinned to the core on which the server is measured."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores()[0]})
    try:
        return work()
    finally:
        os.sched_setaffinity(0, before)


def all_bounds() -> dict[str, float]:
    """Measure everything, on the measured core."""
    return on_measured_core(
        lambda: {
            "recvfrom_1_us": receive_datagram_us(1),
            "recvfrom_10_us": receive_datagram_us(10),
            "insert_1_us": insert_us(1, 1000),
            "insert_10_us": insert_us(10, 100),
            "insert_20_us": insert_us(20, 100),
            "inspect_1_us": inspect_us(1),
            "inspect_20_us": inspect_us(20),
        }
    )
