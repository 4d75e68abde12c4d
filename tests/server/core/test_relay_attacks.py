"""Hubs that lie: they speak for their own sensors only, and exhaust nothing."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleetnet import errors, relay
from fleetnet import frame as wire
from fleetnet.handshake import (
    CAN_COMMAND,
    CAN_CONFIGURE,
    decode_welcome,
)
from fleetnet_server.core.rates import RateTable
from fleetnet_server.identity import pki
from server.core.relay_rig import CA, CAM, HUB, OTHER, Link, World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.stop()


@pytest.mark.parametrize(
    ("name", "serial", "reason"),
    [
        ("other", 0, errors.UNKNOWN_DEVICE),  # registered, not assigned
        ("hub-2", 0, errors.UNKNOWN_DEVICE),
        ("nobody", 77, errors.UNKNOWN_DEVICE),
        ("../x", 77, errors.UNKNOWN_DEVICE),
        ("cam", OTHER.serial, errors.NO_IDENTITY),  # another device's certificate
        ("cam", HUB.serial, errors.NO_IDENTITY),
        ("cam", 77, errors.NO_IDENTITY),
    ],
    # Serials are drawn anew; the names of tests are the same in each of several processes.
    ids=("other", "hub", "nobody", "path", "others-serial", "hubs-serial", "no-serial"),
)
async def test_a_hub_speaks_only_for_its_own(
    name: str, serial: int, reason: int, world: World
) -> None:
    hub = Link(world, "hub-1").hello()
    hub.announce(1, name, serial)
    assert hub.answers() == [-reason]
    hub.carry(1, 1)
    await world.settle(hub)
    ((count,),) = world.store.read("SELECT count(*) FROM messages")
    assert count == 0 and set(world.sessions.live) == {hub.peer.device_id}
    assert "device-refused" in await world.actions()


async def test_a_revoked_certificate_of_the_sensor_is_not_good(world: World) -> None:
    world.store.registry.revoke_certificate(CAM.serial)
    renewed = pki.issue_device(CA, "cam")
    device = world.store.lookup("cam")
    assert device is not None
    world.store.add_certificate(device.id, renewed.serial, renewed.not_after_ms)
    hub = Link(world, "hub-1").hello()
    hub.announce(1, "cam", CAM.serial)
    hub.announce(2, "cam", renewed.serial, nonce=b"next")
    assert hub.answers() == [-errors.REVOKED, wire.WELCOME]


@pytest.mark.parametrize(
    "kind", [wire.CREDENTIAL_STATE, wire.CREDENTIAL, wire.BLOB, wire.RELAY, wire.HELLO]
)
async def test_what_is_not_relayed_ends_the_hubs_session(kind: int, world: World) -> None:
    """A hub that could ask for its sensor's certificate would be that sensor for ever."""
    hub = Link(world, "hub-1").hello()
    hub.announce(1, "cam")
    hub.carry(1, 1, kind=kind)
    hub.pump()
    assert hub.endings == [errors.PROTOCOL] and "relay-broken" in await world.actions()


async def test_one_alias_for_two_sensors_ends_the_hubs_session(world: World) -> None:
    world.hubs.assign("hub-1", ["other"])
    hub = Link(world, "hub-1").hello()
    hub.announce(1, "cam")
    hub.announce(1, "other")
    assert hub.endings == [errors.PROTOCOL]


async def test_a_device_that_is_no_hub_gets_nothing_in(world: World) -> None:
    other = Link(world, "other").hello()
    other.announce(1, "cam")
    assert other.answers() == [-errors.UNKNOWN_DEVICE]


async def test_aliases_do_not_exhaust_the_back_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Link(world, "hub-1").hello()
    line = world.relays._lines[hub.peer.device_id]
    monkeypatch.setattr(world.relays, "_rates", RateTable(1.0, 140))
    for alias in range(1, 200):
        hub.announce(alias, "cam", nonce=alias.to_bytes(4, "big"), epoch=os.urandom(8), age_ms=None)
    assert len(line.origins) == 2 * relay.MAX_ORIGINS
    answers = hub.answers()
    assert 140 <= len(answers) < 150, "the others are not even looked at"
    monkeypatch.setattr(world.relays, "_rates", RateTable(1000.0, 1000))
    for alias in range(1000, 1070):
        hub.announce(alias, "cam", nonce=alias.to_bytes(4, "little"), epoch=os.urandom(8))
    assert -errors.OVERLOADED in hub.answers(), "a device has so many sessions a second, no more"
    assert len(world.sessions.live) <= 2


async def test_messages_wait_for_their_announcement_and_not_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Link(world, "hub-1").hello()
    hub.carry(1, 1)
    hub.carry(2, 1)
    hub.carry(1, 2)
    await world.settle(hub)
    assert world.stored("cam") == [] and hub.unacknowledged() == 3
    hub.announce(1, "cam")
    await world.settle(hub)
    hub.carry(1, 3)
    await world.settle(hub)
    assert world.stored("cam") == [(3, 1)] and hub.unacknowledged() == 3, "nothing overtakes"
    monkeypatch.setattr("fleetnet_server.core.relays._PATIENCE_MS", 0)
    world.relays.look()
    await world.settle(hub)
    assert world.stored("cam") == [(3, 1), (3, 2), (3, 3)] and hub.unacknowledged() == 0
    assert world.relays.dropped == 1


async def test_a_quarantined_hub_relays_nothing(world: World) -> None:
    device = world.store.lookup("hub-1")
    assert device is not None
    world.store.transact(
        lambda connection: connection.execute(
            "UPDATE devices SET state = 'quarantined' WHERE id = ?", (device.id,)
        )
    )
    hub = Link(world, "hub-1").hello()
    hub.announce(1, "cam")
    assert hub.answers() == []
    hub.carry(1, 1)
    hub.pump()
    assert hub.endings == [errors.UNKNOWN_KIND] and hub.unacknowledged() == 1


async def test_the_resume_points_are_told(world: World) -> None:
    hub = Link(world, "hub-1").hello()
    hub.announce(1, "cam")
    hub.carry(1, 5)
    await world.settle(hub)
    hub.heard.clear()
    hub.announce(1, "cam", nonce=b"next")
    welcome = decode_welcome(hub.heard[0][3])
    assert welcome.resume == {3: 5} and welcome.nonce == b"next" and welcome.unix_ms
    assert welcome.capabilities == CAN_COMMAND | CAN_CONFIGURE
