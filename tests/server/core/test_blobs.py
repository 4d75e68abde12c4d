"""The service of blobs over a real folder and a real store; the link is a recorder."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fleetnet import frame as wire
from fleetnet.blobs import (
    CONTRADICTION,
    MISMATCH,
    RECEIVING,
    REFUSED,
    STORED,
    TOO_LARGE,
    UNKNOWN,
    Offer,
    State,
    decode_state,
    put_chunk_head,
)
from fleetnet.errors import PROTOCOL
from fleetnet.events import Received
from fleetnet_server.core.blob_ports import BlobLimits
from fleetnet_server.core.blobs import Blobs
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.blobs import BlobFiles, find_blob, list_blobs
from fleetnet_server.store.sqlite import SqliteStore

CHUNK = 1120
LIMITS = BlobLimits(blob_bytes=1 << 20, partials=4, partial_bytes=3 << 20)


class Link:
    """What the service sees of a Peer."""

    def __init__(self, device_id: int, name: str):
        self.device_id = device_id
        self.name = name
        self.is_open = True
        self.states: list[State] = []
        self.byes: list[int] = []
        self.rules = None

    def send_live(self, kind: int, payload: bytes) -> bool:
        assert kind == wire.BLOB_STATE
        self.states.append(decode_state(payload))
        return True

    def bye(self, reason: int) -> None:
        self.byes.append(reason)

    def boot_offset(self, boot: int) -> int | None:
        return 1_700_000_000_000 if boot == 7 else None


class Room:
    """Service, folder, store and a clock that the test moves."""

    def __init__(self, folder: Path, limits: BlobLimits = LIMITS):
        self.folder = folder
        self.now = 0.0
        self.store = SqliteStore(folder / "fleet.db")
        self.devices = [self.store.add_device(f"cam-{i}").id for i in range(5)]
        self.files = BlobFiles(folder / "blobs", self.store)
        self.blobs = Blobs(self.files, limits, lambda: self.now)

    def link(self, index: int = 0) -> Link:
        return Link(self.devices[index], f"cam-{index}")

    def offer(self, link: Any, data: bytes, id: int = 1, **changes: Any) -> Offer:
        offer = Offer(id, len(data), CHUNK, hashlib.sha256(data).digest(), "frame")
        offer.number = 1
        for name, value in changes.items():
            setattr(offer, name, value)
        self.blobs.received(link, Received(0, 0, wire.BLOB, offer.to_payload()))
        return offer

    def chunk(self, link: Any, data: bytes, index: int, id: int = 1) -> None:
        head = bytearray()
        put_chunk_head(head, id, index, index + 2, True)
        body = bytes(head) + data[index * CHUNK : (index + 1) * CHUNK]
        self.blobs.received(link, Received(0, 0, wire.BLOB_CHUNK, body))

    async def send(self, link: Any, data: bytes, id: int = 1, **changes: Any) -> None:
        """Send a whole blob, the last chunk first."""
        offer = self.offer(link, data, id, **changes)
        for index in reversed(range(offer.count)):
            self.chunk(link, data, index, id)
        await self.settle()

    async def settle(self) -> None:
        while self.blobs._tasks:
            await asyncio.wait(set(self.blobs._tasks))

    def partials(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "blobs" / "partial").iterdir())

    async def close(self) -> None:
        await self.blobs.close()
        self.files.close()
        self.store.close()


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    made = Room(tmp_path)
    yield made
    await made.close()


def content(size: int, seed: int = 0) -> bytes:
    return hashlib.shake_128(bytes([seed])).digest(size)


async def test_a_blob_is_kept_with_its_row(room: Room) -> None:
    link = room.link()
    data = content(50_000)
    await room.send(link, data, id=9, base_ms=5_000, boot=7, content_format=22)
    assert link.states[-1].status == STORED
    (blob,) = list_blobs(room.folder / "fleet.db")
    digest = hashlib.sha256(data).hexdigest()
    assert (blob.device, blob.name, blob.content_format) == ("cam-0", "frame", 22)
    assert (blob.size, blob.sha256, blob.time_ms) == (50_000, digest, 1_700_000_005_000)
    assert blob.path == f"{digest[:2]}/{digest}"
    assert (room.folder / "blobs" / blob.path).read_bytes() == data
    assert find_blob(room.folder / "fleet.db", blob.id) == blob
    assert room.partials() == []


async def test_states_tell_what_is_here_and_what_is_missing(room: Room) -> None:
    link = room.link()
    data = content(10 * CHUNK)
    room.offer(link, data)
    for index in (0, 1, 4):
        room.chunk(link, data, index)
    state = link.states[-1]
    assert (state.status, state.held, state.bitmap, state.echo) == (RECEIVING, 2, b"\x02", 6)
    assert state.credit > 0


async def test_a_new_link_goes_on_where_the_old_one_was_cut(room: Room) -> None:
    data = content(10 * CHUNK)
    old = room.link()
    room.offer(old, data)
    for index in range(7):
        room.chunk(old, data, index)
    room.blobs.closed(old)  # type: ignore[arg-type]
    new = room.link()
    room.offer(new, data, id=2)  # another number: the device was booted anew
    assert (new.states[-1].id, new.states[-1].held) == (2, 7)
    for index in range(7, 10):
        room.chunk(new, data, index, id=2)
    await room.settle()
    assert new.states[-1].status == STORED
    assert [blob.size for blob in list_blobs(room.folder / "fleet.db")] == [len(data)]


async def test_chunks_are_not_known_before_their_offer(room: Room) -> None:
    link = room.link()
    data = content(3 * CHUNK)
    room.chunk(link, data, 0)
    assert link.states[-1].status == UNKNOWN
    room.offer(link, data)
    other = room.link(1)
    room.chunk(other, data, 0)
    assert other.states[-1].status == UNKNOWN


async def test_what_is_stored_is_answered_so_again_without_a_second_row(room: Room) -> None:
    data = content(3 * CHUNK)
    first = room.link()
    await room.send(first, data)
    room.offer(first, data)
    second = room.link()
    room.offer(second, data)
    assert first.states[-1].status == second.states[-1].status == STORED
    assert len(list_blobs(room.folder / "fleet.db")) == 1


async def test_equal_content_is_kept_once_with_a_row_for_each(room: Room) -> None:
    data = content(3 * CHUNK)
    await room.send(room.link(), data, id=1)
    link = room.link(1)
    room.offer(link, data, id=2)
    await room.settle()
    assert link.states[-1].status == STORED
    assert [blob.device for blob in list_blobs(room.folder / "fleet.db")] == ["cam-1", "cam-0"]


async def test_another_content_than_offered_is_refused(room: Room) -> None:
    link = room.link()
    data = content(3 * CHUNK)
    offer = room.offer(link, data)
    for index in range(offer.count):
        room.chunk(link, content(3 * CHUNK, 1), index)
    await room.settle()
    assert (link.states[-1].status, link.states[-1].reason) == (REFUSED, MISMATCH)
    assert list_blobs(room.folder / "fleet.db") == []
    assert room.partials() == []
    assert not any((room.folder / "blobs").glob("??/*"))


async def test_too_large_is_refused_and_costs_nothing(room: Room) -> None:
    link = room.link()
    room.offer(link, b"", size=(1 << 32) - 1)
    assert (link.states[-1].status, link.states[-1].reason) == (REFUSED, TOO_LARGE)
    assert str(1 << 20) in link.states[-1].detail
    assert room.partials() == []


async def test_a_device_whose_every_blob_is_refused_does_not_fill_the_log(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    link = room.link()
    for number in range(40):
        room.offer(link, b"", number + 1, size=(1 << 32) - 1)
    assert len(link.states) == room.blobs.refused == 40
    assert len([text for text in caplog.messages if "of cam-0 refused" in text]) == 5


async def test_an_offer_alone_takes_no_disk(room: Room) -> None:
    link = room.link()
    data = content(1 << 20)
    room.offer(link, data)
    (name,) = room.partials()
    assert (room.folder / "blobs" / "partial" / name).stat().st_size == 0
    room.chunk(link, data, 900)  # beyond what a sender may have on its way
    assert (room.folder / "blobs" / "partial" / name).stat().st_size == 0
    assert link.states[-1].held == 0


async def test_a_device_holds_two_partials(room: Room) -> None:
    link = room.link()
    for seed in range(20):
        room.offer(link, content(5000, seed), id=seed + 1)
        assert link.states[-1].status == RECEIVING
        assert link.states[-1].credit > 0
    assert len(room.partials()) == 2
    room.chunk(link, content(5000, 0), 0, id=1)
    assert link.states[-1].status == UNKNOWN


async def test_without_room_devices_wait_and_the_idle_make_room(room: Room) -> None:
    links = [room.link(index) for index in range(5)]
    for index, link in enumerate(links):
        room.offer(link, content(5000, index))
    assert [link.states[-1].credit > 0 for link in links] == [True] * 4 + [False]
    assert len(room.partials()) == 4
    room.now = 31.0
    room.offer(links[4], content(5000, 4))
    assert links[4].states[-1].credit > 0
    assert len(room.partials()) <= 4


async def test_offered_bytes_are_bounded_in_all(tmp_path: Path) -> None:
    room = Room(tmp_path, LIMITS._replace(partial_bytes=10_000))
    links = [room.link(index) for index in range(3)]
    for index, link in enumerate(links):
        room.offer(link, content(5000, index))
    assert [link.states[-1].credit > 0 for link in links] == [True, True, False]
    await room.close()


async def test_a_contradiction_is_refused(room: Room) -> None:
    link = room.link()
    data = content(10 * CHUNK)
    room.offer(link, data)
    other = room.link()
    room.offer(other, data, id=2, chunk=1000)
    assert (other.states[-1].status, other.states[-1].reason) == (REFUSED, CONTRADICTION)


@pytest.mark.parametrize("kind", [wire.BLOB, wire.BLOB_CHUNK])
async def test_a_broken_frame_ends_the_session(room: Room, kind: int) -> None:
    link = room.link()
    room.blobs.received(link, Received(0, 0, kind, b"\x80"))  # type: ignore[arg-type]
    assert link.byes == [PROTOCOL]


async def test_a_chunk_of_a_wrong_length_ends_the_session(room: Room) -> None:
    link = room.link()
    room.offer(link, content(3 * CHUNK))
    room.chunk(link, content(100), 0)
    assert link.byes == [PROTOCOL]


async def test_random_frames_never_raise(room: Room) -> None:
    link = room.link()
    data = content(3 * CHUNK)
    offer = Offer(1, len(data), CHUNK, hashlib.sha256(data).digest(), "frame")
    offer.number = 1
    valid = offer.to_payload()
    for round in range(3000):
        noise = hashlib.shake_128(round.to_bytes(4, "big")).digest(60)
        body = bytearray(valid if round % 2 else noise)
        body[noise[0] % len(body)] ^= noise[1]
        kind = wire.BLOB if noise[2] & 1 else wire.BLOB_CHUNK
        room.blobs.received(link, Received(0, 0, kind, bytes(body)))  # type: ignore[arg-type]
    assert len(room.blobs._handles.get(link, {})) <= 4  # type: ignore[call-overload]
    assert len(room.partials()) <= 2
    await room.settle()


async def test_a_full_disk_halts_the_device_until_there_is_room(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = room.link()
    data = content(3 * CHUNK)
    room.offer(link, data)
    real = os.pwrite

    def full(file: int, body: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    room.chunk(link, data, 0)
    assert (link.states[-1].credit, link.states[-1].held) == (0, 0)
    monkeypatch.setattr(os, "pwrite", real)
    await room.send(link, data)
    assert link.states[-1].status == STORED


async def test_a_store_that_cannot_commit_is_asked_again(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = room.link()
    data = content(3 * CHUNK)

    def locked(work: Any) -> None:
        raise StoreUnavailable("locked")

    real = room.store.transact
    monkeypatch.setattr(room.store, "transact", locked)
    await room.send(link, data)
    assert {state.status for state in link.states} == {RECEIVING}
    monkeypatch.setattr(room.store, "transact", real)
    room.offer(link, data)
    await room.settle()
    assert link.states[-1].status == STORED
    assert len(list_blobs(room.folder / "fleet.db")) == 1


async def test_stored_is_said_after_file_and_row_are_durable(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synchronised content, its name, the folder, the row: in this order, then the answer."""
    steps: list[str] = []
    link = room.link()
    for module, name in ((os, "fsync"), (os, "replace"), (room.store, "transact")):
        real = getattr(module, name)

        def noted(*args: Any, real: Any = real, name: str = name) -> Any:
            steps.append(name)
            assert all(state.status == RECEIVING for state in link.states)
            return real(*args)

        monkeypatch.setattr(module, name, noted)
    await room.send(link, content(3 * CHUNK))
    assert link.states[-1].status == STORED
    assert steps[0] == "fsync"
    assert steps.index("replace") < len(steps) - 1 - steps[::-1].index("fsync")
    assert steps[-1] == "transact"


async def test_partials_of_a_crashed_server_are_removed(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.offer(room.link(), content(5000))
    room.files.close()
    again = BlobFiles(tmp_path / "blobs", room.store)
    assert room.partials() == []
    again.close()
    await room.close()
