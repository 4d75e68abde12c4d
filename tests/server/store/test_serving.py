"""The store process and its workers: one device at one worker, nothing lost, nothing twice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from fleetnet_server.core.bodies import Message
from fleetnet_server.core.ports import Committed, SessionAbout, SessionStart
from fleetnet_server.core.relay_ports import Relayed
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store import channel, remote
from fleetnet_server.store.remote import RemoteStore, start_line
from fleetnet_server.store.serving import StoreServer
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.writer import Writer

NOW = 1_800_000_000_000
EPOCH, OTHER = b"epoch-01", b"epoch-02"
ABOUT = SessionAbout("dtls", "192.0.2.1")
CAM, HUB = 1, 2
PATIENCE_S = 20.0


class Machine:
    """A store file, its store process's part, and workers' parts, in one process."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "fleet.db"
        self.store = SqliteStore(self.path)
        self.store.add_device("cam-1")
        self.store.add_device("hub-1")
        self.workers: list[RemoteStore] = []
        self.lost: list[tuple[int, int]] = []

    async def start(self) -> None:
        self.server = StoreServer(
            self.store,
            lambda on_durable, on_lost: Writer(
                self.store, on_durable, interval_s=0, on_lost=on_lost
            ),
        )
        await self.server.start(self.folder)

    async def restart(self) -> None:
        """As after kill -9: what was in its memory is gone."""
        await self.stop()
        self.store = SqliteStore(self.path)
        await self.start()

    async def stop(self) -> None:
        await self.server.stop()
        await self.server.writer.close()
        self.store.close()

    def join(self) -> RemoteStore:
        number = len(self.workers)
        made = RemoteStore(self.path, self.folder, start_line(self.folder, number), number)
        made.on_lost = lambda device: self.lost.append((number, device))
        self.workers.append(made)
        return made

    def rows(self) -> list[tuple[int, int, int]]:
        """(device, stream, seq) of every message, in order of commit."""
        found = self.store.read("SELECT device, stream, seq FROM messages ORDER BY id")
        return [cast("tuple[int, int, int]", row) for row in found]


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    made = Machine(tmp_path)
    await made.start()
    yield made
    for worker in made.workers:
        await worker._line.stop()
    closing = [asyncio.to_thread(worker.close) for worker in made.workers]
    await asyncio.gather(*closing)
    await made.stop()


async def begin(worker: RemoteStore, device: int = CAM, epoch: bytes = EPOCH) -> SessionStart:
    async with asyncio.timeout(PATIENCE_S):
        return await cast("Awaitable[SessionStart]", worker.begin(device, epoch, ABOUT))


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_true():
            await asyncio.sleep(0.01)


def message(epoch: int, seq: int, device: int = CAM, body: str | bytes = "[]") -> Message:
    return Message(device, epoch, 3, seq, 16, NOW, NOW, NOW, body)


async def commit(worker: RemoteStore, *messages: Message) -> tuple[list[int], list[int]]:
    """Commit as a Writer does, again while the store is away; (new, lost)."""
    batch = list(messages)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(StoreUnavailable):
                found: Committed = await asyncio.to_thread(worker.commit, batch)
                return list(found.new), sorted(found.lost)


async def test_messages_of_all_workers_are_in_one_store(machine: Machine) -> None:
    first, second = machine.join(), machine.join()
    one, two = await begin(first), await begin(second, HUB)
    assert one.epoch_id != two.epoch_id
    done = await asyncio.gather(
        commit(first, message(one.epoch_id, 1), message(one.epoch_id, 2, body=b"\x00\xff")),
        commit(second, message(two.epoch_id, 1, HUB)),
    )
    assert done == [([0, 1], []), ([0], [])]
    assert sorted(machine.rows()) == [(CAM, 3, 1), (CAM, 3, 2), (HUB, 3, 1)]
    bodies = machine.store.read("SELECT body FROM messages WHERE device = 1 ORDER BY seq")
    assert bodies == [("[]",), (b"\x00\xff",)]


