"""Server-sent events: what was missed comes again, and who does not read harms nobody."""

import asyncio
import socket

from fleetnet_device import Device
from server.web.devices import online, until
from server.web.world import PATIENCE_S, Stream, WebFleet


async def test_what_was_missed_comes_with_last_event_id(fleet: WebFleet) -> None:
    stream = await Stream.open(fleet)
    async with online(fleet, "cam-1"):
        opened = await stream.until("session-opened")
    await stream.until("session-ended")
    stream.close()
    again = await Stream.open(fleet, last_id=opened["id"])
    event = await again.next()
    assert (event["kind"], event["device"]) == ("session-ended", "cam-1")
    again.close()
    # Of another run of the server: what is kept comes, behind a word that more is gone.
    other = await Stream.open(fleet, last_id="00000000-7")
    assert [(await other.next())["kind"] for _ in range(3)] == [
        "missed", "session-opened", "session-ended",
    ]  # fmt: skip
    other.close()


async def test_a_reader_sees_what_it_asked_for_only(fleet: WebFleet) -> None:
    stream = await Stream.open(fleet, "?kind=readings&device=cam-2")
    async with online(fleet, "cam-1") as first, online(fleet, "cam-2") as second:
        await first.send("x", 1)
        await first.flush(20_000)
        await second.send("x", 2)
        await second.flush(20_000)
        event = await stream.next()
        assert (event["device"], event["readings"][0]["value"]) == ("cam-2", 2)
    stream.close()


async def test_a_stream_ends_with_its_token(fleet: WebFleet) -> None:
    ends, goes_on = await Stream.open(fleet, token="read"), await Stream.open(fleet, token="admin")
    assert (await fleet.ask("DELETE", "/api/v1/tokens/read")).status == 204
    # Asked with the next event, or the next heartbeat, when 5 s are over.
    async with online(fleet, "cam-1") as device, asyncio.timeout(PATIENCE_S):
        # The last chunk of the answer is an empty one.
        while not (await ends.reader.read(100_000)).endswith(b"0\r\n\r\n"):
            await device.event("door", True)
            await device.flush(20_000)
    await goes_on.until("session-ended")


async def test_a_reader_that_does_not_read_is_cut_off_while_ingest_goes_on(
    fleet: WebFleet,
) -> None:
    stuck = socket.create_connection(fleet.web)
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    token = fleet.tokens["read"]
    stuck.sendall(
        f"GET /api/v1/events?kind=readings HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {token}\r\n\r\n".encode()
    )
    good = await Stream.open(fleet, "?kind=readings")
    text = "x" * 3900
    count = 0

    async def send(device: Device) -> None:
        nonlocal count
        # As much as its outbox holds, or it would give messages up.
        for _ in range(100):
            await device.send("text", f"{count} {text}")
            count += 1
        await device.flush(30_000)

    async with online(fleet, "cam-1", outbox_bytes=1 << 20) as device:
        reading = asyncio.create_task(_read_all(good))
        async with asyncio.timeout(2 * PATIENCE_S):
            while not await metric(fleet, "fleetnet_event_subscribers_cut_total"):
                await send(device)
        await send(device)
    # The other reader has what the feed shows of a commit; the store has everything.
    left_out = round(await metric(fleet, "fleetnet_messages_not_shown_total"))
    await until(
        lambda: asyncio.sleep(0.05), lambda _: len(reading_values(reading)) + left_out >= count
    )
    values = [int(value.split()[0]) for value in reading_values(reading)]
    assert len(values) + left_out == count
    assert values == sorted(set(values))
    await until(lambda: metric(fleet, "fleetnet_event_subscribers"), lambda number: number == 1)
    reading.cancel()
    good.close()
    stuck.close()
    assert await metric(fleet, "fleetnet_messages_stored_total") >= count
    assert await metric(fleet, "fleetnet_messages_lost_total") == 0


_values: dict[int, list[str]] = {}


async def _read_all(stream: Stream) -> None:
    found = _values.setdefault(id(asyncio.current_task()), [])
    while True:
        event = await stream.next()
        found.extend(reading["value"] for reading in event["readings"])


def reading_values(task: "asyncio.Task[None]") -> list[str]:
    return _values.get(id(task), [])


async def metric(fleet: WebFleet, name: str) -> float:
    answer = await fleet.ask("GET", "/metrics", token="read")
    for line in answer.body.decode().splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    raise AssertionError(f"no metric {name}")
