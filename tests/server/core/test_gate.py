"""The gate: how often, how many, how fast; and that it is asked again what waited at it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from end_to_end.device_process import until
from fleetnet import errors
from fleetnet.events import Closed, Refused
from fleetnet.frame import READINGS
from fleetnet.handshake import Hello
from fleetnet.limits import WINDOW
from fleetnet.ports import port
from fleetnet_server.core import policing
from fleetnet_server.core.gate import SILENCE, Gate
from fleetnet_server.core.herd import Herd
from fleetnet_server.core.rates import RateTable
from fleetnet_server.identity import pki
from fleetnet_server.identity.crl import issuer_hash
from fleetnet_server.identity.policy import Policy, Rules
from server.core.session_world import BODY, CHANGES, Link, World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.stop()


def use(world: World, sessions_per_s: float = 1000.0, max_sessions: int = 1000) -> Gate:
    """Give the sessions a gate of these numbers."""
    world.sessions.gate = Gate(Herd(sessions_per_s), RateTable(1000.0, 1000), max_sessions)
    return world.sessions.gate


def another(world: World, name: str) -> Link:
    """A link of one more device, which says HELLO."""
    credential = pki.issue_device(ISSUER, name)
    device = world.store.add_device(name)
    world.store.add_certificate(device.id, credential.serial, credential.not_after_ms)
    link = Link()
    link.peer = world.sessions.accept(link, credential.certificate)  # type: ignore[assignment]
    link.hello()
    return link


ISSUER = pki.create_ca()


def flood(link: Link, count: int) -> None:
    """Send messages, whatever the window is."""
    link.session.sender.window = WINDOW
    for _ in range(count):
        link.session.send(1, READINGS, BODY)
    link.pump()


def endings(link: Link) -> list[tuple[int, int]]:
    """Reason and retry time (ms) of what ended it."""
    told = link.session.take_events()
    return [
        (event.ending.reason, event.ending.retry_after_ms)
        for event in told
        if isinstance(event, Refused | Closed)
    ]


def test_who_opens_too_many_links_is_told_once_and_then_not_even_that() -> None:
    gate = Gate(Herd(100.0), RateTable(0.5, 3), 10)
    found = [gate.admit(1, "cam-1") for _ in range(6)]
    assert found[:3] == [None] * 3
    told = found[3]
    assert told is not None and told.reason == errors.OVERLOADED and told.name == "cam-1"
    assert told.retry_after_ms >= 10_000
    assert found[4] is found[5] is SILENCE and gate.silenced == 2
    assert gate.admit(2, "cam-2") is None, "another device has links of its own"


async def test_a_link_too_many_gets_refuse_and_the_next_one_nothing(world: World) -> None:
    world.register()
    world.sessions.gate = Gate(Herd(1000.0), RateTable(0.001, 2), 10)
    for _ in range(2):
        assert world.open(Link()).told() == ["opened"]
    third = world.open(Link())
    ((reason, retry_ms),) = endings(third)
    assert reason == errors.OVERLOADED and retry_ms > 100_000
    silent = Link()
    handler = world.sessions.accept(silent, world.credential.certificate)
    assert silent.is_closed
    handler.receive_data(b"whatever")  # nothing is there that could answer
    assert len(world.sessions.live) == 1


async def test_when_all_sessions_are_taken(world: World) -> None:
    gate = use(world, max_sessions=1)
    world.register()
    assert world.open(Link()).told() == ["opened"]
    assert endings(another(world, "cam-2")) == [(errors.OVERLOADED, 60_000)]
    assert gate.full == 1
    # Its own successor is no session more.
    assert world.open(Link()).told() == ["opened"] and len(world.sessions.live) == 1


async def test_all_who_wait_are_not_more_than_there_is_room_for(world: World) -> None:
    """Each of them found the same free place when it came."""
    gate = use(world, sessions_per_s=10.0, max_sessions=1)
    gate.herd._last_turn += 1.05
    links = [another(world, f"cam-{number}") for number in range(2, 6)]
    assert len(gate._waiting) == 4
    await until(lambda: not gate._waiting, "all had their turn")
    assert len(world.sessions.live) == 1 and gate.full == 3
    for link in links:
        link.pump()
    told = [endings(link) for link in links]
    assert told == [[], *[[(errors.OVERLOADED, 60_000)]] * 3]


async def test_who_waits_enters_when_its_turn_comes(world: World) -> None:
    gate = use(world, sessions_per_s=10.0)
    gate.herd._last_turn += 1.05  # the turns of the last second are taken
    world.register()
    link = world.open(Link())
    assert link.told() == [] and gate.herd.held == 1
    await until(lambda: link.told() == ["opened"], "it is its turn", 30)
    assert not gate._waiting


@pytest.mark.parametrize("case", [*CHANGES, "issuer", "impostor"])
async def test_who_waits_is_judged_again_at_its_turn(case: str, world: World) -> None:
    gate = use(world, sessions_per_s=5.0)
    gate.herd._last_turn += 1.05
    sessions = world.sessions
    expected = errors.REVOKED
    if case in CHANGES:
        world.register()
        link = world.open(Link())
        expected, change = CHANGES[case]
        change(world.store)
        world.watch.look()
    else:
        # Its certificate is another CA's, which is then accepted no longer; or the device got one
        # of this fleet meanwhile, which is the only one that speaks for it.
        foreign = pki.issue_device(ISSUER, "cam-1").certificate
        others = frozenset((issuer_hash(foreign),))
        number = world.store.add_device("cam-1").id
        sessions.use_issuers(frozenset(), others)
        link = Link()
        link.peer = sessions.accept(link, foreign)  # type: ignore[assignment]
        link.hello()
        if case == "issuer":
            world.watch.use_issuers(frozenset(), frozenset())
        else:
            world.store.add_certificate(number, 77, 2_000_000_000_000)
            sessions.changes += 1
            expected = errors.NO_IDENTITY
    assert gate.herd.held == 1 and link.told() == []
    await until(lambda: not gate._waiting, "it is its turn", 30)
    assert link.told() == [expected] and sessions.live == {}


async def test_who_goes_while_it_waits_is_forgotten(world: World) -> None:
    gate = use(world, sessions_per_s=0.5)
    gate.herd._last_turn += 2.0
    world.register()
    link = world.open(Link())
    assert len(gate._waiting) == 1 and link.peer is not None
    link.peer.link_lost(None)
    assert not gate._waiting


async def test_who_waits_when_the_server_stops_hears_when_to_come(world: World) -> None:
    gate = use(world, sessions_per_s=0.5)
    gate.herd._last_turn += 2.0
    world.register()
    link = world.open(Link())
    await world.sessions.close(0.1)
    ((reason, retry_ms),) = endings(link)
    assert reason == errors.SHUTDOWN and retry_ms >= 2000 and not gate._waiting


async def test_who_does_not_obey_its_window_stays_away_until_it_has_paid(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not begin session after session, each of them with a closed window."""
    monkeypatch.setattr(policing, "_MOST_OVERDRAWN", 5)
    number = world.register()
    world.store.registry.change("cam-1", group="slow")
    world.sessions.use_policy(Policy("refuse", {"slow": Rules(max_rate=20.0)}))
    world.watch.look()
    link = world.open(Link())
    flood(link, 40)
    # What had come when it was over is taken; nothing behind it is.
    assert world.router.received == 25
    ((reason, retry_ms),) = endings(link)
    assert reason == errors.OVERLOADED and 400 <= retry_ms <= 600
    again = world.open(Link())
    ((reason, retry_ms),) = endings(again)
    assert reason == errors.OVERLOADED and 1 <= retry_ms <= 600
    assert number not in world.sessions.live or not world.sessions.live[number].is_open
    assert "device-refused" in await world.actions()
    await asyncio.sleep(retry_ms / 1000)
    assert world.open(Link()).told() == ["opened"]


