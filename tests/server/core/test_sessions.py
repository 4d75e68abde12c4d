"""The table of sessions: what changed between the handshake and HELLO counts; who is dismissed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from fleetnet import errors
from fleetnet.frame import OPTIONAL, READINGS
from fleetnet.receiver import Gap
from fleetnet_server.core import sessions as sessions_module
from fleetnet_server.identity.policy import Policy, Rules
from fleetnet_server.store.audit import AuditTable
from server.core.session_world import BODY, CHANGES, NOTED, Link, World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.stop()


@pytest.mark.parametrize("case", CHANGES)
async def test_a_link_that_greets_after_the_change_is_refused(case: str, world: World) -> None:
    """Whoever was let in by the handshake and waits with HELLO is judged again."""
    world.register()
    reason, change = CHANGES[case]
    for probe in (0, 1):
        link = world.accept(Link(probe=probe))
        if not probe:
            change(world.store)
            world.watch.look()
        link.hello()
        assert link.told() == [reason]
    assert world.sessions.live == {}
    assert "device-refused" in await world.actions()


@pytest.mark.parametrize("case", CHANGES)
async def test_a_live_session_is_dismissed_after_its_acknowledgements(
    case: str, world: World
) -> None:
    number = world.register()
    _reason, change = CHANGES[case]
    link = world.open(Link())
    assert link.told() == ["opened"]
    assert link.session.send(1, READINGS, BODY) == 1
    link.pump()
    change(world.store)
    world.watch.look()
    assert number in world.sessions.live  # until what came is durable
    await world.watch.stop()
    told = [type(event).__name__ for event in link.session.take_events()]
    assert told == ["Delivered", "Closed"]
    assert world.store.read("SELECT count(*) FROM messages") == [(1,)]
    link.pump()  # BYE_ACK
    assert world.sessions.live == {}
    assert world.commands._lines == {}


async def test_nothing_changes_for_others(world: World) -> None:
    world.register()
    link = world.open(Link())
    world.store.add_device("cam-2")
    world.store.set_enabled("cam-2", False)
    world.watch.look()
    await world.watch.stop()
    assert link.told() == ["opened"]
    assert world.watch.dismissed == 0


async def test_a_stranger_in_quarantine_has_no_service_until_it_is_enabled(world: World) -> None:
    world.sessions.use_policy(Policy("quarantine"))
    link = world.open(Link())
    async with asyncio.timeout(30):
        while not world.sessions.live:
            await asyncio.sleep(0.01)
    assert link.told() == ["opened"]
    (peer,) = world.sessions.live.values()
    assert (peer.is_quarantined, peer.capabilities, world.commands._lines) == (True, 0, {})
    link.session.send(1, NOTED, b'[1,"applied",0]')
    link.session.send_live(0, READINGS, BODY)
    link.pump()
    await world.writer.flush()
    assert world.store.read("SELECT kind FROM messages") == [(NOTED,)]
    world.store.set_enabled("cam-1", True)
    world.watch.look()
    await world.watch.stop()
    assert link.told() == [errors.NORMAL]
    link.pump()
    assert world.notes.heard == []
    again = world.open(Link())
    assert again.told() == ["opened"]
    again.session.send_live(0, READINGS, BODY)
    again.pump()
    assert world.notes.heard == ["opened", "received"]
    assert list(world.commands._lines) == [peer.device_id]


async def test_a_service_hears_of_its_kinds_with_the_optional_bit(world: World) -> None:
    """The bit is for who does not know the kind (docs/protocol.md section 2)."""
    world.register()
    link = world.open(Link())
    link.session.send(1, NOTED | OPTIONAL, b'[1,"applied",0]')
    link.session.send_live(0, READINGS | OPTIONAL, BODY)
    link.pump()
    await world.writer.flush()
    assert world.store.read("SELECT kind, problem FROM messages") == [(NOTED | OPTIONAL, None)]
    assert world.notes.heard == ["opened", "received", "durable"]


async def test_a_probe_registers_nobody(world: World) -> None:
    world.sessions.use_policy(Policy("accept"))
    assert world.open(Link(probe=1)).told() == [errors.NORMAL]
    assert world.store.devices() == []


async def test_two_devices_with_one_identity(world: World) -> None:
    world.register()
    links = [Link(boot=1, address="10.0.0.1"), Link(boot=2, address="10.0.0.2")]
    world.open(links[0])
    world.open(links[1])
    assert "duplicate-identity" not in await world.actions()
    world.open(Link(boot=1, address="10.0.0.1"))
    assert "duplicate-identity" in await world.actions()
    (row,) = AuditTable(world.store).entries(action="duplicate-identity")
    assert row.detail == {"addresses": ["10.0.0.1", "10.0.0.2"]}


async def test_rules_reach_a_session_that_lives(world: World) -> None:
    number = world.register()
    world.open(Link())
    peer = world.sessions.live[number]
    assert peer.rules is None
    rules = Rules(max_rate=1.0)
    world.sessions.use_policy(Policy("refuse", {"slow": rules}))
    assert peer.rules is None
    world.store.registry.change("cam-1", group="slow")
    world.watch.look()
    assert (peer.rules, peer.pace is not None) == (rules, True)
    world.sessions.use_policy(Policy())
    assert (peer.rules, peer.pace) == (None, None)


async def test_a_handshake_refused_again_is_one_line_and_names_whose_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[dict[str, object]] = []
    log = SimpleNamespace(warning=lambda event, **more: lines.append(more))
    monkeypatch.setattr(sessions_module, "_log", log)
    for number in range(4000, 4003):
        error = errors.CertificateExpired(f"10.0.0.1:{number}: the certificate has expired")
        error.certificate = world.credential.certificate
        world.sessions.handshake_refused("tls", ("10.0.0.1", number), error)
    stranger = errors.WrongCA("10.0.0.1:4000: another CA")
    world.sessions.handshake_refused("tls", ("10.0.0.1", 4000), stranger)
    await world.audit.stop()
    world.store.commit([])
    entries = AuditTable(world.store).entries(action="handshake-refused")
    assert [one.device for one in entries] == ["cam-1", None, "cam-1"]
    assert entries[-1].detail["count"] == 2
    assert [line.get("device") for line in lines] == ["cam-1", None]


async def test_a_device_that_gives_up_message_after_message_does_not_fill_the_log(
    world: World,
) -> None:
    with capture_logs() as lines:
        for number in (1, 2):
            peer = SimpleNamespace(device_id=number, name=f"cam-{number}", lost=0)
            for seq in range(40):
                world.sessions.noted_gap(peer, Gap(3, seq, seq))
    devices = [line["device"] for line in lines]
    assert devices == ["cam-1"] * 5 + ["cam-2"] * 5


async def test_a_device_with_a_fault_in_every_message_does_not_fill_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.register()
    link = world.open(Link())
    for _ in range(40):
        link.session.send(1, READINGS, b"[1,")
    link.pump()
    await world.writer.flush()
    assert world.router.problems == 40 == world.store.read("SELECT count(*) FROM messages")[0][0]
    told = [text for text in caplog.messages if "it is stored as it came" in text]
    assert len(told) == 5 and "device cam-1, stream 1, message 1: " in told[0]
