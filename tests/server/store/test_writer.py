"""Writer: nothing before its commit, everything after it, in order, once."""

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fleetnet_server.core.bodies import Message
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store import writer as writer_module
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.writer import Writer

NOW = 1_800_000_000_000
Done = list[tuple[Message, int, bool]]


class StoreOnDemand(SqliteStore):
    """The real store, whose commits wait for a permission or fail on command."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.permission = threading.Event()
        self.permission.set()
        self.fails = False
        self.failures = 0
        self.sizes: list[int] = []

    def commit(self, batch: Sequence[Message]) -> Sequence[int]:
        self.permission.wait(30)
        if self.fails:
            self.failures += 1
            raise StoreUnavailable("disk is full")
        self.sizes.append(len(batch))
        return super().commit(batch)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreOnDemand]:
    opened = StoreOnDemand(tmp_path / "fleet.db")
    opened.add_device("cam-1")
    yield opened
    opened.close()


def message(store: SqliteStore, seq: int) -> Message:
    epoch = store.epoch_id(1, b"epoch-01")
    return Message(1, epoch, 3, seq, 16, NOW, NOW, NOW, '[1,0,["t"],[[0,0,1]]]')


async def test_reports_after_the_commit_in_order(store: StoreOnDemand) -> None:
    done: Done = []
    writer = Writer[int](store, done.extend, interval_s=0)
    store.permission.clear()
    for seq in (1, 2, 2):
        writer.put(message(store, seq), seq * 10)
    await asyncio.sleep(0.05)
    assert done == []
    assert writer.backlog == 3
    store.permission.set()
    await writer.flush()
    assert [(one.seq, token, new) for one, token, new in done] == [
        (1, 10, True),
        (2, 20, True),
        (2, 20, False),
    ]
    assert store.watermarks(1, b"epoch-01") == {3: 2}
    assert writer.backlog == 0
    await writer.close()


async def committing_one(store: StoreOnDemand, done: Done) -> Writer[int]:
    """Return a writer whose first message is being committed, until there is permission."""
    writer = Writer[int](store, done.extend, interval_s=0, max_rows=100)
    store.permission.clear()
    writer.put(message(store, 1), 1)
    await asyncio.sleep(0.05)
    return writer


async def test_what_arrives_during_a_commit_makes_the_next_batch(store: StoreOnDemand) -> None:
    done: Done = []
    writer = await committing_one(store, done)
    for seq in range(2, 152):
        writer.put(message(store, seq), seq)
    store.permission.set()
    await writer.close()
    assert store.sizes == [1, 100, 50]
    assert [one.seq for one, _token, _new in done] == list(range(1, 152))


async def test_a_full_batch_does_not_wait(store: StoreOnDemand) -> None:
    full = asyncio.Event()

    def on_durable(done: Done) -> None:
        if len(done) == 10:
            full.set()

    writer = Writer[int](store, on_durable, interval_s=3600, max_rows=10)
    writer.put(message(store, 1), 1)
    await writer.flush()
    for seq in range(2, 12):
        writer.put(message(store, seq), seq)
    async with asyncio.timeout(30):
        await full.wait()
    assert store.sizes == [1, 10]
    await writer.close()


async def test_a_large_batch_is_no_larger_than_a_worker_may_send(
    store: StoreOnDemand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_ALWAYS_FIT", 2)
    monkeypatch.setattr(writer_module, "_MOST_TEXT", 3 * len(message(store, 1).body))
    done: Done = []
    writer = await committing_one(store, done)
    for seq in range(2, 8):
        writer.put(message(store, seq), seq)
    # As many as always fit go together, whatever their size.
    for seq in (8, 9, 10):
        large = message(store, seq)._replace(body=f'[1,0,["t"],[[0,0,"{"x" * 100}"]]]')
        writer.put(large, seq)
    store.permission.set()
    await writer.close()
    assert store.sizes == [1, 3, 3, 2, 1]
    assert [one.seq for one, _token, _new in done] == list(range(1, 11))


@pytest.mark.parametrize(("interval_s", "sizes"), [(0.001, [1, 10]), (0.0, [1, 5, 5])])
async def test_slow_commits_are_larger_ones(
    store: StoreOnDemand, monkeypatch: pytest.MonkeyPatch, interval_s: float, sizes: list[int]
) -> None:
    # As if each took so long that the next one had to wait for hours.
    monkeypatch.setattr(writer_module, "_LONGEST_S", 3600.0)
    monkeypatch.setattr(writer_module, "_IDLE_SHARE", 1e9)
    monkeypatch.setattr(writer_module, "_LARGE_ROWS", 1)
    done: Done = []
    writer = Writer[int](store, done.extend, interval_s=interval_s, max_rows=10)
    writer.put(message(store, 1), 1)
    await writer.flush()
    for first in (2, 7):
        for seq in range(first, first + 5):
            writer.put(message(store, seq), seq)
        async with asyncio.timeout(30):
            while interval_s == 0 and len(done) < first + 4:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
    async with asyncio.timeout(30):
        while len(done) < 11:
            await asyncio.sleep(0.005)
    assert store.sizes == sizes
    await writer.close()


async def test_failure_is_retried_logged_once_and_acknowledges_nothing(
    store: StoreOnDemand, caplog: pytest.LogCaptureFixture
) -> None:
    done: Done = []
    writer = Writer[int](store, done.extend, interval_s=0, retry_s=(0.01, 0.02))
    store.fails = True
    with caplog.at_level(logging.WARNING, "fleetnet.store"):
        writer.put(message(store, 1), 1)
        async with asyncio.timeout(30):
            while store.failures < 3:
                await asyncio.sleep(0.005)
        assert done == [] and not writer.is_available
        store.fails = False
        await writer.flush()
    assert [(one.seq, new) for one, _token, new in done] == [(1, True)]
    assert [record.levelname for record in caplog.records] == ["CRITICAL", "WARNING"]
    # What helps is for the store to say: room on the disk does not bring back a file that is gone.
    assert caplog.messages[0] == (
        "disk is full; nothing is acknowledged until it can be written again, which is tried by "
        "itself"
    )
    assert writer.is_available
    await writer.close()


async def test_close_gives_up_in_time(store: StoreOnDemand) -> None:
    done: Done = []
    writer = Writer[int](store, done.extend, interval_s=0, retry_s=(0.01, 0.02))
    store.fails = True
    writer.put(message(store, 1), 1)
    async with asyncio.timeout(30):
        while writer.is_available:
            await asyncio.sleep(0.005)
    assert await writer.close(timeout_s=0.05) == 1
    assert done == []
    store.fails = False
    with pytest.raises(RuntimeError, match="closed"):
        writer.put(message(store, 2), 2)


async def test_deferred_writes_need_no_message(store: StoreOnDemand) -> None:
    writer = Writer[int](store, lambda done: None, interval_s=0)
    store.set_boot(1, 7, 5)
    await writer.flush()
    assert not store.has_deferred
    await writer.close()


async def test_flush_ends_although_more_arrives(store: StoreOnDemand) -> None:
    done: Done = []
    writer: Writer[int]

    def on_durable(batch: Done) -> None:
        done.extend(batch)
        writer.put(message(store, 1000 + len(done)), 0)  # never idle

    writer = Writer[int](store, on_durable, interval_s=0)
    writer.put(message(store, 1), 1)
    async with asyncio.timeout(30):
        await writer.flush()
    assert done[0][0].seq == 1
    store.set_boot(1, 7, 5)
    async with asyncio.timeout(30):
        await writer.flush()
    assert store.boot_offset(1, 7) == 5
    assert store._reader.execute("SELECT count(*) FROM boots").get == 1
    await writer.close()


async def test_an_error_in_the_callback_does_not_stop_the_writer(store: StoreOnDemand) -> None:
    seen: list[int] = []
    errors: list[object] = []

    def on_durable(done: Done) -> None:
        seen.append(len(done))
        raise ValueError("broken callback")

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    writer = Writer[int](store, on_durable, interval_s=0)
    for seq in (1, 2):
        writer.put(message(store, seq), seq)
        await writer.flush()
    await writer.close()
    assert seen == [1, 1]
    assert len(errors) == 2
