"""Readings to a real mosquitto: all of them, in order, whatever happens to it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import pytest

from fleetnet.frame import EVENT
from server.bridge.broker import Listener, Mosquitto, needs_mosquitto, payload_of, user_of
from server.bridge.world import World

pytestmark = needs_mosquitto

SINGLE = '[readings]\nmode = "single"\n'


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as it:
        yield it


def seqs(messages: list[aiomqtt.Message], device: str = "cam-1") -> list[int]:
    """The numbers of a device's messages as they came."""
    found = [user_of(one) for one in messages]
    return [int(one["seq"]) for one in found if one["device"] == device]


def once(numbers: list[int]) -> list[int]:
    """In the order in which each came first."""
    return list(dict.fromkeys(numbers))


async def test_a_batch_is_a_message(tmp_path: Path, broker: Mosquitto) -> None:
    async with World(tmp_path / "fleet", broker.plain) as world, Listener(broker.plain) as got:
        await world.put("cam-1", 7, {"temp": 20.5, "a/b": [1, {"x": None}]}, base=1_800_000_000_000)
        (message,) = await got.until("fleetnet/cam-1/readings")
        assert payload_of(message) == {
            "device": "cam-1", "epoch": b"epoch-01".hex(), "stream": 1, "seq": 7,
            "received_ms": payload_of(message)["received_ms"],
            "readings": [
                {"channel": "temp", "unix_ms": 1_800_000_000_000, "value": 20.5},
                {"channel": "a/b", "unix_ms": 1_800_000_000_010, "value": [1, {"x": None}]},
            ],
        }  # fmt: skip
        assert user_of(message) == {
            "device": "cam-1", "epoch": b"epoch-01".hex(), "stream": "1", "seq": "7",
        }  # fmt: skip
        assert vars(message.properties)["ContentType"] == "application/json"
        assert vars(message.properties)["PayloadFormatIndicator"] == 1
        assert message.qos == 1 and not message.retain


async def test_a_reading_is_a_message(tmp_path: Path, broker: Mosquitto) -> None:
    more = SINGLE + 'topic = "site/{group}/{device}/{channel}"\nexpiry = "1h"\nchannels = ["t*"]\n'
    world = World(tmp_path / "fleet", broker.plain, more)
    async with world, Listener(broker.plain) as got:
        await world.put("cam-1", 1, {"temp": 20.5, "door": True, "t/x": "a"}, boot=9)
        first, second = await got.until("site/default/cam-1/+", 2)
        assert (str(first.topic), payload_of(first)) == (
            "site/default/cam-1/temp", {"unix_ms": None, "value": 20.5},
        )  # fmt: skip
        assert (str(second.topic), payload_of(second)["value"]) == ("site/default/cam-1/t%2Fx", "a")
        assert user_of(second)["place"] == "1"
        assert 3590 <= vars(first.properties)["MessageExpiryInterval"] <= 3600


async def test_a_value_alone(tmp_path: Path, broker: Mosquitto) -> None:
    more = SINGLE + 'payload = "value"\nqos = 0\n'
    world = World(tmp_path / "fleet", broker.plain, more)
    async with world, Listener(broker.plain) as got:
        await world.put("cam-1", 1, {"temp": 20.5}, base=1_800_000_000_000)
        (message,) = await got.until("fleetnet/cam-1/reading/temp")
        assert message.payload == b"20.5" and message.qos == 0
        assert user_of(message)["unix_ms"] == "1800000000000"
        await world.until(lambda: world.bridge.behind == 0)


async def test_alarms_come_from_the_store(tmp_path: Path, broker: Mosquitto) -> None:
    async with World(tmp_path / "fleet", broker.plain) as world, Listener(broker.plain) as got:
        await world.put("cam-1", 1, {"door": "open"}, base=1_800_000_000_000, kind=EVENT)
        (message,) = await got.until("fleetnet/cam-1/event/alarm")
        found = payload_of(message)
        assert (found["name"], found["value"]) == ("door", "open")
        assert found["unix_ms"] == 1_800_000_000_000
        assert len(got.of("fleetnet/+/event/alarm")) == 1


