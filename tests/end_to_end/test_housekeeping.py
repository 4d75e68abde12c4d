"""Compaction, retention and backups beside a real server and real devices."""

import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from end_to_end.device_process import until
from end_to_end.fleet import Fleet, runtimes
from end_to_end.store_check import faults_of
from fleetnet_server.store import schema
from fleetnet_server.store.query import query

COMPACTING = Path(__file__).with_name("compacting_server.py")


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """A fleet whose server compacts all the time, with a device over TLS and one over DTLS."""
    async with Fleet(tmp_path / "fleet") as made:
        await made.terminate_server()
        await made.start_server(COMPACTING)
        for link, runtime in zip(("tls", "dtls"), (runtimes()[0], None), strict=True):
            await made.start_device(f"cam-{link}", link, runtime, rate=20)
        await made.until_online()
        yield made


def compacted(store: Path) -> int:
    connection = schema.open_readable(store)
    try:
        return int(connection.execute("SELECT coalesce(sum(n), 0) FROM chunks").get)
    finally:
        connection.close()


async def until_compacted(fleet: Fleet, more: int) -> None:
    goal = compacted(fleet.store) + more
    await until(
        lambda: compacted(fleet.store) >= goal, "readings are in chunks", explain=fleet.story
    )


async def run(fleet: Fleet, *arguments: str) -> str:
    done = await fleet.run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_server_that_compacts_and_is_killed_loses_nothing(fleet: Fleet) -> None:
    for _kill in range(3):
        await until_compacted(fleet, 60)
        await fleet.kill_server()
        before = fleet.counters("acknowledged")
        await fleet.start_server(COMPACTING)
        await until(
            lambda before=before: all(map(bool, fleet.gains("acknowledged", before))),  # type: ignore[misc]
            "all devices came back",
            explain=fleet.story,
        )
    accounts = await fleet.finish()
    assert faults_of(fleet.store, accounts) == []
    assert compacted(fleet.store) > 180


async def test_a_backup_under_load_goes_on_elsewhere(fleet: Fleet, tmp_path: Path) -> None:
    await until_compacted(fleet, 100)
    backup = tmp_path / "backup.tar"
    before = fleet.counters("acknowledged")
    await run(fleet, "store", "backup", str(backup))
    # What is acknowledged from here on, until the disk is gone, is what a backup cannot have.
    await until(
        lambda: min(fleet.gains("acknowledged", before)) > 100, "more came", explain=fleet.story
    )
    await fleet.kill_server()
    old, fleet.folder = fleet.folder, tmp_path / "restored"
    lost_at = {name: count // 2 for name, count in fleet.counters("acknowledged").items()}
    await run(fleet, "store", "restore", str(backup))
    for name in ("ca", "server", "devices", "secret.key"):
        if (old / name).is_dir():
            shutil.copytree(old / name, fleet.folder / name)
        elif (old / name).exists():
            shutil.copy(old / name, fleet.folder / name)
    had = {name: [] for name in before}  # type: dict[str, list[int]]
    for reading in query(fleet.store, channel="count"):
        had[reading.device].append(reading.value)
    await fleet.start_server(COMPACTING)
    again = fleet.counters("acknowledged")
    await until(
        lambda: min(fleet.gains("acknowledged", again)) > 100, "went on", explain=fleet.story
    )
    for account in await fleet.finish():
        values = [one.value for one in query(fleet.store, account.name, "count")]
        kept = len(had[account.name])
        assert had[account.name] == list(range(kept)), "a backup is the store of one moment"
        assert kept >= before[account.name] // 2, "what was acknowledged before is in it"
        assert [v for v, times in Counter(values).items() if times > 1] == []
        assert values[:kept] == had[account.name]
        # Everything that the lost server had not acknowledged is there.
        missing = sorted(set(range(account.sent // 2)) - set(values))
        assert missing == list(range(kept, kept + len(missing)))
        assert kept + len(missing) <= lost_at[account.name] + 60
        assert account.sent == account.acknowledged
