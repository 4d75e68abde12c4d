"""Certificates change under a server that works: no session ends, nothing is lost, and whoever
connects from then on meets the new ones.

Devices of each runtime send readings over TLS and DTLS all the time.
"""

import asyncio
import glob
import json
import os
import re
import signal
import subprocess

import pytest

from end_to_end.device_process import until
from end_to_end.fleet import Fleet, name_of, runtimes
from end_to_end.store_check import faults_of
from fleetnet_server.identity.generations import read_ledger, write_ledger
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.store.sqlite import SqliteStore

YEAR_2000 = "@2000-01-01 00:00:00"
NOT_RELOADED = "certificates not reloaded"


async def start(fleet: Fleet, clock: str = "", suffix: str = "") -> None:
    """Start a device of each runtime over each link, and wait until all are heard."""
    for runtime in runtimes():
        for link in ("tls", "dtls"):
            name = f"{name_of(runtime)}-{link}{suffix}"
            await fleet.start_device(name, link, runtime, clock=clock)
    await fleet.until_online()


async def fleetnet(fleet: Fleet, *arguments: str) -> str:
    """Run a command beside the server; return what it printed."""
    done = await fleet.run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


async def seen_serials(fleet: Fleet) -> list[int]:
    """The serial numbers that OpenSSL's client sees over TLS and DTLS."""
    seen = []
    for (host, port), options in ((fleet.tls, []), (fleet.dtls, ["-dtls1_2"])):
        command = ["openssl", "s_client", "-connect", f"{host}:{port}", *options]
        done = await asyncio.to_thread(
            subprocess.run, command, input=b"", capture_output=True, timeout=30, check=False
        )
        found = re.search(rb"-----BEGIN CERTIFICATE-----.*?-----END[^\n]*", done.stdout, re.S)
        assert found, done.stderr
        command = ["openssl", "x509", "-noout", "-serial"]
        shown = await asyncio.to_thread(
            subprocess.run, command, input=found[0], capture_output=True, check=True
        )
        seen.append(int(shown.stdout.partition(b"=")[2], 16))
    return seen


async def until_seen(fleet: Fleet, serial: int) -> None:
    """Wait until new connections get this certificate, and readings went on arriving."""
    before = fleet.counters("acknowledged")
    for _ in range(100):
        if (seen := await seen_serials(fleet)) == [serial, serial]:
            break
        await asyncio.sleep(0.1)
    assert seen == [serial, serial], fleet.log()
    if fleet.devices:
        await until(lambda: min(fleet.gains("acknowledged", before)) > 20, "readings go on")


async def test_everything_changes_and_no_session_ends(fleet: Fleet) -> None:
    await start(fleet)
    keys = ServerKeys(fleet.folder)
    await until_seen(fleet, keys.serial)
    # The same key.
    await fleetnet(fleet, "cert", "server")
    assert ServerKeys(fleet.folder).serial != keys.serial
    await until_seen(fleet, ServerKeys(fleet.folder).serial)
    assert {device.counter("connects") for device in fleet.devices} == {1}, fleet.story()
    # Another one.
    answer = json.loads(await fleetnet(fleet, "cert", "server", "--change-key", "--json"))
    assert answer["pins"][0] == keys.pins()[1]
    await until_seen(fleet, int(answer["serial"], 16))
    # Another CA comes; a device of it comes in, and stays when the CA goes.
    ledger = read_ledger(fleet.folder)
    await fleetnet(fleet, "ca", "rotate")
    late = await fleet.start_device("late", "dtls", None)
    await until(lambda: late.counter("acknowledged") > 0, "it came in", explain=fleet.log)
    write_ledger(fleet.folder, ledger)
    await until_seen(fleet, int(answer["serial"], 16))
    assert faults_of(fleet.store, await fleet.finish()) == []
    offered = rotations_offered(fleet)
    for device in fleet.devices:
        sessions = device.counter("connects")
        assert sessions <= 1 + offered.get(device.name, 0), (offered, device.story())