async def test_only_what_is_wanted_goes_out(tmp_path: Path, broker: Mosquitto) -> None:
    more = '[readings]\ndevices = ["cam-2"]\n'
    world = World(tmp_path / "fleet", broker.plain, more)
    async with world, Listener(broker.plain) as got:
        await world.put("cam-1", 1, {"temp": 1})
        await world.put("cam-2", 1, {"temp": 2})
        await got.until("fleetnet/cam-2/readings")
        assert not got.of("fleetnet/cam-1/readings")


async def test_quarantined_devices_are_counted_and_kept_back(
    tmp_path: Path, broker: Mosquitto
) -> None:
    async with World(tmp_path / "fleet", broker.plain) as world, Listener(broker.plain) as got:
        quarantine = "UPDATE devices SET state = 'quarantined' WHERE name = 'cam-1'"
        world.backend.store.transact(lambda connection: connection.execute(quarantine))
        await world.put("cam-1", 1, {"temp": 1})
        await world.put("cam-2", 1, {"temp": 2})
        await got.until("fleetnet/cam-2/readings")
        assert not got.of("fleetnet/cam-1/readings")
        assert world.bridge.counters.dropped == {"device in quarantine": 1}


@pytest.mark.parametrize("end", ["kill", "stop", "pause", "pause and kill"])
async def test_an_outage_loses_nothing(tmp_path: Path, broker: Mosquitto, end: str) -> None:
    """60 s at 5 messages a second, at once: the broker is away, hangs, or is restarted."""
    keepalive = "keepalive_s = 5\n"
    async with (
        World(tmp_path / "fleet", broker.plain, SINGLE, keepalive) as world,
        Listener(broker.plain) as got,
    ):
        await world.connected()
        await world.put_many([("cam-1", n, {"t": n}) for n in range(1, 101)])
        await got.until("fleetnet/+/reading/t", 100)
        getattr(broker, end.partition(" ")[0])()
        for first in range(101, 401, 50):
            messages = [(f"cam-{1 + n % 2}", n, {"t": n}) for n in range(first, first + 50)]
            assert await world.put_many(messages) == 50  # acknowledged, broker or not
        if end == "pause":
            broker.go_on()
        else:
            if end == "pause and kill":
                # What it has of these is in its socket, and is lost with it.
                await world.until(lambda: bool(world.bridge._connection.waiting))  # type: ignore
                await asyncio.sleep(0.7)
                assert world.bridge._outgoing.place == 100
                broker.kill()
            await world.until(lambda: not world.bridge.is_connected)
            broker.start()
        last = ("cam-1", 1000, {"t": 0})
        await world.put_many([last])
        await world.until(lambda: once(seqs(got.of("fleetnet/+/reading/t")))[-1:] == [1000])
        found = got.of("fleetnet/+/reading/t")
        assert once(seqs(found)) == [*range(1, 101), *range(102, 401, 2), 1000]
        assert once(seqs(found, "cam-2")) == list(range(101, 401, 2))
        assert not world.bridge.counters.dropped


async def test_the_place_moves_behind_answers_only(tmp_path: Path, broker: Mosquitto) -> None:
    async with World(tmp_path / "fleet", broker.plain) as world, Listener(broker.plain) as got:
        await world.connected()
        broker.pause()
        await world.put_many([("cam-1", n, {"t": n}) for n in range(1, 4)])
        outgoing = world.bridge._outgoing
        await world.until(lambda: sum(row.count for row in outgoing._rows) == 3)
        await asyncio.sleep(0.7)  # longer than between two notes of the place
        assert outgoing.place == 0
        broker.kill()
        broker.start()
        await got.until("fleetnet/+/readings", 3)
        await world.until(lambda: outgoing.place == 3)


