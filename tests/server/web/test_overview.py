"""What the dashboard asks of the API: the overview, curves, logs and alarms."""

import time

from fleetnet_server.store.sqlite import SqliteStore
from server.web.devices import online, until
from server.web.world import WebFleet


def add_rows(fleet: WebFleet, count: int) -> None:
    """Register devices as the registry has them, without bundles."""
    now_ms = time.time_ns() // 1_000_000
    rows = [
        (f"dev-{number:05}", "disabled" if number % 100 == 0 else "enabled", now_ms)
        for number in range(count)
    ]
    dates = [(f"{number:x}", number, now_ms - 10, now_ms + 1 + number) for number in range(1, 4)]
    with SqliteStore(fleet.store) as store:
        store.transact(
            lambda connection: (
                connection.executemany(
                    "INSERT INTO devices(name, state, created_ms) VALUES (?, ?, ?)", rows
                ),
                connection.executemany(
                    "INSERT INTO certificates(serial, device, issued_ms, not_after_ms)"
                    " VALUES (?, ?, ?, ?)",
                    dates,
                ),
            )
        )


async def names(fleet: WebFleet, query: str) -> list[str]:
    found = await fleet.get(f"/api/v1/overview?{query}", token="read")
    return [one["name"] for one in found["items"]]


async def test_the_overview_filters_sorts_and_counts(fleet: WebFleet) -> None:
    add_rows(fleet, 1000)
    async with online(fleet, "cam-1") as device:
        await device.send("x", 1)
        await device.flush(20_000)
        await fleet.ask("PATCH", "/api/v1/devices/cam-1", {"labels": {"Site": "North"}})
        found = await until(
            lambda: fleet.get("/api/v1/overview?limit=200&offset=990"),
            lambda found: found["counts"]["online"] == 1 and found["total"] == 1001,
        )
        assert found["counts"] == {
            "all": 1001, "online": 1, "offline": 990, "disabled": 10, "quarantined": 0,
            "expiring": 2,
        }  # fmt: skip
        assert len(found["items"]) == 11
        assert await names(fleet, "text=site%3Dnorth") == ["cam-1"]
        assert await names(fleet, "text=00042") == ["dev-00042"]
        assert await names(fleet, "show=online&sort=lag") == ["cam-1"]
        assert await names(fleet, "show=disabled&limit=2&descending=true") == [
            "dev-00900", "dev-00800",
        ]  # fmt: skip
        # What has no value comes last, in both directions.
        for descending in ("true", "false"):
            assert (await names(fleet, f"sort=last_seen&descending={descending}"))[0] == "cam-1"
        # A certificate of a disabled device (the first) is no worry.
        assert (await names(fleet, "sort=expires&limit=4"))[:3] == [
            "dev-00001", "dev-00002", "cam-1",
        ]  # fmt: skip
        row = (await fleet.get("/api/v1/overview?show=online"))["items"][0]
        assert (row["status"], row["expires_level"]) == ("online", "ok")
        assert row["last_seen_ms"] >= row["created_ms"]
    assert (await fleet.ask("GET", "/api/v1/overview?sort=size")).status == 422


async def test_curves_sum_up_numbers_and_show_the_newest_of_others(fleet: WebFleet) -> None:
    base = 1_800_000_000_000
    async with online(fleet, "cam-1") as device:
        for number in range(40):
            await device.send("x", number, time_ms=base + number * 100)
        await device.send("odd", {"a": "<b>"}, time_ms=base + 5)
        await device.send("on", True, time_ms=base + 6)
        await device.send("huge", 1e308, time_ms=base + 7)
        await device.flush(20_000)
    path = f"/api/v1/devices/cam-1/curves?start={base}&end={base + 4000}&points=4"
    found = await fleet.get(path, token="read")
    assert (found["step_ms"], found["is_complete"], found["channels_left_out"]) == (1000, True, 0)
    channels = {one["name"]: one for one in found["channels"]}
    assert channels["x"]["points"] == [
        [base + 500, 0, 4.5, 9], [base + 1500, 10, 14.5, 19],
        [base + 2500, 20, 24.5, 29], [base + 3500, 30, 34.5, 39],
    ]  # fmt: skip
    assert (channels["x"]["value"], channels["x"]["count"]) == (39, 40)
    assert (channels["odd"]["value"], channels["odd"]["points"]) == ({"a": "<b>"}, [])
    assert channels["on"]["points"] == [[base + 500, 1, 1, 1]]
    assert channels["huge"]["points"] == []
    assert (await fleet.ask("GET", path.replace(f"end={base + 4000}", "end=7"))).status == 422
    assert (await fleet.ask("GET", path.replace("cam-1", "cam-2"))).status == 404


async def test_a_device_with_too_many_channels_shows_64(fleet: WebFleet) -> None:
    async with online(fleet, "cam-1") as device:
        for number in range(70):
            await device.send(f"c{number:02}", number)
        await device.flush(20_000)
    found = await fleet.get("/api/v1/devices/cam-1/curves")
    assert (len(found["channels"]), found["channels_left_out"]) == (64, 6)


async def test_alarms_and_logs_come_newest_first_and_in_pages(fleet: WebFleet) -> None:
    async with online(fleet, "cam-1") as first, online(fleet, "cam-2") as second:
        for number in range(10):
            device = (first, second)[number % 2]
            await device.event("door", number)
            await device.send("x", number)
            device.log("info", f"line {number}")
            await device.flush(20_000)
        # Log lines go in the background; flush waits for readings and events.
        await until(
            lambda: fleet.get("/api/v1/devices/cam-1/log"), lambda page: len(page["items"]) == 5
        )
    await _pages(fleet, "/api/v1/alarms?", "value", list(range(9, -1, -1)))
    await _pages(fleet, "/api/v1/alarms?device=cam-2", "value", [9, 7, 5, 3, 1])
    lines = [f"line {number}" for number in (8, 6, 4, 2, 0)]
    await _pages(fleet, "/api/v1/devices/cam-1/log?", "text", lines)
    alarm = (await fleet.get("/api/v1/alarms?limit=1"))["items"][0]
    assert (alarm["device"], alarm["name"]) == ("cam-2", "door")
    assert (await fleet.ask("GET", "/api/v1/alarms?device=cam-3")).status == 404


async def _pages(fleet: WebFleet, path: str, key: str, wanted: list[object]) -> None:
    found: list[object] = []
    cursor = ""
    while True:
        page = await fleet.get(f"{path}&limit=2{cursor}", token="read")
        found += [one[key] for one in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert found == wanted
