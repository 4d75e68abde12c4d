"""A store that stands still costs a bounded amount of memory: windows close, nothing is lost.

The store is real, and locked by another program, as by a backup that hangs.
"""

import asyncio
import sys
from pathlib import Path

import pytest

from end_to_end.device_process import until
from fleetnet.frame import READINGS
from fleetnet.limits import WINDOW
from fleetnet_server.core import router as module
from fleetnet_server.core.bodies import Message
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.router import Router
from fleetnet_server.core.sessions import Sessions
from fleetnet_server.identity import pki
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.writer import Writer
from server.core.session_world import CA, Link

DEVICES, STREAMS = 200, 4
HIGH, LOW = 4 << 20, 2 << 20

# 60 readings of one channel: what a board sends at once.
BODY = b'[1800000000000,0,["t\xc3\xa4"],[%s]]' % b",".join([b"[0,0,1]"] * 60)


def cost(message: Message) -> int:
    """Bytes that a waiting message takes: itself, what it alone refers to, two list entries."""
    own = [message, message.body, message.seq, message.t0, message.t1, message.received]
    return sum(map(sys.getsizeof, own)) + 16


# In a process of its own: locks of one process are no obstacle to another copy of SQLite in it.
LOCK = """
import sqlite3, sys
store = sqlite3.connect(sys.argv[1], isolation_level=None)
store.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
"""


class Fleet:
    """Many devices in memory, and a real store behind them."""

    def __init__(self, folder: Path):
        self.store = SqliteStore(folder / "fleet.db")
        self.router = Router()
        self.writer: Writer[Peer] = Writer(
            self.store, self.router.on_durable, interval_s=0, retry_s=(0.01, 0.02)
        )
        self.router.writer = self.writer
        self.sessions = Sessions(self.store, self.store, self.router, ack_delay_ms=0)
        self.links = [self._link(number) for number in range(DEVICES)]
        self.made = [0] * DEVICES

    def _link(self, number: int) -> Link:
        name = f"cam-{number}"
        credential = pki.issue_device(CA, name)
        device = self.store.add_device(name)
        self.store.add_certificate(device.id, credential.serial, credential.not_after_ms)
        link = Link(address=f"10.0.0.{number}")
        link.peer = self.sessions.accept(link, credential.certificate)  # type: ignore[assignment]
        link.hello()
        return link

    def send(self) -> None:
        """Every device sends all that its window lets out."""
        for number, link in enumerate(self.links):
            for stream in range(1, STREAMS + 1):
                while link.session.has_room(stream, len(BODY)):
                    link.session.send(stream, READINGS, BODY)
                    self.made[number] += 1
                    if self.made[number] % (4 * WINDOW) == 0:
                        break
            link.pump()


@pytest.fixture
def low_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HIGH_BYTES", HIGH)
    monkeypatch.setattr(module, "_LOW_BYTES", LOW)


async def test_two_hundred_devices_and_a_locked_store(tmp_path: Path, low_marks: None) -> None:
    fleet = Fleet(tmp_path)
    router, writer = fleet.router, fleet.writer
    await writer.flush()
    lock = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOCK, str(tmp_path / "fleet.db"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert lock.stdout is not None and await lock.stdout.readline() == b"locked\n"
    for _ in range(3):
        fleet.send()
        await asyncio.sleep(0)
    assert router.is_shut and router.stored == 0
    waiting = writer._messages[:]
    # What is counted is what it costs, and the mark is exceeded by one device's window at most.
    assert sum(map(cost, waiting)) <= router._waiting_bytes
    assert router._waiting_bytes <= HIGH + STREAMS * WINDOW * (len(BODY) + 400)
    received = router.received
    fleet.send()
    assert router.received == received, "a closed window lets nothing through"
    await lock.communicate(b"go on\n")
    # Everything that was sent arrives, once, and the windows are open again.
    total = sum(fleet.made)
    for _ in range(1000):
        await writer.flush()
        for link in fleet.links:
            link.pump()
        if router.stored == total:
            break
    assert router.stored == total > received and router.duplicates == 0
    await until(lambda: not router.is_shut, "the windows are open")
    assert router._waiting_bytes == 0
    await fleet.sessions.close(0.01)
    await writer.close()
    fleet.store.close()