async def test_a_crash_repeats_the_window_at_most(tmp_path: Path, broker: Mosquitto) -> None:
    window = "window = 20\n"
    async with Listener(broker.plain) as got:
        async with World(tmp_path / "fleet", broker.plain, SINGLE, window) as world:
            await world.connected()
            outgoing = world.bridge._outgoing
            place = outgoing.place

            async def lost() -> None:
                """The place is never noted: the disk is too slow for it."""
                await asyncio.sleep(3600)

            outgoing._keep_saving = lost  # type: ignore[method-assign]
            world.bridge._connection.give_up()  # type: ignore[union-attr]
            await world.until(lambda: world.bridge.counters.connections == 2)
            await world.put_many([("cam-1", n, {"t": n}) for n in range(1, 101)])
            await got.until("fleetnet/+/reading/t", 20)
            await asyncio.sleep(0.2)
            assert len(got.of("fleetnet/+/reading/t")) == 20 and outgoing.place == place
            outgoing.close = world.bridge._outgoing._save = lambda: asyncio.sleep(0)  # type: ignore
        async with World(tmp_path / "fleet", broker.plain, SINGLE, window) as world:
            await world.until(lambda: len(once(seqs(got.of("fleetnet/+/reading/t")))) == 100)
        found = seqs(got.of("fleetnet/+/reading/t"))
        assert once(found) == list(range(1, 101))
        assert len(found) - 100 == 20


async def test_a_restart_repeats_nothing(tmp_path: Path, broker: Mosquitto) -> None:
    async with Listener(broker.plain) as got:
        for start in (1, 51):
            async with World(tmp_path / "fleet", broker.plain) as world:
                await world.connected()
                await world.put_many([("cam-1", n, {"t": n}) for n in range(start, start + 50)])
        await got.until("fleetnet/+/readings", 100)
        assert seqs(got.of("fleetnet/+/readings")) == list(range(1, 101))


async def test_what_is_stored_while_the_bridge_is_off_comes_later(
    tmp_path: Path, broker: Mosquitto
) -> None:
    folder = tmp_path / "fleet"
    async with Listener(broker.plain) as got:
        async with World(folder, broker.plain) as world:
            await world.connected()
            await world.put("cam-1", 1, {"t": 1})
        world = World(folder, broker.plain)
        text = (folder / "mqtt.toml").read_text()
        (folder / "mqtt.toml").unlink()
        async with world:
            assert world.backend.bridge is None
            await world.put("cam-1", 2, {"t": 2})
        (folder / "mqtt.toml").write_text(text)
        async with World(folder, broker.plain):
            await got.until("fleetnet/+/readings", 2)
        assert seqs(got.of("fleetnet/+/readings")) == [1, 2]


async def test_what_expired_while_it_waited_is_dropped_and_counted(
    tmp_path: Path, broker: Mosquitto
) -> None:
    more = '[readings]\nexpiry = "60s"\nkeep = "1h"\n'
    world = World(tmp_path / "fleet", broker.plain, more)
    async with world, Listener(broker.plain) as got:
        await world.put("cam-1", 1, {"t": 1}, age_ms=3_700_000)
        await world.put("cam-1", 2, {"t": 2}, age_ms=61_000)
        await world.put("cam-1", 3, {"t": 3}, age_ms=50_000)
        (message,) = await got.until("fleetnet/+/readings")
        assert seqs([message]) == [3]
        assert 1 <= vars(message.properties)["MessageExpiryInterval"] <= 10
        assert world.bridge.counters.dropped == {"older than keep": 1, "expired": 1}


async def test_what_gets_too_old_while_the_broker_is_away_is_given_up(
    tmp_path: Path, broker: Mosquitto
) -> None:
    more = '[readings]\nkeep = "1h"\n'
    world = World(tmp_path / "fleet", broker.plain, more)
    async with world, Listener(broker.plain) as got:
        await world.connected()
        broker.kill()
        await world.until(lambda: not world.bridge.is_connected)
        await world.put_many([("cam-1", n, {"t": n}) for n in range(1, 601)], age_ms=3_601_000)
        await world.put("cam-1", 700, {"t": 1})
        await world.until(lambda: world.bridge.counters.dropped["older than keep"] == 600)
        await world.until(lambda: world.bridge._outgoing.place == 600)  # compaction goes on
        broker.start()
        await got.until("fleetnet/+/readings")
        assert seqs(got.of("fleetnet/+/readings")) == [700]
        assert world.bridge.counters.dropped == {"older than keep": 600}


