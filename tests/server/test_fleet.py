"""fleetnet_server.Fleet inside a program: readings, handlers, settings; no device needed."""

import asyncio
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from fleetnet.frame import READINGS
from fleetnet_server import Fleet
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.core.live import LiveReading
from fleetnet_server.errors import (
    ConfigError,
    DeviceOffline,
    FleetNotRunning,
    FolderError,
    StoreError,
)
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.identity.expiry import Expiry
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.upkeep import say

NOW = 1_800_000_000_000
PATIENCE_S = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "fleet"
    create_fleet(made, ("localhost",))
    with SqliteStore(made / "fleet.db") as store:
        for name in ("cam-1", "cam-2", "probe"):
            store.add_device(name)
    return made


@pytest.fixture
async def fleet(folder: Path) -> AsyncIterator[Fleet]:
    async with Fleet(folder, bind="127.0.0.1", tls_port=0, dtls_port=0) as made:
        yield made


def put(fleet: Fleet, device: str, seq: int, *values: tuple[str, Any]) -> None:
    store_reading(fleet.backend.store, device, seq, *values)


def store_reading(store: SqliteStore, device: str, seq: int, *values: tuple[str, Any]) -> None:
    """Commit one message as the writer does."""
    found = store.lookup(device)
    assert found is not None
    epoch = store.epoch_id(found.id, b"epoch-01")
    names = list(dict.fromkeys(name for name, _value in values))
    items = [[names.index(one), seq * 1000 + at, v] for at, (one, v) in enumerate(values)]
    body = json.dumps([NOW, 0, names, items]).encode()
    t0, t1, problem, kept = inspect_body(READINGS, body, lambda boot: None, NOW)
    assert problem is None
    store.commit([Message(found.id, epoch, 1, seq, READINGS, t0, t1, NOW, kept, problem)])


async def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


async def take(feed: AsyncIterator[Any], count: int) -> list[Any]:
    found = []
    async with asyncio.timeout(PATIENCE_S):
        async for reading in feed:
            found.append(reading)
            if len(found) == count:
                break
    return found


# -- readings ------------------------------------------------------------------------------


async def test_readings_begin_with_the_call_and_come_once(fleet: Fleet) -> None:
    put(fleet, "cam-1", 1, ("temp", 0))
    feed = fleet.readings()
    put(fleet, "cam-1", 2, ("temp", 1), ("hum", 2))
    put(fleet, "cam-2", 1, ("temp", 3))
    found = await take(feed, 3)
    assert [(one.device, one.channel, one.value) for one in found] == [
        ("cam-1", "temp", 1),
        ("cam-1", "hum", 2),
        ("cam-2", "temp", 3),
    ]
    put(fleet, "cam-2", 2, ("temp", 4))
    assert [one.value for one in await take(feed, 1)] == [4]
    await feed.aclose()
    assert [one async for one in feed] == []


async def test_readings_of_patterns(fleet: Fleet) -> None:
    one = fleet.readings(device="cam-1", channel="temp")
    cams = fleet.readings(device="cam-*", channel=["hum", "t*"])
    for name in ("probe", "cam-2", "cam-1"):
        put(fleet, name, 1, ("temp", 1), ("other", 2), ("hum", 3))
    assert [(r.device, r.channel) for r in await take(one, 1)] == [("cam-1", "temp")]
    assert [(r.device, r.channel) for r in await take(cams, 4)] == [
        ("cam-2", "temp"), ("cam-2", "hum"), ("cam-1", "temp"), ("cam-1", "hum"),
    ]  # fmt: skip


