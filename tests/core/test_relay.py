"""Sensors behind hubs before a back-end, in virtual time over a bad network: docs/protocol.md
section 15. Real sessions at all ends; what the sensor was acknowledged is in the store, once."""

import sys

FOLDER = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
sys.path.insert(0, FOLDER)
from part_device import Failing  # noqa: E402
from relay_world import RelayWorld  # noqa: E402
from world import Faults  # noqa: E402

from fleetnet import relay  # noqa: E402
from fleetnet.errors import LimitError, ProtocolError  # noqa: E402
from fleetnet.frame import BYE, CALL, COMMANDS, EVENTS, LOGS, READINGS, TELEMETRY  # noqa: E402
from fleetnet.handshake import Ending  # noqa: E402
from fleetnet_device.outbox import Outbox  # noqa: E402
from fleetnet_device.relay import Part  # noqa: E402
from fleetnet_device.relay_custody import MAX_HELD  # noqa: E402

BAD = Faults(loss=8, duplicate=4, reorder=8, delay=10, jitter=20)
GOOD = Faults(delay=10)


def talk(world, sensor, count, every_ms=100, streams=(TELEMETRY, EVENTS, COMMANDS)):
    """A sensor's program says ``count`` payloads."""
    for number in range(count):
        stream = streams[number % len(streams)]
        size = 2500 if number % 13 == 7 else 20
        payload = (b"%s %d " % (sensor.name.encode(), number)) * (size // 10)
        world.at(world.now + number * every_ms, sensor.say, stream, payload)


def finish(world, limit_ms=120_000):
    done = world.run(limit_ms, lambda: all([sensor.is_done() for sensor in world.sensors]))
    assert done, [(s.name, len(s.outbox), s.endings, s.opened) for s in world.sensors]
    # What a hub took in custody reaches the store a while after its sensor has forgotten it.
    world.run(20_000)
    world.check()


def test_two_sensors_through_one_hub_over_a_bad_network():
    for seed in range(4):
        for datagram in (True, False):
            with RelayWorld(seed, BAD, datagram) as world:
                hub = world.hub("hub", has_flash=seed % 2 == 1)
                for name in ("a", "b"):
                    sensor = world.sensor(name, hub)
                    sensor.go(hub)
                    talk(world, sensor, 60)
                world.run(6_000)
                finish(world)
                assert not hub.reports, hub.reports


def test_without_flash_the_acknowledgement_waits_for_the_back_end():
    with RelayWorld(1, GOOD, True) as world:
        hub = world.hub("hub")
        sensor = world.sensor("a", hub)
        sensor.go(hub)
        sensor.say(TELEMETRY, b"first")
        world.run(2_000)
        world.server.kill(30_000)
        for number in range(5):
            sensor.say(TELEMETRY, b"%d" % number)
        world.run(25_000)
        assert sensor.delivered == {TELEMETRY: 1}
        hub.power_cut(1_000)  # it had them in RAM only
        finish(world)


def test_with_flash_the_hub_keeps_for_its_sensors():
    """The sensor is told while the back-end is away, and may forget; the hub loses its power."""
    with RelayWorld(2, GOOD, True) as world:
        hub = world.hub("hub", has_flash=True)
        sensor = world.sensor("a", hub)
        sensor.go(hub)
        world.run(1_000)
        world.server.kill(60_000)
        talk(world, sensor, 30, streams=(TELEMETRY,))
        assert world.run(50_000, lambda: sensor.delivered.get(TELEMETRY, 0) >= 30)
        assert len(world.server.rows) == 0
        sensor.go(None)
        hub.power_cut(2_000)
        world.run(30_000)
        finish(world)
        assert not hub.reports, hub.reports


def test_back_end_and_hub_are_killed_again_and_again():
    for seed in range(3):
        with RelayWorld(seed, BAD, seed != 1) as world:
            hub = world.hub("hub", has_flash=seed != 2)
            for name in ("a", "b"):
                sensor = world.sensor(name, hub)
                sensor.go(hub)
                talk(world, sensor, 120)
            for number in range(4):
                world.run(2_000 + world.random.below(2_000))
                if number % 2:
                    world.server.kill(1_000 + world.random.below(4_000))
                else:
                    hub.power_cut(500 + world.random.below(1_000))
            world.run(3_000)
            finish(world)


def test_a_sensor_that_moves_loses_nothing_and_is_stored_once():
    """From hub to hub and to the back-end itself, while hubs hold messages of it."""
    for seed in range(4):
        with RelayWorld(seed, BAD if seed else GOOD, seed != 3) as world:
            first = world.hub("first", has_flash=True)
            second = world.hub("second", has_flash=seed % 2 == 0)
            sensor = world.sensor("a", first, second)
            sensor.go(first)
            world.run(2_000)
            world.server.kill(18_000)
            talk(world, sensor, 20)
            # Everything is on the flash of the first, and nowhere else.
            assert world.run(17_000, lambda: not sensor.outbox and sensor.is_done()), seed
            held = first
            held.is_down = True
            if held.wire is not None:
                held.wire.cut()
            world.run(3_000)
            talk(world, sensor, 20)
            sensor.go(world.server)
            world.run(4_000)
            talk(world, sensor, 20)
            sensor.go(second)
            world.run(4_000)
            stored = len(world.server.rows)
            assert stored >= 20, "it goes on elsewhere"
            held.is_down = False
            finish(world)
            assert len(world.server.rows) == 60 and not world.server.gaps


def test_commands_come_down_and_a_revoked_sensor_is_sent_away():
    with RelayWorld(3, BAD, True) as world:
        hub = world.hub("hub", has_flash=True)
        sensor, other = world.sensor("a", hub), world.sensor("b", hub)
        world.run(4_000)
        sensor.go(hub)
        other.go(hub)
        world.run(4_000)
        link = world.server.links["hub"]
        (alias,) = [alias for alias, known in link.origins.items() if known[0] == "a"]
        link.send(alias, CALL, COMMANDS, b"a call")
        world.run(3_000)
        assert sensor.heard == [(CALL, b"a call")] and other.heard == []

        world.server.revoked.add("a")
        nonce = link.origins[alias][3]
        link.send(alias, BYE, 0, relay.with_nonce(Ending(8).to_payload(), nonce))
        began = world.now
        assert world.run(5_000, lambda: bool(sensor.endings)) and world.now - began < 5_000
        world.run(10_000)
        assert set(sensor.endings) == {8}, sensor.endings

        opened = sensor.opened
        world.server.kill(60_000)
        hub.power_cut(1_000)
        world.run(30_000)
        assert sensor.opened == opened and sensor.endings[-1] == 8, "remembered, without a back-end"
        assert other.session.state == 2 and other.opened > 1, "the other one is let in meanwhile"


def test_strangers_stay_out_while_the_back_end_is_away():
    with RelayWorld(4, GOOD, False) as world:
        hub = world.hub("hub")
        known = world.sensor("known", hub)
        unassigned = world.sensor("unassigned")
        world.run(1_000)
        known.go(hub)
        unassigned.go(hub)
        world.run(2_000)
        assert known.opened == 1 and unassigned.endings[0] == 6
        world.server.kill(60_000)
        stranger = world.sensor("stranger", hub)
        stranger.go(hub)
        renewed = world.sensor("known", hub)  # the same name with another certificate
        renewed.go(hub)
        world.run(5_000)
        assert stranger.opened == renewed.opened == 0
        assert set(stranger.endings + renewed.endings) == {14}


def test_a_full_hub_lets_its_sensors_wait_and_gives_nothing_up():
    for has_flash in (True, False):
        with RelayWorld(5, GOOD, True) as world:
            hub = world.hub("hub", has_flash)
            sensors = [world.sensor("s%d" % number, hub) for number in range(4)]
            for sensor in sensors:
                sensor.go(hub)
            world.run(1_000)
            world.server.kill(90_000)
            for sensor in sensors:
                for number in range(20):
                    payload = b"%d " % number * 500
                    world.at(world.now + number * 500, sensor.say, TELEMETRY, payload)
            world.run(60_000)
            outbox = hub._outbox
            # There is room for the hub's own, and none is lost of its sensors'.
            for _ in range(6 if has_flash else 3):
                outbox.put(hub.session, TELEMETRY, READINGS, b"own " * 250, 1)
                world.run(1_000)
            assert outbox.dropped_messages == 0
            assert not any([sensor.is_done() for sensor in sensors]), "they wait"
            finish(world, 300_000)


def test_aliases_are_bounded_and_used_again():
    """A sensor that loses its power again and again has a new epoch each time."""
    with RelayWorld(6, GOOD, True) as world:
        hub = world.hub("hub")
        world.run(1_000)
        for number in range(80):
            sensor = world.sensor("a%d" % number, hub)
            sensor.go(hub)
            sensor.say(LOGS, b"x")
            assert world.run(3_000, sensor.is_done)
            sensor.go(None)
            assert len(hub.part.origins.by_alias) <= relay.MAX_ORIGINS
        finish(world)
        assert max(hub.part.origins.by_alias) == 80, "no alias means two sensors"


def test_sensors_that_all_send_at_once_to_a_full_hub_keep_what_it_has_no_room_for():
    with RelayWorld(9, GOOD, False) as world:
        hub = world.hub("hub")
        sensors = [world.sensor("s%d" % number, hub) for number in range(10)]
        world.run(1_000)
        for sensor in sensors:
            sensor.go(hub)
        world.run(1_000)
        world.server.kill(60_000)
        for sensor in sensors:
            for number in range(16):
                sensor.say(TELEMETRY, b"%d " % number * 350)
        world.run(2_000)
        custody = hub.part.custody
        assert custody.shed and custody._held_bytes <= MAX_HELD
        assert {reason for sensor in sensors for reason in sensor.endings} == {10}
        finish(world, 300_000)


def test_a_table_that_is_full_forgets_nobody_whose_messages_are_on_the_flash():
    """A sensor begins an epoch after each power cut, and its hub has no back-end for long."""
    with RelayWorld(7, GOOD, False) as world:
        hub = world.hub("hub", has_flash=True)
        lives = []
        world.run(1_000)
        for number in range(relay.MAX_ORIGINS + 3):
            sensor = world.sensor("a", hub)
            sensor.serial = 0x77
            lives.append(sensor)
            sensor.go(hub)
            sensor.say(LOGS, b"life %d" % number)
            if not number:
                assert world.run(3_000, sensor.is_done)
                world.server.kill(4_000_000)
            world.run(30_000)
            if number == 40:
                hub.power_cut(100)
            if sensor.is_done():
                sensor.go(None)
        assert len(hub.part.origins.by_alias) == relay.MAX_ORIGINS
        assert lives[-1].endings and set(lives[-1].endings) == {10}, "it is told, and keeps its own"
        world.server.is_down = False
        assert world.run(300_000, lambda: all([sensor.is_done() for sensor in lives]))
        world.run(30_000)
        assert len(world.server.rows) == len(lives)


def test_a_flash_that_does_not_take_the_table_of_origins():
    """Nothing is acknowledged that could not be told apart, and no alias gets a second meaning."""
    with RelayWorld(10, GOOD, False) as world:
        hub = world.hub("hub", has_flash=True)
        world.run(1_000)
        lives = []
        for number in range(3):
            sensor = world.sensor("a", hub)
            sensor.serial = 0x77
            sensor.say(LOGS, b"life %d" % number)
            lives.append(sensor)
        lives[0].go(hub)
        assert world.run(3_000, lives[0].is_done)
        lives[0].go(None)
        world.server.kill(4_000_000)
        with Failing():
            lives[1].go(hub)
            world.run(30_000)
            assert hub._outbox.spool.log.size and not lives[1].is_done()
            assert hub.reports, "somebody is told"
            lives[1].go(None)
            hub.power_cut(100)
        world.run(1_000)
        lives[2].go(hub)
        assert world.run(40_000, lives[2].is_done)
        world.server.is_down = False
        lives[1].go(hub)
        assert world.run(30_000, lives[1].is_done)
        world.run(30_000)
        assert sorted(world.server.rows.values()) == [b"life 0", b"life 1", b"life 2"]


def test_a_sensor_that_comes_again_is_forwarded_once():
    with RelayWorld(8, GOOD, True) as world:
        hub = world.hub("hub")
        sensor = world.sensor("a", hub)
        world.run(1_000)
        sensor.go(hub)
        world.run(1_000)
        world.server.kill(20_000)
        for number in range(5):
            sensor.say(TELEMETRY, b"%d" % number)
        world.run(3_000)
        sensor.go(hub)
        world.run(3_000)
        assert sensor.opened == 2 and hub.part.custody.relayed == 5
        finish(world)
        assert world.server.doubles == 0


def test_a_device_that_gives_up_its_oldest_is_no_hub():
    class Careless:
        _outbox = Outbox(4096, 16)
        flash = ""

    try:
        Part(Careless())
    except LimitError as error:
        assert 'policy="newest"' in str(error)
    else:
        raise AssertionError("it would give up what it has acknowledged")


def test_what_is_not_relayed():
    for kind in (0x28, 0x29, 0x2A, 0x30, 0x31, 0x38, 0xB8, 0x04):
        assert not relay.is_relayed(kind)
        try:
            relay.decode_relay(relay.encode_relay(1, kind, 1, 1, b""))
        except ProtocolError:
            continue
        raise AssertionError(kind)
    assert relay.is_relayed(0x10) and relay.is_relayed(0xC0)
