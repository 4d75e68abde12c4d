"""`fleetnet serve --workers`: processes die under load, and the devices of the others go on."""

import asyncio
import json
import re
import signal
import time
import urllib.request
from pathlib import Path

from end_to_end.device_process import until
from end_to_end.fleet import free_port
from end_to_end.operating import fleetnet
from end_to_end.store_check import faults_of
from end_to_end.workers_rig import Sender, WorkersFleet
from fleetnet_server.identity.scopes import ADMIN
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.tokens import TokenTable


async def all_go_on(senders: list[Sender]) -> None:
    """Each is acknowledged something more."""
    await asyncio.gather(*(sender.until_acknowledged(2) for sender in senders))


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_dead_process_is_its_own_devices_matter(tmp_path: Path) -> None:
    async with WorkersFleet(tmp_path / "fleet", workers=3) as fleet:
        senders = await fleet.start_senders(6, "dtls") + await fleet.start_senders(2, "tls")
        where = {sender.name: fleet.worker_of(sender.name) for sender in senders}
        victim = where[senders[0].name]
        its_own = [sender for sender in senders if where[sender.name] == victim]
        others = [sender for sender in senders if sender not in its_own]
        assert others, where

        began = time.monotonic()
        await fleet.kill(victim)
        restarted_s = time.monotonic() - began
        await all_go_on(others)
        await all_go_on(its_own)
        back_s = time.monotonic() - began
        # Same session, same association, same worker: nobody else noticed.
        assert [len(s.device.session_ids) for s in others] == [1] * len(others), fleet.log()
        assert {s.device.connects for s in its_own} == {2}, [s.story() for s in its_own]
        over_dtls = [s for s in its_own if s in senders[:6]]
        # The kernel still gives their flow, which is a new one, to some worker; no worker left.
        assert all(fleet.worker_of(s.name) in fleet.pids() for s in over_dtls)

        ids = {sender.name: list(sender.device.session_ids) for sender in senders}
        began = time.monotonic()
        await fleet.kill("store")
        await all_go_on(senders)
        print({"restart_s": restarted_s, "back_s": back_s, "store_s": time.monotonic() - began})
        # What was not acknowledged waited at the workers: no device has noticed anything.
        assert {s.name: s.device.session_ids for s in senders} == ids, fleet.log()

        accounts = await fleet.finish_senders()
        assert faults_of(fleet.store, accounts) == []
        # Whose supervisor is gone ends as well, and the next server may come.
        left = fleet.pids().values()
        await fleet.kill_server()
        await fleet.start_server()
        assert not any(map(is_alive, left))


class Web:
    """The HTTP API, asked with a token."""

    def __init__(self, fleet: WorkersFleet, token: str):
        self._url = f"http://127.0.0.1:{fleet.ready['web_port']}"
        self._head = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    async def ask(self, path: str, body: object = None, method: str | None = None) -> str:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, self._head, method=method)  # noqa: S310

        def answer() -> str:
            with urllib.request.urlopen(request, timeout=30) as found:  # noqa: S310
                return str(found.read().decode())

        return await asyncio.to_thread(answer)

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = (await self.ask("/metrics")).splitlines()
        found = [line for line in lines if re.match(rf"{name}(\{{| )", line)]
        assert found, name
        return sum(float(line.rpartition(" ")[2]) for line in found)


async def until_metric(web: Web, name: str, wanted: float) -> None:
    async with asyncio.timeout(30):
        while (found := await web.metric(name)) != wanted:
            assert found < wanted or name.endswith("sessions"), (name, found)
            await asyncio.sleep(0.1)


async def one_view(fleet: WorkersFleet, web: Web) -> None:
    """API and metrics show the sessions of all workers, and their sums."""
    count = len(fleet.senders)
    await until_metric(web, "fleetnet_sessions", count)
    await until_metric(web, "fleetnet_worker_sessions", count)
    await until_metric(web, "fleetnet_sessions_opened_total", count)
    await until_metric(web, "fleetnet_worker_up", 2)
    found = json.loads(await web.ask("/api/v1/devices"))
    assert {row["name"] for row in found["items"]} == {one.name for one in fleet.senders}
    for row in found["items"]:
        assert row["connection"]["state"] == "online", row
        assert row["connection"]["messages"] > 0, row
    server = json.loads(await web.ask("/api/v1/server"))
    assert sum(server["online"].values()) == count
    await until_metric(web, "fleetnet_handshakes_total", count)
    assert await web.metric("fleetnet_messages_stored_total") > 0
    assert await web.metric("fleetnet_worker_messages_received_total") > 0
    assert (await web.ask("/readyz")).strip()


