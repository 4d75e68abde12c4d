"""The server is killed, or told to end, while devices send: nothing acknowledged is lost.

FLEETNET_KILLS=20 makes the proof longer; FLEETNET_FIGURES=FILE collects its figures.
"""

import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from end_to_end.device_process import until
from end_to_end.fleet import Fleet, runtimes
from end_to_end.store_check import Account, faults_of, longest_silence_s
from fleetnet_server.store import schema
from fleetnet_server.store.query import query
from interpreters import Interpreter

HASTY = Path(__file__).with_name("hasty_server.py")
KILLS = int(os.environ.get("FLEETNET_KILLS", "5"))
FIGURES = os.environ.get("FLEETNET_FIGURES")


# What is received waits so long for its commit: every kill meets messages in that state.
COMMIT_INTERVAL_MS = 500


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """A fleet whose server commits rarely."""
    async with Fleet(tmp_path / "fleet", COMMIT_INTERVAL_MS) as made:
        yield made


async def start_devices(fleet: Fleet) -> None:
    """Two MicroPythons and two CPythons, one of each on TLS and on DTLS."""
    for link, runtime in zip(("tls", "dtls", "tls", "dtls"), four_runtimes(), strict=True):
        number = len(fleet.devices) + 1
        await fleet.start_device(f"cam-{number}", link, runtime, rate=20)


def four_runtimes() -> list[Interpreter | None]:
    micropythons = [runtime for runtime in runtimes() if runtime is not None]
    if not micropythons:
        pytest.skip("no MicroPython on this machine")
    return [micropythons[0], micropythons[-1], None, None]


async def test_killed_server_loses_nothing(fleet: Fleet, tmp_path: Path) -> None:
    await start_devices(fleet)
    await fleet.until_online()
    for _ in range(KILLS):
        await fleet.kill_server()
        before = fleet.counters("acknowledged")
        await fleet.start_server()
        # Half of the fleet is back and the rest on its way, when the next one comes.
        await until(
            lambda before=before: sum(map(bool, fleet.gains("acknowledged", before))) >= 2,  # type: ignore[misc]
            "two devices came back",
            explain=fleet.story,
        )
    await fleet.until_online()
    accounts = await fleet.finish()
    silence = longest_silence_s(fleet.store)
    figures = {
        "kills": fleet.starts - 1,
        "sent": sum(account.sent for account in accounts),
        "acknowledged": sum(account.acknowledged for account in accounts),
        "connects": fleet.counters("connects"),
        "stored": sum(1 for _ in query(fleet.store)),
        "longest_silence_s": silence,
    }
    print(figures)
    if FIGURES:
        Path(FIGURES).write_text(json.dumps(figures))
    assert faults_of(fleet.store, accounts) == []
    assert figures["kills"] == KILLS
    assert min(fleet.counters("connects").values()) > 1, figures
    check_that_faults_are_seen(fleet.store, tmp_path, accounts)


ONE_MESSAGE = "(SELECT max(id) / 2 FROM messages)"
FAULTS = {
    "lost": f"DELETE FROM messages WHERE id = {ONE_MESSAGE}",
    "doubled": "INSERT INTO messages(device, epoch, stream, seq, kind, t0, t1, received, body)"
    " SELECT device, epoch, stream, 1000000, kind, t0, t1, received, body FROM messages"
    f" WHERE id = {ONE_MESSAGE}",
    "out of order": "UPDATE messages SET seq = seq + 1000000"
    " WHERE id = (SELECT min(id) FROM messages)",
}


def check_that_faults_are_seen(store: Path, folder: Path, accounts: list[Account]) -> None:
    """Control: the check that was passed, given a copy of the store with one fault, fails."""
    for fault, statement in FAULTS.items():
        path = folder / f"{fault}.db"
        source = schema.open_readable(store)
        source.execute("VACUUM INTO ?", (str(path),))
        source.close()
        assert faults_of(path, accounts) == []
        spoilt = apsw.Connection(str(path))
        spoilt.execute(statement)
        assert spoilt.total_changes() == 1, fault
        spoilt.close()
        assert faults_of(path, accounts) != [], f"a store with a reading {fault} passes"


async def test_control_a_server_that_acknowledges_too_early_is_found(fleet: Fleet) -> None:
    """The whole way once more, with a server that does what none may do."""
    await fleet.terminate_server()
    await fleet.start_server(HASTY)
    await fleet.start_device("cam-1", "tls", None)
    await fleet.until_online()
    await fleet.kill_server()
    await fleet.start_server()
    await fleet.until_online()
    faults = faults_of(fleet.store, await fleet.finish())
    assert any("cam-1: counts [0, 1, 2, 3, 4] are lost" in fault for fault in faults), faults


async def test_told_to_end_server_keeps_what_it_received(fleet: Fleet) -> None:
    await start_devices(fleet)
    await fleet.until_online()
    took_s = await fleet.terminate_server()
    await until(
        lambda: all(any("shutting down" in e for e in d.errors()) for d in fleet.devices),
        "every device got BYE with the reason shutdown",
        explain=fleet.story,
    )
    # What the server had, it acknowledged before it ended.
    held = Counter(reading.device for reading in query(fleet.store))
    assert fleet.counters("acknowledged") == held
    await fleet.start_server()
    await fleet.until_online()
    accounts = await fleet.finish()
    print({"end_s": round(took_s, 2), "longest_silence_s": longest_silence_s(fleet.store)})
    assert faults_of(fleet.store, accounts) == []
    assert [device.counter("connects") for device in fleet.devices] == [2] * len(accounts)
