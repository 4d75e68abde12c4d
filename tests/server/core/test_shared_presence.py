"""Who is where, when several servers share a store; and when devices are sent to the others."""

from types import SimpleNamespace
from typing import Any, cast

from fleetnet.handshake import Hello
from fleetnet_server.core.patience import Patience
from fleetnet_server.core.presence import ONLINE, DevicePresence
from fleetnet_server.core.sessions import Sessions
from fleetnet_server.core.shared_presence import SharedPresence
from fleetnet_server.core.transport import Transport


class World:
    """A presence, and what it told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.presence = SharedPresence(
            "a", lambda kind, device, detail: self.told.append((kind, str(device)))
        )
        self.presence.is_alone = False

    def opened(self, name: str) -> Any:
        peer = SimpleNamespace(
            name=name, via="", address="10.0.0.1", is_quarantined=False, stored=0, duplicates=0,
            lost=0, lag_ms=None, seen=0,
        )  # fmt: skip
        link = cast("Transport", SimpleNamespace(kind="dtls"))
        self.presence.opened(cast("Any", peer), Hello(), link)
        return peer


def at(node: str, since_ms: int = 5) -> DevicePresence:
    return DevicePresence(ONLINE, "tls", "10.0.0.2", since_ms, node=node)


def test_sessions_at_other_servers_are_seen_and_told() -> None:
    world = World()
    presence = world.presence
    presence.use({"cam-1": at("b")})
    shown = presence.of("cam-1")
    assert (shown.state, shown.link, shown.node, shown.address) == (
        "online", "tls", "b", "10.0.0.2",
    )  # fmt: skip
    assert presence.is_online("cam-1")
    presence.use({"cam-1": at("b")})
    assert world.told == [("session-opened", "cam-1")]
    presence.use({"cam-1": at("c", 9)})
    presence.use({})
    assert world.told[1:] == [("session-opened", "cam-1"), ("session-ended", "cam-1")]
    assert presence.of("cam-1").state == "offline"


def test_what_is_here_is_newer_than_what_was_read() -> None:
    world = World()
    presence = world.presence
    presence.use({"cam-1": at("b")})
    peer = world.opened("cam-1")
    assert (presence.of("cam-1").node, presence.of("cam-1").link) == ("a", "dtls")
    presence.use({})
    assert ("session-ended", "cam-1") not in world.told, "it came from there to here"
    presence.ended(peer, "gone")
    assert not presence.is_online("cam-1")


def test_a_server_that_is_alone_names_nobody() -> None:
    world = World()
    world.presence.is_alone = True
    world.opened("cam-1")
    assert world.presence.of("cam-1").node == ""


async def test_patience_ends_and_the_store_comes_back() -> None:
    sent: list[str] = []
    entering = SimpleNamespace(is_shut=False)

    def send_away() -> None:
        entering.is_shut = True
        sent.append("away")

    entering.send_away = send_away
    sessions = cast("Sessions", SimpleNamespace(entering=entering, live={}))
    away = [0.0]
    patience = Patience(sessions, lambda: away[0], 3.0)
    for seconds, is_shut in ((2.9, False), (3.1, True), (9.0, True), (2.0, True), (1.0, False)):
        away[0] = seconds
        patience.look()
        assert entering.is_shut is is_shut, seconds
    assert sent == ["away"]
    await patience.stop()