async def everybody_is_reached(fleet: WorkersFleet, web: Web) -> None:
    """Commands and configuration find their device at whichever worker it is."""
    both = [
        next(one for one in fleet.senders if fleet.worker_of(one.name) == worker)
        for worker in ("worker-0", "worker-1")
    ]
    for sender in both:
        path = f"/api/v1/devices/{sender.name}"
        answer = json.loads(
            await web.ask(f"{path}/call", {"name": "ping", "args": ["web"], "wait_s": 20})
        )
        assert (answer["state"], answer["result"]) == ("ok", f"{sender.name} web"), answer
        await web.ask(f"{path}/config", {"document": {"rate": 7}}, "PUT")
        await until(lambda s=sender: s.device.config.get("rate") == 7, "it has it")  # type: ignore[misc]
        # Each once, although every process looks into the same table.
        assert sender.ran == ["web"]
    said = await fleetnet(fleet, "call", both[0].name, "ping", '["cli"]')
    assert f"{both[0].name} cli" in said
    await until_metric(web, "fleetnet_commands_ended_total", 3)


async def the_newest_session_wins(fleet: WorkersFleet) -> None:
    """A device that comes to another worker: its session at the first one ends, as replaced."""
    old = fleet.senders[0]
    for _ in range(20):
        where = fleet.worker_of(old.name)
        new = Sender(old.name, fleet.folder / "devices" / old.name)
        await old.end_sending()
        await new.device.start()
        await until(lambda n=new: n.device.connects > 0, "it is here", explain=new.story)  # type: ignore[misc]
        await until(
            lambda o=old: "newer session" in str(o.device.heard),  # type: ignore[misc]
            "the old one heard of it", explain=old.story,
        )  # fmt: skip
        await old.device.stop(0)
        fleet.senders[0] = old = new
        if fleet.worker_of(old.name) != where:
            return
    raise AssertionError("the kernel gave all of twenty flows to one worker")


async def a_revoked_device_goes(fleet: WorkersFleet, web: Web) -> None:
    """Within seconds, from whichever worker."""
    for worker in ("worker-0", "worker-1"):
        sender = next(one for one in reversed(fleet.senders) if fleet.worker_of(one.name) == worker)
        await web.ask(f"/api/v1/devices/{sender.name}/revoke", {}, "POST")
        await until(lambda s=sender: "revoked" in str(s.device.heard), "it is told")  # type: ignore[misc]
        await sender.end_sending()
        await sender.device.stop(0)
        fleet.senders.remove(sender)


async def test_many_processes_are_one_server(tmp_path: Path) -> None:
    async with WorkersFleet(tmp_path / "fleet", workers=2, web_port=free_port()) as fleet:
        # All are at one worker by chance once in a hundred times: then some more come.
        await fleet.start_senders(4, "dtls")
        await fleet.start_senders(4, "tls")
        while len({fleet.worker_of(one.name) for one in fleet.senders}) < 2:
            await fleet.start_senders(2, "dtls")
        with SqliteStore(fleet.store) as store:
            web = Web(fleet, TokenTable(store).add("test", [ADMIN], "test", None))
        await one_view(fleet, web)
        await everybody_is_reached(fleet, web)
        await the_newest_session_wins(fleet)
        await a_revoked_device_goes(fleet, web)

        settings = fleet.folder / "fleetnet.toml"
        settings.write_text(settings.read_text() + "\nkeepalive_s = 77\n")
        fleet.signal_server(signal.SIGHUP)
        await until(
            lambda: {e["process"] for e in fleet.events("settings reloaded")} == set(fleet.pids()),
            "every process has read its settings", explain=fleet.log,
        )  # fmt: skip

        await fleetnet(fleet, "cert", "server")
        with SqliteStore(fleet.store) as store:
            # Every process has noticed it, and one writes it down.
            for action in ("certificates-reloaded", "settings-reloaded"):
                rows = "SELECT count(*) FROM audit WHERE action = ?"
                await until(lambda a=action: store.read(rows, (a,)) == [(1,)], action)  # type: ignore[misc]
        await until(lambda: len(fleet.events("certificates reloaded")) == 2, "both workers")

        senders = [one for one in fleet.senders if one.device.sent]
        await asyncio.gather(*(one.end_sending() for one in senders))
        assert await fleet.terminate_server() < 20
        for sender in senders:
            await until(lambda s=sender: "shutting down" in str(s.device.heard), "BYE")  # type: ignore[misc]
