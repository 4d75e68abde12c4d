"""policy.toml at work between a real server and real devices."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from end_to_end.device_process import until
from end_to_end.fleet import Fleet, name_of, runtimes
from end_to_end.operating import audit, fleetnet, until_noted
from end_to_end.store_check import faults_of, faults_of_keys
from end_to_end.test_commands import backend_of, online, ran, start
from fleetnet_server.config import Settings
from fleetnet_server.errors import CommandFailed, NotAllowed
from fleetnet_server.identity import pki
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.bundle import bundle_config
from fleetnet_server.identity.crl import Revoked, make_crl
from fleetnet_server.identity.files import replace_file
from fleetnet_server.store import schema
from fleetnet_server.store.query import query
from interpreters import Interpreter

OLDEST = runtimes()[0]
RUNTIMES = list(dict.fromkeys((OLDEST, None)))
LINKS = ("tls", "dtls")


def write_policy(fleet: Fleet, text: str) -> None:
    (fleet.folder / "policy.toml").write_text(text)


async def use_policy(fleet: Fleet, text: str) -> None:
    """Write it beside the running server, and wait until it is in force."""
    before = len(await audit(fleet, "policy-reloaded"))
    write_policy(fleet, text)
    async with asyncio.timeout(30):
        while len(await audit(fleet, "policy-reloaded")) == before:
            await asyncio.sleep(0.1)


def stranger(fleet: Fleet, name: str, link: str) -> Path:
    """A bundle by the fleet's CA for a device that is not registered."""
    authority = Authority.load(fleet.folder)
    issued = authority.issue_device(name)
    bundle = fleet.folder / "devices" / name
    bundle.mkdir()
    (bundle / "cert.der").write_bytes(issued.certificate)
    (bundle / "key.der").write_bytes(issued.key)
    (bundle / "ca.der").write_bytes(authority.bundle_anchor)
    config = bundle_config(fleet.folder, Settings(host="127.0.0.1"), name, link)
    config.update(tls_port=fleet.tls[1], dtls_port=fleet.dtls[1], server_hostname="localhost")
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def rows(fleet: Fleet, sql: str) -> list[tuple[object, ...]]:
    connection = schema.open_readable(fleet.store)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
@pytest.mark.parametrize("link", LINKS)
async def test_a_stranger_waits_in_quarantine(
    link: str, runtime: Interpreter | None, fleet: Fleet
) -> None:
    stranger(fleet, "new-1", link)
    device = await start(fleet, "new-1", link, runtime)
    await until(lambda: "not registered" in str(device.last("error")), "refused", 20, device.story)
    await device.kill()
    await use_policy(fleet, 'unknown = "quarantine"')
    device = await start(fleet, "new-1", link, runtime)
    await online(device)
    listed = json.loads(await fleetnet(fleet, "device", "list", "--state", "quarantined", "--json"))
    assert [one["name"] for one in listed] == ["new-1"]
    # No service has it: a command waits, and a configuration too.
    await fleetnet(fleet, "call", "new-1", "add", "[1,2]", "--expires", "1h")
    await asyncio.sleep(1.5)
    assert ran(fleet, "new-1") == []
    await fleetnet(fleet, "device", "enable", "new-1")
    await until(lambda: ran(fleet, "new-1") != [], "its command ran", 20, device.story)
    assert (await until_noted(fleet, "device-admit"))["detail"]["policy"] == "quarantine"
    await device.finish()


async def test_readings_from_quarantine_are_kept_back_and_not_lost(fleet: Fleet) -> None:
    await use_policy(fleet, 'unknown = "quarantine"')
    stranger(fleet, "new-1", "tls")
    device = await fleet.start_device("new-1", "tls", OLDEST)
    await device.until_acknowledged(10)
    assert list(query(fleet.store)) == []
    await fleetnet(fleet, "device", "enable", "new-1")
    await until(lambda: device.counter("connects") > 1, "it came anew", 20, device.story)
    await device.until_acknowledged(10)
    await device.finish()
    assert faults_of(fleet.store, [device.account()]) == []


async def test_a_stranger_is_accepted_and_a_removed_one_is_not(fleet: Fleet) -> None:
    await use_policy(fleet, 'unknown = "accept"')
    bundle = stranger(fleet, "new-1", "dtls")
    device = await fleet.start_device("new-1", "dtls", None)
    await device.until_acknowledged(5)
    kept = {path.name: path.read_bytes() for path in bundle.iterdir()}
    await fleetnet(fleet, "device", "remove", "new-1")
    await until(lambda: "not registered" in str(device.last("error")), "removed", 20, device.story)
    await device.kill()
    bundle.mkdir()
    for name, data in kept.items():
        (bundle / name).write_bytes(data)
    again = await fleet.start_device("new-1", "dtls", None)
    await until(lambda: "not registered" in str(again.last("error")), "refused", 20, again.story)