async def test_the_newest_session_wins_and_the_old_one_stores_no_more(machine: Machine) -> None:
    first, second = machine.join(), machine.join()
    epoch = (await begin(first)).epoch_id
    assert await commit(first, message(epoch, 1)) == ([0], [])
    start = await begin(second)
    assert start == SessionStart(epoch, {3: 1})
    await until(lambda: machine.lost == [(0, CAM)])
    assert await commit(first, message(epoch, 2)) == ([], [0])
    assert await commit(second, message(epoch, 2), message(epoch, 3)) == ([0, 1], [])
    assert machine.rows() == [(CAM, 3, 1), (CAM, 3, 2), (CAM, 3, 3)]
    # And back again: the lease is another one each time.
    assert (await begin(first)).marks == {3: 3}
    await until(lambda: machine.lost == [(0, CAM), (1, CAM)])
    assert await commit(first, message(epoch, 4)) == ([0], [])


async def test_where_a_session_goes_on_holds_what_was_under_way(machine: Machine) -> None:
    """The commit of the old worker stands still, while the device begins at the new one."""
    first, second = machine.join(), machine.join()
    epoch = (await begin(first)).epoch_id
    with contextlib.closing(SqliteStore(machine.path)) as other:
        other._writable.execute("BEGIN IMMEDIATE")  # type: ignore[union-attr]
        under_way = asyncio.create_task(commit(first, message(epoch, 1), message(epoch, 2)))
        await until(lambda: machine.server.writer.backlog == 2)
        beginning = asyncio.create_task(begin(second))
        await until(lambda: machine.lost == [(0, CAM)])
        assert not beginning.done()
        other._writable.execute("ROLLBACK")  # type: ignore[union-attr]
    assert (await beginning).marks == {3: 2}
    assert await under_way == ([0, 1], [])


async def test_what_a_hub_carries_comes_under_the_hubs_lease(machine: Machine) -> None:
    first, second = machine.join(), machine.join()
    hub = (await begin(first, HUB)).epoch_id
    carried = await cast(
        "Awaitable[SessionStart]",
        first.begin(CAM, OTHER, SessionAbout("hub", "192.0.2.1", is_here=False)),
    )
    await begin(second)  # the camera itself is at the other worker
    relayed = Relayed(*message(carried.epoch_id, 1))
    relayed.carrier = (hub, 1, 7)
    assert await commit(first, relayed) == ([0], [])
    assert machine.store.read("SELECT * FROM carried") == [(hub, 1, 7)]
    await begin(second, HUB, OTHER)
    late = Relayed(*message(carried.epoch_id, 2))
    late.carrier = (hub, 1, 8)
    assert await commit(first, late) == ([], [0])


async def test_what_a_hub_carries_says_whose_lease_counts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store with nodes of its own (PostgreSQL) looks at the hub's lease, too."""
    worker = machine.join()
    hub, epoch = (await begin(worker, HUB)).epoch_id, (await begin(worker)).epoch_id
    put: list[Message] = []
    real = machine.server.writer.put
    monkeypatch.setattr(
        machine.server.writer, "put", lambda one, token: (put.append(one), real(one, token))
    )
    relayed = Relayed(*message(epoch, 1))
    relayed.carrier = (hub, 1, 7)
    assert await commit(worker, relayed) == ([0], [])
    assert [cast("Relayed", one).hub for one in put] == [HUB]


async def test_a_session_does_not_begin_with_a_lease_that_is_gone(machine: Machine) -> None:
    """Two workers' sessions of one device begin while the disk stands still: one has it."""
    first, second, third = machine.join(), machine.join(), machine.join()
    epoch = (await begin(first)).epoch_id
    with contextlib.closing(SqliteStore(machine.path)) as other:
        other._writable.execute("BEGIN IMMEDIATE")  # type: ignore[union-attr]
        under_way = asyncio.create_task(commit(first, message(epoch, 1)))
        await until(lambda: machine.server.writer.backlog == 1)
        late = asyncio.create_task(begin(second))
        await until(lambda: machine.lost == [(0, CAM)])
        newest = asyncio.create_task(begin(third))
        await until(lambda: cast("Any", machine.server.leases[CAM].link).worker == 2)
        other._writable.execute("ROLLBACK")  # type: ignore[union-attr]
    with pytest.raises(StoreUnavailable):
        await late
    assert (await newest).marks == {3: 1}
    assert await under_way == ([0], [])
    assert await commit(third, message(epoch, 2)) == ([0], [])


