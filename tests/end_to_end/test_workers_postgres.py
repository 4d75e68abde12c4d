"""`fleetnet serve --workers` with PostgreSQL: all processes are one node; some of them die."""

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed")

from end_to_end.device_process import until
from end_to_end.test_workers import all_go_on
from end_to_end.workers_rig import WorkersFleet
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.postgres.store import PostgresStore
from fleetnet_server.store.query import query
from server.store.postgres_server import PostgresServer


async def test_one_node_of_many_processes(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    place = postgres.database()
    made = WorkersFleet(tmp_path / "fleet", workers=2, place=place)
    postgres.settings(place, made.folder)  # the password
    async with made as fleet:
        senders = await fleet.start_senders(4, "tls")
        while len({fleet.worker_of(one.name) for one in senders}) < 2:
            senders += await fleet.start_senders(1, "tls")
        with open_store(place) as store:
            assert len(store.read("SELECT name FROM nodes")) == 1
            held = store.read("SELECT node FROM leases WHERE node != ''")
        assert len(held) == len(senders) and len(set(held)) == 1

        with open_store(place) as store:
            await until(
                lambda: store.read("SELECT sessions FROM nodes") == [(len(senders),)],
                "the node tells of all workers' sessions",
            )

        # Another machine takes a device: its worker hears of it, and lets it go.
        other = PostgresStore(place, node="other")
        try:
            device = other.lookup(senders[0].name)
            assert device is not None
            await asyncio.to_thread(other.begin_now, device.id, b"8 bytes.")
            await until(
                lambda: "newer session" in str(senders[0].device.heard), "it was told",
                explain=fleet.log,
            )  # fmt: skip
        finally:
            await asyncio.to_thread(other.close)
        await all_go_on(senders)
        assert [one.device.connects for one in senders[1:]] == [1] * len(senders[1:])

        victim = fleet.worker_of(senders[0].name)
        others = [one for one in senders[1:] if fleet.worker_of(one.name) != victim]
        await fleet.kill(victim)
        await all_go_on(senders)
        assert [one.device.connects for one in others] == [1] * len(others)
        # The node's leases were the dead process's: every device begins anew.
        await fleet.kill("store")
        await all_go_on(senders)

        # Without the database its devices are sent away: another machine may have it.
        before = {one.name: len(one.device.heard) for one in senders}
        with postgres.frozen():
            await until(
                lambda: all(
                    "store is unavailable" in str(one.device.heard[before[one.name] :])
                    for one in senders
                ),
                "all are sent away", explain=fleet.log,
            )  # fmt: skip
        await all_go_on(senders)

        accounts = await fleet.finish_senders()
        for account in accounts:
            found = [one.value for one in query(place, account.name) if one.channel == "count"]
            assert account.sent == account.acknowledged == 2 * len(found), (account, len(found))
            assert found == list(range(len(found)))
        assert await fleet.terminate_server() < 20
        with open_store(place) as store:
            await until(lambda: not store.read("SELECT name FROM nodes"), "it has left")