async def test_what_does_not_go_out_holds_nothing_up(tmp_path: Path, broker: Mosquitto) -> None:
    """Messages of other kinds lie before some that are too old: compaction gets all of these."""
    more = '[readings]\nkeep = "1h"\n'
    async with World(tmp_path / "fleet", broker.plain, more) as world:
        await world.connected()
        broker.kill()
        await world.until(lambda: not world.bridge.is_connected)
        await world.put_many([("cam-1", n, {"t": n}) for n in range(1, 301)], kind=99)
        await world.put_many([("cam-1", n, {"t": n}) for n in range(301, 306)], age_ms=3_601_000)
        await world.put("cam-1", 400, {"t": 1})
        await world.until(lambda: world.bridge._outgoing.place == 305)
        assert world.bridge.counters.dropped == {"older than keep": 5}


async def test_a_refusal_is_said_and_holds_nothing_up(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    folder.mkdir()
    (folder / "acl").write_text(
        "topic readwrite fleetnet/#\ntopic deny fleetnet/cam-1/readings\ntopic read #\n"
    )
    extra = f"acl_file {folder}/acl"
    with Mosquitto(folder, extra=extra) as broker:
        async with (
            World(tmp_path / "fleet", broker.plain) as world,
            Listener(broker.plain, "fleetnet/#") as got,
        ):
            await world.put("cam-1", 1, {"t": 1})
            await world.put("cam-2", 1, {"t": 1})
            await got.until("fleetnet/cam-2/readings")
            await world.until(lambda: world.bridge.behind == 0)
            assert world.bridge.counters.dropped == {"refused by the broker: Not authorized": 1}


async def test_what_is_too_large_for_the_broker_is_dropped(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    broker = Mosquitto(folder)
    conf = folder / "mosquitto.conf"
    conf.write_text("max_packet_size 2000\n" + conf.read_text())
    with broker:
        async with World(tmp_path / "fleet", broker.plain) as world, Listener(broker.plain) as got:
            await world.put("cam-1", 1, {"t": "x" * 3000})
            await world.put("cam-1", 2, {"t": "x" * 1000})
            await got.until("fleetnet/cam-1/readings")
            assert seqs(got.of("fleetnet/+/readings")) == [2]
            assert world.bridge.counters.dropped == {"larger than the broker takes": 1}
            assert world.bridge.counters.connections == 1


async def test_no_commit_waits_for_a_broker_that_hangs(tmp_path: Path, broker: Mosquitto) -> None:
    async with World(tmp_path / "fleet", broker.plain, SINGLE) as world:
        await world.connected()
        broker.pause()
        try:
            for first in range(0, 2000, 500):
                done = world.put_many([("cam-1", first + n, {"t": n}) for n in range(500)])
                assert await asyncio.wait_for(done, 30.0) == 500
            waiting = world.bridge._outgoing
            await world.until(lambda: bool(waiting._rows))
            # What waits in memory is bounded, however much there is.
            assert len(waiting._rows) <= 256 and waiting._unsaved <= 1000
        finally:
            broker.go_on()
        await world.until(lambda: world.bridge.counters.readings == 2000)


async def test_a_message_that_cannot_be_made_holds_nothing_up(
    tmp_path: Path, broker: Mosquitto
) -> None:
    async with World(tmp_path / "fleet", broker.plain) as world, Listener(broker.plain) as got:
        await world.connected()
        broker.kill()
        await world.until(lambda: not world.bridge.is_connected)
        await world.put_many([("cam-1", n, {"t": n}) for n in (1, 2, 3)])
        spoil = "UPDATE messages SET body = '[]' WHERE seq = 2"
        world.backend.store.transact(lambda connection: connection.execute(spoil))
        broker.start()
        await world.until(lambda: once(seqs(got.of("fleetnet/+/readings"))) == [1, 3])
        assert world.bridge.counters.dropped == {"unreadable": 1}


async def test_a_bridge_with_nothing_to_do_keeps_its_claim(
    tmp_path: Path, broker: Mosquitto
) -> None:
    more = '[readings]\nkeep = "1s"\n'
    async with World(tmp_path / "fleet", broker.plain, more) as world:
        await world.connected()

        def until_ms() -> int:
            ((found,),) = world.backend.store.read("SELECT until_ms FROM bridges")
            return int(found)

        first = until_ms()
        await world.until(lambda: until_ms() > first + 300)