@pytest.mark.parametrize("link", LINKS)
async def test_a_forbidden_channel_is_stored_and_read_by_nobody(link: str, fleet: Fleet) -> None:
    device = await fleet.start_device("cam-1", link, OLDEST)
    free = await fleet.start_device("cam-2", link, None)
    await fleet.until_online()
    await fleetnet(fleet, "device", "set", "cam-1", "--group", "counters")
    await use_policy(fleet, '[group.counters]\nchannels = ["count"]\n')
    await device.until_acknowledged(20)
    bad = rows(fleet, "SELECT DISTINCT problem FROM messages WHERE problem IS NOT NULL")
    assert bad == [("policy: channel 'temperature' is not allowed to its group",)]
    await device.finish()
    await free.finish()
    # Acknowledged all the same, so that it is not sent for ever; the other group is untouched.
    assert device.counter("acknowledged") == device.counter("sent")
    assert device.last("connects") == 1
    assert faults_of(fleet.store, [free.account()]) == []
    denied = await audit(fleet, "policy-denied")
    assert [(row["device"], row["actor"]) for row in denied[:1]] == [("cam-1", "device:cam-1")]
    assert len(denied) <= 3  # not one for each message


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
@pytest.mark.parametrize("link", LINKS)
async def test_a_rate_holds_a_device_back_and_loses_nothing(
    link: str, runtime: Interpreter | None, fleet: Fleet
) -> None:
    rate = 0.5  # of messages; left alone the device packs a second's readings into one
    await use_policy(fleet, f"[group.default]\nmax_rate = {rate}\n")
    device = await fleet.start_device("cam-1", link, runtime, rate=20)
    await device.until_acknowledged(200)
    await device.finish()
    assert faults_of(fleet.store, [device.account()]) == []
    came = [int(str(at)) for (at,) in rows(fleet, "SELECT received FROM messages ORDER BY id")]
    # One at the beginning, and what was under way when the bucket ran empty.
    took_s = (came[-1] - came[0]) / 1000
    assert 3 <= len(came) <= rate * took_s + 2.5, (len(came), took_s)
    assert device.last("connects") == 1


@pytest.mark.parametrize("link", LINKS)
async def test_what_an_imported_list_revokes_goes_at_once(link: str, fleet: Fleet) -> None:
    # In quarantine it keeps its certificate; accepted, it would soon have one of ours.
    await use_policy(fleet, 'unknown = "quarantine"')
    bundle = stranger(fleet, "new-1", link)
    device = await fleet.start_device("new-1", link, OLDEST)
    other = await fleet.start_device("cam-1", link, None)
    await fleet.until_online()
    serial = pki.Credential((bundle / "cert.der").read_bytes(), b"").serial
    issuing = Authority.load(fleet.folder).generations[1].issuing
    (fleet.folder / "ca" / "crls").mkdir()
    crl = make_crl(issuing, [Revoked(serial, 1)], None)
    replace_file(fleet.folder / "ca" / "crls" / "theirs.der", crl)
    await until(lambda: "is revoked" in str(device.last("error")), "revoked", 20, device.story)
    await other.until_acknowledged(10)
    assert other.last("connects") == 1


async def test_commands_by_policy(idle: Fleet) -> None:
    fleet = idle
    fleet.add_device("cam-1", "tls")
    fleet.add_device("cam-2", "tls")
    before = await fleetnet(fleet, "call", "cam-1", "add", "[1,1]", "--expires", "1h", "--json")
    write_policy(fleet, '[group.default]\ncommands = ["fail"]\n[group.b]\nissuers = ["program"]\n')
    await fleetnet(fleet, "device", "set", "cam-2", "--group", "b")
    said = await fleetnet(fleet, "call", "cam-1", "add", "[1,2]", code=1)
    assert "not allowed: its group has no command 'add'" in said
    said = await fleetnet(fleet, "call", "cam-2", "add", "[1,2]", code=1)
    assert "may not give commands to its group" in said
    async with backend_of(fleet) as backend:
        first = await start(fleet, "cam-1", "tls", OLDEST)
        second = await start(fleet, "cam-2", "tls", None)
        await online(first)
        await online(second)
        with pytest.raises(NotAllowed, match="no command 'add'"):
            await backend.commands.call("cam-1", "add", [1, 2])
        with pytest.raises(CommandFailed):
            await backend.commands.call("cam-1", "fail")
        assert await backend.commands.call("cam-2", "add", [1, 2]) == {"sum": 3}
        with pytest.raises(NotAllowed, match="ann may not"):
            await backend.commands.call("cam-2", "add", [1, 2], issuer="ann")
        # Given before the policy was: it ends without being sent.
        command_id = json.loads(before.splitlines()[0])["id"]  # a note that no server runs follows
        deadline = time.monotonic() + 30
        while backend.commands.status(command_id).ended_ms is None and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        command = backend.commands.status(command_id)
        assert (command.state, command.sent_boot) == ("error", None)
        assert command.result[0] == "NotAllowed"
    assert [line for line in ran(fleet, "cam-1") if "add" in line] == []
    given = await audit(fleet, "command")
    assert [(row["actor"].partition(":")[0], row["device"]) for row in given] == [
        ("cli", "cam-1"), ("program", "cam-1"), ("program", "cam-2"),
    ]  # fmt: skip
    denied = [row["device"] for row in await audit(fleet, "command-denied")]
    assert sorted(denied) == ["cam-1", "cam-1", "cam-1", "cam-2", "cam-2"]


@pytest.fixture
async def idle(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A fleet whose server does not run."""
    made = Fleet(tmp_path / "fleet")
    try:
        yield made
    finally:
        await made.close()


async def test_a_broken_policy_stops_the_start_and_not_the_server(fleet: Fleet) -> None:
    device = await fleet.start_device("cam-1", "tls", None)
    await fleet.until_online()
    await use_policy(fleet, "[group.default]\nmax_rate = 1000\n")
    write_policy(fleet, "[group.default]\nmax_rat = 1\n")
    row = await until_noted(fleet, "policy-broken")
    assert "did you mean 'max_rate'" in row["detail"]["problem"]
    await device.until_acknowledged(10)
    await device.finish()
    assert faults_of_keys(fleet.store) == []
    await asyncio.sleep(1)
    assert fleet.log().count("max_rat'") == 1
    await fleet.terminate_server()
    assert "did you mean 'max_rate'" in await fleetnet(fleet, "serve", code=1)