async def test_a_slow_reader_loses_nothing_and_holds_little(fleet: Fleet) -> None:
    feed = fleet.readings()
    first = asyncio.create_task(take(feed, 1))
    total = 5000
    for seq in range(1, total // 10 + 1):
        put(fleet, "cam-1", seq, *((f"c{n}", seq * 10 + n) for n in range(10)))
    found = await first
    behind = feed._behind
    await until(lambda: len(behind.found) == 4, "the thread waits")
    assert sum(map(len, behind.found)) <= 4 * 256
    found += await take(feed, total - 1)
    assert [one.value for one in found] == list(range(10, total + 10))


async def test_a_reader_that_leaves_ends_its_thread(fleet: Fleet) -> None:
    async def leave() -> Any:
        feed = fleet.readings()
        put(fleet, "cam-1", 1, ("temp", 1))
        await take(feed, 1)
        return feed._behind.thread

    thread = await leave()
    await until(lambda: not thread.is_alive(), "the thread ended")


async def test_the_end_of_the_fleet_is_the_end_of_its_readings(folder: Path) -> None:
    async with Fleet(folder, bind="127.0.0.1", tls_port=0, dtls_port=0) as fleet:
        feed, live = fleet.readings(), fleet.readings(live=True)
        waiting = [asyncio.create_task(take(feed, 9)), asyncio.create_task(take(live, 9))]
        await asyncio.sleep(0)
    assert [await one for one in waiting] == [[], []]
    with pytest.raises(FleetNotRunning, match="async with"):
        fleet.readings()


async def test_query_streams_in_pages(fleet: Fleet) -> None:
    for seq in range(1, 122):
        put(fleet, "cam-1", seq, *((f"c{n}", n) for n in range(10)))
    found = [one async for one in fleet.query("cam-1")]
    assert len(found) == 1210
    assert found == sorted(found, key=lambda one: one.unix_ms or 0)
    first = [one async for one in fleet.query("cam-*", "c3", until_ms=NOW + 5000)]
    assert [one.unix_ms for one in first] == [NOW + seq * 1000 + 3 for seq in range(1, 5)]
    assert [one async for one in fleet.query(since_ms=NOW + 500_000)] == []
    with pytest.raises(StoreError, match="not registered"):
        [one async for one in fleet.query("nobody")]


# -- handlers ------------------------------------------------------------------------------


async def test_handlers_do_not_disturb_one_another(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    good: list[Any] = []
    in_thread: list[Any] = []
    never = asyncio.Event()

    @fleet.on_reading
    async def works(reading: Any) -> None:
        good.append(reading.value)

    @fleet.on_reading(device="cam-*")
    async def raises(reading: Any) -> None:
        raise RuntimeError("of its own making")

    @fleet.on_reading()
    async def hangs(reading: Any) -> None:
        await never.wait()

    @fleet.on_reading(channel="c1")
    def blocks(reading: Any) -> None:
        time.sleep(0.001)
        in_thread.append(reading.value)

    @fleet.on_reading
    async def is_cancelled(reading: Any) -> None:
        raise asyncio.CancelledError

    total = 3000
    for seq in range(1, total // 10 + 1):
        put(fleet, "cam-1", seq, *((f"c{n}", seq * 10 + n) for n in range(10)))
    await until(lambda: len(good) == total, "the good one had all")
    await until(lambda: len(in_thread) == total // 10, "the one in a thread had its own")
    assert good == list(range(10, total + 10))
    by_name = {one.name.rpartition(".")[2]: one for one in fleet.handlers}
    await until(lambda: by_name["is_cancelled"].failures == total, "each of its calls failed")
    assert (by_name["works"].calls, by_name["works"].dropped) == (total, 0)
    assert by_name["raises"].failures == total
    assert by_name["raises"].last_error == "RuntimeError: of its own making"
    hanging = by_name["hangs"]
    assert (hanging.calls, hanging.waiting, hanging.dropped) == (1, 1024, total - 1025)
    told = [one for one in caplog.records if "raises" in one.getMessage()]
    assert len(told) == 1 and told[0].exc_info


async def test_a_handler_of_live_readings_and_one_that_came_before_the_fleet(
    folder: Path,
) -> None:
    fleet = Fleet(folder, bind="127.0.0.1", tls_port=0, dtls_port=0)
    stored: list[Any] = []
    live: list[Any] = []

    @fleet.on_reading
    async def keep(reading: Any) -> None:
        stored.append(reading.value)

    @fleet.on_reading(live=True, channel="angle")
    async def watch(reading: LiveReading) -> None:
        live.append(reading.value)

    async with fleet:
        put(fleet, "cam-1", 1, ("temp", 7))
        for watcher in list(fleet.backend.live._watchers):
            watcher.put(LiveReading("cam-1", "angle", NOW, 90))
            watcher.put(LiveReading("cam-1", "temp", NOW, 1))
        await until(lambda: (stored, live) == ([7], [90]), "each had its own")


def test_a_function_that_never_returns_does_not_keep_a_program_from_ending(folder: Path) -> None:
    program = """
import asyncio, sys, threading
from fleetnet_server import Fleet
async def main():
    called = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with Fleet(sys.argv[1], bind="127.0.0.1", tls_port=0, dtls_port=0) as fleet:
        @fleet.on_reading
        def block(reading):
            loop.call_soon_threadsafe(called.set)
            threading.Event().wait()
        fleet.backend.events  # the fleet runs
        print("ready", flush=True)
        await called.wait()
    print("ended", flush=True)
asyncio.run(main())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with SqliteStore(folder / "fleet.db") as store:
        store_reading(store, "cam-1", 1, ("temp", 1))
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "ended\n")


async def test_what_a_function_in_a_thread_raises_is_counted(fleet: Fleet) -> None:
    @fleet.on_reading
    def leaves(reading: Any) -> None:
        raise SystemExit(3)

    @fleet.on_reading
    def stops(reading: Any) -> None:
        raise StopIteration

    put(fleet, "cam-1", 1, ("temp", 1), ("temp", 2))
    await until(lambda: [one.failures for one in fleet.handlers] == [2, 2], "both were counted")
    assert [one.last_error for one in fleet.handlers] == [
        "RuntimeError: SystemExit: 3", "RuntimeError: coroutine raised StopIteration",
    ]  # fmt: skip


# -- in a program of its own ---------------------------------------------------------------


async def test_settings_that_the_program_gives_win(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETNET_TLS_PORT", "1")
    assert Fleet(folder).settings.tls_port == 1
    assert Fleet(folder, tls_port=0).settings.tls_port == 0
    with pytest.raises(ConfigError, match="tls_prot"):
        Fleet(folder, tls_prot=0)
    with pytest.raises(ConfigError, match=r"tls_port.*70000"):
        Fleet(folder, tls_port=70_000)
    with pytest.raises(ConfigError, match="fleetnet init"):
        Fleet(folder / "nowhere")


async def test_a_second_one_is_refused(fleet: Fleet) -> None:
    with pytest.raises(FolderError, match="another"):
        async with Fleet(fleet.folder, tls_port=0, dtls_port=0):
            pass
    with pytest.raises(StoreError, match="device list"):
        fleet.device("nobody")
    assert [one.name for one in fleet.devices("cam-*")] == ["cam-1", "cam-2"]
    device = fleet.device("cam-1")
    assert not device.is_online and device.config is None and device.latest == {}
    assert await device.latest_frame() is None
    with pytest.raises(DeviceOffline, match=r"did not come in 0\.01 s"):
        await device.online(0.01)
    assert await device.set_config({"rate": 5}) == 1
    assert device.config is not None and device.config.document == {"rate": 5}
    with pytest.raises(ValueError, match="not both"):
        await device.call("x", 1, y=2)
    assert fleet.backend.commands.status(await device.queue("blink", times=3)).args == {"times": 3}


async def test_signals_and_logging_stay_the_program_s(folder: Path) -> None:
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(one) for one in wanted]
    handlers = list(logging.getLogger().handlers), logging.getLogger().level
    async with Fleet(folder, bind="127.0.0.1", tls_port=0, dtls_port=0):
        assert [signal.getsignal(one) for one in wanted] == before
        assert (list(logging.getLogger().handlers), logging.getLogger().level) == handlers


async def test_a_detail_may_be_called_as_logging_calls_its_own(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """The task that renews the server's certificate ended with the first warning about a CA."""
    say([Expiry("ca", "root 1", 1000, "urgent")])
    (line,) = [one for one in caplog.records if one.getMessage() == "certificate ends"]
    assert (line.name, vars(line)["name_"]) == ("fleetnet.certificates", "root 1")
    assert (vars(line)["kind"], vars(line)["level"]) == ("ca", "urgent")


def test_nothing_is_printed_and_structlog_stays_as_the_program_has_it(folder: Path) -> None:
    program = """
import asyncio, sys
from fleetnet_server import Fleet
async def main():
    async with Fleet(sys.argv[1], bind="127.0.0.1", tls_port=0, dtls_port=0):
        pass
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        capture_output=True, text=True, timeout=60, check=False,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_name_is_made_when_it_is_asked_for() -> None:
    program = "import sys, fleetnet_server; print('apsw' in sys.modules); fleetnet_server.Fleet"
    program += "; print('apsw' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.stdout.split() == ["False", "True"]
    assert structlog is not None
