"""Quotas of blobs: the oldest go, nothing is half gone, what a crash left is found."""

import asyncio
import os
import signal
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from fleetnet_server.core.blob_ports import BlobRow
from fleetnet_server.store.blob_quotas import BlobQuotas
from fleetnet_server.store.blobs import BlobFiles, content_path, list_blobs
from fleetnet_server.store.sqlite import SqliteStore
from server.store.plain_store import NOW
from server.store.test_backup import add_blob

K = 1024


class World:
    """A folder with two devices, one of the group cams."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "fleet.db"
        self.store = SqliteStore(self.path)
        self.devices = [(self.store.lookup(n) or self.store.add_device(n)).id for n in ("a", "b")]
        self.store.registry.change("a", group="cams")
        self.files = BlobFiles(folder / "blobs", self.store)
        self.now = NOW
        self.quotas = BlobQuotas(self.store, self.files, folder, lambda: self.now)

    def rules(self, text: str) -> None:
        (self.folder / "retention.toml").write_text(text)

    def add(self, number: int, size: int = K, device: int = 0, data: bytes = b"") -> Path:
        data = data or bytes([number, device]) * (size // 2)
        return add_blob(self.folder, self.store, self.devices[device], number, data)

    def run(self) -> None:
        self.quotas._due = self.quotas._sweep_due = 0.0
        idle = 0
        while idle < 3:
            idle = 0 if self.quotas.step() else idle + 1

    def left(self) -> list[tuple[str, int]]:
        """(device, how old: 1 is the first that came) of what is left, the oldest first."""
        return [(one.device, one.received_ms - NOW) for one in reversed(list_blobs(self.path))]

    def contents(self) -> set[str]:
        return {path.name for path in (self.folder / "blobs").glob("??/*")}

    def close(self) -> None:
        self.quotas.close()
        self.files.close()
        self.store.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def test_the_oldest_of_a_device_go_first(world: World) -> None:
    world.rules('[[blobs.rule]]\ngroup = "cams"\ndevice = "4K"\n')
    for number in range(1, 11):
        world.add(number)
        world.add(number, device=1)
    world.run()
    assert world.left() == [
        ("b", 1), ("b", 2), ("b", 3), ("b", 4), ("b", 5), ("b", 6),
        ("a", 7), ("b", 7), ("a", 8), ("b", 8), ("a", 9), ("b", 9), ("a", 10), ("b", 10),
    ]  # fmt: skip
    assert len(world.contents()) == 14
    assert (world.quotas.removed, world.quotas.freed_bytes) == (6, 6 * K)


def test_the_oldest_of_all_go_when_all_are_too_much(world: World) -> None:
    world.rules('[blobs]\nall = "3K"\n')
    for number in range(1, 4):
        world.add(number)
        world.add(number, device=1)
    world.run()
    assert world.left() == [("b", 2), ("a", 3), ("b", 3)]


def test_ages_count_from_when_a_blob_was_received(world: World) -> None:
    world.rules('[[blobs.rule]]\nkeep = "1h"\n')
    for number in range(1, 200):  # more than one step takes
        world.add(number)
    world.now = NOW + 3_600_000 + 150
    world.run()
    assert world.left() == [("a", number) for number in range(150, 200)]
    assert len(world.contents()) == 50


def test_content_stays_as_long_as_one_blob_has_it(world: World) -> None:
    world.rules('[[blobs.rule]]\ngroup = "cams"\nkeep = "1h"\n')
    path = world.add(1, data=b"same")
    world.add(1, device=1, data=b"same")
    world.now = NOW + 4_000_000
    world.run()
    assert world.left() == [("b", 1)]
    assert path.read_bytes() == b"same"
    assert world.quotas.freed_bytes == 0


def test_shared_content_counts_once_in_the_quota_of_all(world: World) -> None:
    world.rules('[blobs]\nall = "1K"\n')
    world.add(1, data=b"x" * K)
    world.add(1, device=1, data=b"x" * K)
    world.run()
    assert len(world.left()) == 2


def test_without_rules_everything_stays_and_a_broken_file_ends_nothing(world: World) -> None:
    world.add(1)
    world.run()
    world.rules('[blobs]\nal = "1K"\n')
    world.add(2)
    world.run()
    assert len(world.left()) == 2


def test_content_without_a_blob_is_swept_away(world: World) -> None:
    kept = world.add(1)
    orphan = world.folder / "blobs" / "ab" / ("ab" + "0" * 62)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"x")
    other = world.folder / "blobs" / "readme"
    other.mkdir()
    world.run()
    assert (kept.exists(), orphan.exists(), other.exists()) == (True, False, True)
    assert world.quotas.orphans == 1


def test_a_blob_above_its_quota_is_refused_before_it_comes(world: World) -> None:
    world.rules('[blobs]\nall = "9K"\n[[blobs.rule]]\ngroup = "cams"\ndevice = "4K"\n')
    assert world.files.most_bytes(world.devices[0]) is None
    world.run()
    assert [world.files.most_bytes(device) for device in world.devices] == [4 * K, 9 * K]
    world.rules("")
    world.run()
    assert world.files.most_bytes(world.devices[0]) is None


async def test_content_that_a_quota_took_is_asked_for_again(world: World) -> None:
    """Between "this content is known" and the row of another blob with it, it goes."""
    data = b"y" * K
    path = world.add(1, data=data)
    world.rules('[[blobs.rule]]\nkeep = "1h"\n')
    world.now = NOW + 4_000_000
    world.run()
    assert not path.exists()
    row = BlobRow(world.devices[1], 7, "f", 22, K, sha256(data).digest(), NOW, NOW)
    with pytest.raises(FileNotFoundError):
        await world.files.keep([row], None)
    assert world.left() == []


async def test_quotas_beside_blobs_that_come(world: World) -> None:
    """The same content comes and goes: whoever has a row has its content."""
    world.rules('[[blobs.rule]]\nkeep = "1h"\n')
    world.now = NOW + 7_200_000
    data = b"z" * K
    digest = sha256(data).digest()
    for number in range(60):
        partial = world.files.open_partial(world.devices[0], digest)
        partial.write(0, memoryview(data))
        received = NOW if number % 2 else NOW + 7_000_000
        row = BlobRow(world.devices[0], number, "f", 22, K, digest, NOW, received)
        keeping = asyncio.ensure_future(world.files.keep([row], partial))
        await asyncio.to_thread(world.run)
        assert await keeping
        rows = list_blobs(world.path)
        assert not rows or (world.folder / "blobs" / content_path(digest)).read_bytes() == data
    await asyncio.to_thread(world.run)
    assert len(world.left()) >= 1


@pytest.mark.parametrize("point", ["_store.transact", "_unlink"])
def test_killed_between_rows_and_content(tmp_path: Path, point: str) -> None:
    """Whatever the moment: no blob without content, and the sweep takes the rest."""
    world = World(tmp_path)
    world.rules('[blobs]\nall = "2K"\n')
    for number in range(1, 9):
        world.add(number)
    world.close()
    child = os.fork()
    if child == 0:
        try:
            again = World(tmp_path)
            holder, _, name = point.rpartition(".")
            target = getattr(again.quotas, holder) if holder else again.quotas
            before = getattr(target, name)

            def dying(*values: object) -> None:
                before(*values)
                os.kill(os.getpid(), signal.SIGKILL)

            setattr(target, name, dying)
            again.run()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    world = World(tmp_path)
    rows = list_blobs(world.path)
    assert all((tmp_path / "blobs" / one.path).exists() for one in rows)
    assert len(world.contents()) > 2, "nothing was left over: it was not killed in between"
    world.run()
    assert world.left() == [("a", 7), ("a", 8)]
    assert world.contents() == {one.sha256 for one in list_blobs(world.path)}
    world.close()
