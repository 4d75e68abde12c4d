"""One device among many, by counting: how many commits does a message of the others wait for?

A device has at most 64 messages of each of its 15 streams under way, and a commit takes 4,096:
whatever one device sends, the others' messages are in the next commit, as they are without it.
tests/proof/fairness.py has the same with processes and milliseconds.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleetnet import limits
from fleetnet.frame import READINGS
from fleetnet.ports import port
from fleetnet_server.config import Settings
from fleetnet_server.core import sessions as module
from fleetnet_server.core.bodies import Message
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.router import Router
from fleetnet_server.core.sessions import Sessions
from fleetnet_server.identity import pki
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.writer import Writer
from server.core.session_world import BODY, CA, Link

OTHERS, STEPS = 20, 10

# With larger windows: what the greedy device sends in one step, at most.
MOST = 10_000


class Crowd:
    """Devices in memory, and a real store behind them.

    Attributes:
        waited: for each message of the others, the commits from its arrival to its durability.
    """

    def __init__(self, folder: Path):
        self.store = SqliteStore(folder / "fleet.db")
        self.router = Router()
        rows = int(Settings.model_fields["commit_rows"].default)
        self.writer: Writer[Peer] = Writer(
            self.store, self.router.on_durable, interval_s=0, max_rows=rows
        )
        self.router.writer = self.writer
        self.router.on_batch = self._on_batch
        self.sessions = Sessions(self.store, self.store, self.router, ack_delay_ms=0)
        self.waited: list[int] = []
        self._batches = 0
        self._came: dict[tuple[int, int], int] = {}
        self.others = [self._link(f"cam-{n}") for n in range(OTHERS)]
        self.greedy = self._link("greedy")
        assert self.greedy.peer is not None
        self._greedy_id = self.greedy.peer.device_id

    def _link(self, name: str) -> Link:
        credential = pki.issue_device(CA, name)
        device = self.store.add_device(name)
        self.store.add_certificate(device.id, credential.serial, credential.not_after_ms)
        link = Link()
        link.peer = self.sessions.accept(link, credential.certificate)  # type: ignore[assignment]
        link.hello()
        return link

    def _on_batch(self, done: list[tuple[Message, Peer, bool]]) -> None:
        self._batches += 1
        for message, peer, _ in done:
            if peer.device_id != self._greedy_id:
                came = self._came.pop((message.device_id, message.seq))
                self.waited.append(self._batches - came)

    def _pump(self, link: Link) -> None:
        """Carry all that a device has to send now."""
        assert link.peer is not None
        while chunks := link.session.data_to_send(port.ticks()):
            for chunk in chunks:
                link.peer.receive_data(chunk)

    def flood(self) -> int:
        """The greedy device sends all that its windows let out; return how much that was."""
        session, sent = self.greedy.session, 0
        for stream in range(1, limits.MAX_STREAM + 1):
            while sent < MOST and session.has_room(stream, len(BODY)):
                session.send(stream, READINGS, BODY)
                sent += 1
        self._pump(self.greedy)
        return sent

    async def step(self, is_flooded: bool) -> int:
        """Everybody sends, the greedy one first; wait until the others' messages are durable."""
        sent = self.flood() if is_flooded else 0
        for link in self.others:
            assert link.peer is not None
            seq = link.session.send(1, READINGS, BODY)
            self._came[link.peer.device_id, seq] = self._batches
            self._pump(link)
        await self.writer.flush()
        for link in (*self.others, self.greedy):
            self._pump(link)
        return sent

    async def run(self, is_flooded: bool) -> tuple[int, int]:
        """Return the 99th percentile of what the others waited, and what the greedy one sent."""
        self.waited.clear()
        sent = [await self.step(is_flooded) for _ in range(STEPS)]
        assert len(self.waited) == OTHERS * STEPS and not self._came
        return sorted(self.waited)[int(0.99 * len(self.waited))], sum(sent)


@pytest.fixture
async def crowd(tmp_path: Path) -> AsyncIterator[Crowd]:
    made = Crowd(tmp_path)
    yield made
    await made.sessions.close(0.01)
    await made.writer.close()
    made.store.close()


async def test_whatever_one_device_sends_the_others_are_in_the_next_commit(crowd: Crowd) -> None:
    alone, _ = await crowd.run(False)
    beside, sent = await crowd.run(True)
    assert alone == beside == 1
    # That was much more than a hundred times what each of the others sent, and all of it arrived.
    assert sent >= 100 * STEPS
    assert crowd.router.stored == 2 * OTHERS * STEPS + sent


async def test_control_with_larger_windows_the_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WINDOW", limits.MAX_WINDOW)
    monkeypatch.setattr(module, "WINDOW", limits.MAX_WINDOW)
    crowd = Crowd(tmp_path)
    try:
        alone, _ = await crowd.run(False)
        beside, sent = await crowd.run(True)
        assert sent > 5 * STEPS * 960
        assert beside > 2 * alone, (alone, beside)
    finally:
        await crowd.sessions.close(0.01)
        await crowd.writer.close()
        crowd.store.close()