def rotations_offered(fleet: Fleet) -> dict[str, int]:
    """How often each device was offered new pins or anchors: it takes them, and then ends its
    session for one with the new identity. No other session may have ended."""
    with SqliteStore(fleet.store) as store:
        return dict(
            store.read(
                "SELECT d.name, count(*) FROM identities AS i JOIN devices AS d"
                " ON d.id = i.device GROUP BY d.name"
            )
        )


async def test_a_bad_file_is_said_and_changes_nothing(fleet: Fleet) -> None:
    """Once when it is noticed, and once for each SIGHUP."""
    await start(fleet)
    serial = ServerKeys(fleet.folder).serial
    path = fleet.folder / "server" / "key.der"
    good = path.read_bytes()
    path.write_bytes((fleet.folder / "server" / "next-key.der").read_bytes())
    await until(lambda: fleet.log().count(NOT_RELOADED) == 1, "it is said", explain=fleet.log)
    await until_seen(fleet, serial)
    assert fleet._server is not None
    for times in (2, 3):
        os.kill(fleet._server.pid, signal.SIGHUP)
        await until(lambda n=times: fleet.log().count(NOT_RELOADED) == n, "again")  # type: ignore[misc]
    assert "key.der is not the key of" in fleet.log()
    path.write_bytes(good)
    await fleetnet(fleet, "cert", "server")
    await until_seen(fleet, ServerKeys(fleet.folder).serial)
    assert faults_of(fleet.store, await fleet.finish()) == []
    assert {device.counter("connects") for device in fleet.devices} == {1}, fleet.story()


async def test_devices_without_a_date_come_in_after_a_change_of_key(fleet: Fleet) -> None:
    """They pinned the current key and the next one; with the one after they would not."""
    if not glob.glob("/usr/lib/*/faketime/libfaketime.so.1"):
        pytest.skip("faketime is not installed")
    for runtime in runtimes():
        for link in ("tls", "dtls"):
            fleet.add_device(f"{name_of(runtime)}-{link}", link)
    fleet.add_device("stranger", "tls")
    await fleetnet(fleet, "cert", "server", "--change-key")
    await until_seen(fleet, ServerKeys(fleet.folder).serial)
    await start(fleet, YEAR_2000)
    assert faults_of(fleet.store, await fleet.finish(), has_dates=False) == []
    # The key that nobody has pinned: it needs --force, and such a device says why it stays out.
    await fleetnet(fleet, "cert", "server", "--change-key", "--force")
    fleet.devices.clear()
    await until_seen(fleet, ServerKeys(fleet.folder).serial)
    stranger = await fleet.start_device("stranger", "tls", None, clock=YEAR_2000)
    await until(lambda: bool(stranger.errors()), "it says why", explain=stranger.story)
    assert "none of the 2 pinned" in stranger.errors()[0], stranger.errors()


async def test_the_server_renews_itself_under_its_devices(fleet: Fleet) -> None:
    """A certificate of seconds, put in force while sessions live, is replaced in time."""
    await start(fleet)
    short = fleet.environment() | {"FLEETNET_SERVER_LIFETIME_S": "6"}
    process = await asyncio.create_subprocess_exec(
        *fleet.command("cert", "server"), stdout=asyncio.subprocess.DEVNULL, env=short
    )
    assert await process.wait() == 0
    serial = ServerKeys(fleet.folder).serial
    await until(lambda: ServerKeys(fleet.folder).serial != serial, "it is renewed", 30.0)
    renewed = ServerKeys(fleet.folder)
    assert renewed.not_after_ms - renewed.not_before_ms > 800 * 86_400_000
    await until_seen(fleet, renewed.serial)
    assert faults_of(fleet.store, await fleet.finish()) == []
    assert {device.counter("connects") for device in fleet.devices} == {1}, fleet.story()