async def test_a_rate_that_is_lifted_bars_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policing, "_MOST_OVERDRAWN", 5)
    world.register()
    world.sessions.use_policy(Policy("refuse", {"default": Rules(max_rate=0.001)}))
    link = world.open(Link())
    flood(link, 10)
    assert endings(link)[0][1] == 3_600_000, "an hour at most"
    world.sessions.use_policy(Policy())
    again = world.open(Link())
    await until(lambda: again.told() == ["opened"], "it is let in", 30)


@pytest.mark.parametrize("trickles", [False, True])
async def test_a_hello_that_never_comes(
    world: World, monkeypatch: pytest.MonkeyPatch, trickles: bool
) -> None:
    """A device may take its time for HELLO, and a byte now and then buys no more of it."""
    world.register()
    link = world.accept(Link())
    assert link.peer is not None
    began = port.ticks()
    link.session.open_link(began, False, Hello())
    hello = b"".join(link.session.data_to_send(began))
    for second in range(1, 17):
        monkeypatch.setattr(port, "ticks", lambda second=second: began + 1000 * second)
        if trickles and not link.is_closed:
            link.peer.receive_data(hello[second - 1 : second])
        link.peer.handle_timer()
        assert link.is_closed == (second >= 15), second
    assert len(hello) > 20 and world.sessions.live == {}