async def test_a_store_process_that_died_finds_everything_again(machine: Machine) -> None:
    first, second = machine.join(), machine.join()
    epoch = (await begin(first)).epoch_id
    assert await commit(first, message(epoch, 1)) == ([0], [])
    await machine.restart()
    # A commit whose answer was lost is asked for again: it is no message twice.
    assert await commit(first, message(epoch, 1), message(epoch, 2)) == ([1], [])
    await until(lambda: machine.server.leases.get(CAM) is not None)
    # Its leases were told by the workers.
    assert (await begin(second)).marks == {3: 2}
    await until(lambda: machine.lost == [(0, CAM)])
    assert await commit(first, message(epoch, 3)) == ([], [0])


async def test_a_new_epochs_number_is_on_the_disk_before_it_is_used(machine: Machine) -> None:
    """Otherwise another device got the same number after a crash, and their messages mixed."""
    worker = machine.join()
    start = await begin(worker)
    rows = machine.store.read("SELECT id, device, epoch FROM epochs")
    assert rows == [(start.epoch_id, CAM, EPOCH)]
    await machine.restart()
    assert (await begin(worker, HUB, OTHER)).epoch_id != start.epoch_id


async def test_small_notes_go_with_the_next_commit(machine: Machine) -> None:
    worker = machine.join()
    epoch = (await begin(worker)).epoch_id
    worker.note_gap(CAM, epoch, 3, 1, 4)
    worker.set_boot(CAM, 77, 123_456)
    assert worker.defer_audit((NOW, "server", "device-refused", "cam-1", "{}"))
    assert worker.has_deferred
    assert worker.boot_offset(CAM, 77) == 123_456
    assert await commit(worker) == ([], [])
    assert not worker.has_deferred
    assert worker.boot_offset(CAM, 77) == 123_456
    store = machine.store
    assert store.read("SELECT first, last FROM gaps") == [(1, 4)]
    actions = store.read("SELECT action, device FROM audit ORDER BY id DESC LIMIT 1")
    assert actions == [("device-refused", "cam-1")]
    assert (await begin(worker)).marks == {3: 4}


async def test_without_a_store_process_nothing_is_acknowledged(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_LATE_S", 0.1)
    worker = machine.join()
    epoch = (await begin(worker)).epoch_id
    await machine.server.stop()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="store process"):
            await asyncio.to_thread(worker.commit, [message(epoch, 1)])
    beginning = asyncio.create_task(begin(worker))
    await machine.server.start(machine.folder)
    # What was asked for meanwhile is answered by the next one.
    assert (await beginning).epoch_id == epoch


async def test_a_commit_that_is_late_is_waited_for_and_not_sent_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_LATE_S", 0.05)
    worker = machine.join()
    batch = [message((await begin(worker)).epoch_id, 1)]
    with contextlib.closing(SqliteStore(machine.path)) as other:
        other._writable.execute("BEGIN IMMEDIATE")  # type: ignore[union-attr]
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="no commit within"):
                await asyncio.to_thread(worker.commit, batch)
        assert machine.server.writer.backlog == 1
        other._writable.execute("ROLLBACK")  # type: ignore[union-attr]
    monkeypatch.setattr(remote, "_LATE_S", PATIENCE_S)
    worker._sock.settimeout(PATIENCE_S)  # type: ignore[union-attr]
    done = await asyncio.to_thread(worker.commit, batch)
    assert (list(done.new), done.lost) == ([0], frozenset())
    assert machine.rows() == [(CAM, 3, 1)]


async def test_a_worker_that_talks_nonsense_is_hung_up_on(machine: Machine) -> None:
    for nonsense in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x02\x91\x05"):
        sock = await asyncio.to_thread(channel.connect, machine.folder, PATIENCE_S)
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        writer.write(nonsense)
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
        writer.close()
    assert (await begin(machine.join())).marks == {}


def test_the_socket_is_nobody_elses_and_the_path_may_be_long(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    sock = channel.listen(folder)
    try:
        assert (folder / channel.SOCKET).stat().st_mode & 0o777 == 0o600
        channel.connect(folder).close()
    finally:
        sock.close()
