"""A real device behind a real server, seen and told over HTTP."""

import hashlib
from typing import Any

import pytest

from fleetnet_server.web.problems import Json
from server.web.devices import HOSTILE, online, until
from server.web.world import Stream, WebFleet


async def test_a_device_is_seen_from_its_coming_to_its_going(fleet: WebFleet) -> None:
    stream = await Stream.open(fleet)
    async with online(fleet, "cam-1") as device:
        opened = await stream.until("session-opened")
        assert (opened["device"], opened["link"]) == ("cam-1", "tls")
        for number in range(5):
            await device.send("x", number, time_ms=1_800_000_000_000 + number)
        await device.event("door", HOSTILE)
        await device.flush(20_000)
        assert (await stream.until("alarm"))["value"] == HOSTILE
        shown = await fleet.get("/api/v1/devices/cam-1", token="read")
        connection = shown["connection"]
        assert (connection["state"], connection["sessions"]) == ("online", 1)
        assert connection["messages"] >= 2
        assert connection["address"] == "127.0.0.1"
        assert shown["expires_ms"] > shown["created_ms"]
        server = await fleet.get("/api/v1/server", token="read")
        assert (server["online"], server["devices"]) == ({"tls": 1}, {"enabled": 1})
        found = await fleet.get("/api/v1/devices?online=true", token="read")
        assert [one["name"] for one in found["items"]] == ["cam-1"]
        assert (await fleet.get("/api/v1/devices?online=false"))["items"] == []
    assert (await stream.until("session-ended"))["device"] == "cam-1"
    after = (await fleet.get("/api/v1/devices/cam-1"))["connection"]
    assert (after["state"], after["messages"]) == ("offline", connection["messages"])
    stream.close()


async def test_readings_come_in_pages_that_leave_nothing_out(fleet: WebFleet) -> None:
    async with online(fleet, "cam-1") as device:
        for number in range(60):
            # Three of each millisecond, so that pages are cut within one.
            await device.send("x", number, time_ms=1_800_000_000_000 + number // 3)
            await device.send("y", -number, time_ms=1_800_000_000_000 + number // 3)
        await device.flush(20_000)
    whole = await fleet.get("/api/v1/readings?device=cam-1")
    assert (len(whole["items"]), whole["next"]) == (120, None)
    for query in ("", "&channel=x", "&start=1800000000003&end=1800000000017"):
        wanted = (await fleet.get(f"/api/v1/readings?device=cam-1{query}"))["items"]
        assert wanted
        found: list[Any] = []
        cursor = ""
        while True:
            path = f"/api/v1/readings?device=cam-1{query}&limit=7{cursor}"
            page = await fleet.get(path, token="read")
            assert len(page["items"]) <= 7
            found += page["items"]
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        assert found == wanted, query
    times = [one["unix_ms"] for one in wanted]
    assert (min(times), max(times)) == (1_800_000_000_003, 1_800_000_000_016)


async def test_a_command_is_run_and_bears_the_name_of_its_token(fleet: WebFleet) -> None:
    path = "/api/v1/devices/cam-1/call"
    async with online(fleet, "cam-1"):
        good = await fleet.ask("POST", path, {"name": "double", "args": [21]}, token="command")
        assert (good.json["state"], good.json["result"]) == ("ok", 42)
        assert good.json["issuer"] == "token:command"
        again = await fleet.get(f"/api/v1/commands/{good.json['id']}")
        assert again == good.json
        bad = await fleet.ask("POST", path, {"name": "fail"}, token="command")
        assert bad.json["state"] == "error"
        assert bad.json["error"]["type"] == "ValueError"
        unknown = await fleet.ask("POST", path, {"name": "nothing"}, token="command")
        assert unknown.json["state"] == "unknown"
    away = await until(
        lambda: fleet.ask("POST", path, {"name": "double"}), lambda answer: answer.status == 409
    )
    assert "`expires_s` lets the command wait" in away.json["detail"]
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    odd = await fleet.ask("POST", path, b'{"name": "double"}', headers=form)
    assert (odd.status, odd.json["title"]) == (415, "Unsupported Media Type")
    assert "Content-Type: application/json" in odd.json["detail"]
    later = {"name": "double", "args": [1], "expires_s": 60, "wait_s": 0}
    kept = await fleet.ask("POST", path, later)
    assert kept.json["state"] == "queued"
    async with online(fleet, "cam-1"):
        ended = await until(
            lambda: fleet.get(f"/api/v1/commands/{kept.json['id']}"),
            lambda one: one["ended_ms"] is not None,
        )
        assert ended["result"] == 2
    listed = (await fleet.get("/api/v1/commands?device=cam-1&limit=2"))["items"]
    assert listed[0]["id"] == kept.json["id"]
    entries = (await fleet.get("/api/v1/audit?action=command"))["items"]
    assert {entry["actor"] for entry in entries} == {"token:command", "token:admin"}


async def test_a_configuration_arrives_and_is_answered(fleet: WebFleet) -> None:
    path = "/api/v1/devices/cam-1/config"
    stream = await Stream.open(fleet, "?kind=config-applied&kind=config-rejected")
    async with online(fleet, "cam-1"):
        assert (await fleet.ask("GET", path)).status == 404
        answer = await fleet.ask("PUT", path, {"document": {"rate": 5}}, token="config")
        assert answer.json == {"device": "cam-1", "version": 1}
        event = await stream.next()
        assert (event["device"], event["version"]) == ("cam-1", 1)
        found = await until(lambda: fleet.get(path), lambda one: one["state"] is not None)
        assert (found["document"], found["state_version"]) == ({"rate": 5}, 1)
    (entry,) = (await fleet.get("/api/v1/audit?action=config-set"))["items"]
    assert (entry["actor"], entry["device"]) == ("token:config", "cam-1")
    stream.close()


async def test_blobs_frames_and_names_that_a_device_chose(fleet: WebFleet) -> None:
    picture = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 40
    async with online(fleet, "cam-1") as device:
        await device.send_blob('a"; filename=evil.html\r\nX: y', picture, 22)
        await device.send_blob("page.html", b"<script>alert(1)</script>", 0)
    found = (await fleet.get("/api/v1/blobs?device=cam-1", token="read"))["items"]
    assert [one["name"] for one in found] == ["page.html", 'a"; filename=evil.html\r\nX: y']
    frame = await fleet.ask("GET", "/api/v1/devices/cam-1/frame", token="read")
    assert hashlib.sha256(frame.body).hexdigest() == found[1]["sha256"]
    assert frame.headers["content-type"] == "image/jpeg"
    assert "x" not in frame.headers
    assert frame.headers["content-disposition"].startswith("inline; filename*=UTF-8''a%22%3B")
    page = await fleet.ask("GET", f"/api/v1/blobs/{found[0]['id']}/content", token="read")
    assert page.headers["content-type"].startswith("text/plain")
    assert page.headers["content-disposition"].startswith("attachment")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in page.headers["content-security-policy"]
    part = await fleet.ask(
        "GET", f"/api/v1/blobs/{found[1]['id']}/content", headers={"Range": "bytes=0-3"}
    )
    assert (part.status, part.body) == (206, picture[:4])
    assert (await fleet.ask("GET", "/api/v1/devices/cam-1/frame", token="command")).status == 403


@pytest.mark.parametrize("value", [HOSTILE, 2**62, -0.0, [[[[{}]]]], {"a": None, "<b>": True}])
async def test_any_value_of_a_device_comes_through(fleet: WebFleet, value: Any) -> None:
    stream = await Stream.open(fleet, "?kind=readings&kind=live")
    async with online(fleet, "cam-1") as device:
        await device.send("v", value, time_ms=1_800_000_000_000)
        await device.flush(20_000)
        event = await stream.until("readings")
        (reading,) = (await fleet.get("/api/v1/readings"))["items"]
        assert reading["value"] == value
        assert event["readings"][0]["value"] == value
        assert device.send_live("v", value)
        assert (await stream.until("live"))["readings"][0]["value"] == value
        shown = await fleet.get("/api/v1/devices/cam-1/live", token="read")
        assert [one["value"] for one in shown["readings"]] == [value]


def test_half_a_surrogate_pair_can_be_answered() -> None:
    """JSON can say it, UTF-8 cannot."""
    assert Json({"value": "\ud800"}).body == b'{"value":"\\ud800"}'


async def test_the_registry_is_changed_and_the_session_ends(fleet: WebFleet) -> None:
    async with online(fleet, "cam-1"):
        changed = await fleet.ask(
            "PATCH", "/api/v1/devices/cam-1", {"group": "barn", "labels": {"floor": "2"}}
        )
        assert (changed.json["group"], changed.json["labels"]) == ("barn", {"floor": "2"})
        found = (await fleet.get("/api/v1/devices?group=barn&label=floor=2"))["items"]
        assert [one["name"] for one in found] == ["cam-1"]
        assert (await fleet.get("/api/v1/devices?label=floor=3"))["items"] == []
        wrong = await fleet.ask("PATCH", "/api/v1/devices/cam-1", {"labels": {"": "x"}})
        assert wrong.status == 422
        assert (await fleet.ask("POST", "/api/v1/devices/cam-1/disable")).status == 200
        await until(
            lambda: fleet.get("/api/v1/devices/cam-1"),
            lambda one: one["connection"]["state"] == "offline",
        )
    assert (await fleet.ask("POST", "/api/v1/devices/cam-1/enable")).json["state"] == "enabled"
    revoked = await fleet.ask("POST", "/api/v1/devices/cam-1/revoke?reason=key-compromise")
    assert len(revoked.json["revoked"]) == 1
    shown = await fleet.get("/api/v1/devices/cam-1")
    assert (shown["state"], shown["credential"]) == ("enabled", "revoked")
    assert (await fleet.get("/api/v1/overview"))["items"][0]["credential"] == "revoked"
    story = await fleet.get("/api/v1/devices/cam-1/identities")
    assert story["certificates"][0]["reason"] == "key-compromise"
    assert (await fleet.ask("DELETE", "/api/v1/devices/cam-1")).status == 200
    assert (await fleet.ask("GET", "/api/v1/devices/cam-1")).status == 404
    assert not (fleet.devices_folder / "cam-1").exists()
    entries = (await fleet.get("/api/v1/audit?device=cam-1"))["items"]
    by_token = [one["action"] for one in entries if one["actor"] == "token:admin"]
    assert by_token == [
        "device-remove", "device-revoke", "device-enable", "device-disable", "device-set",
    ]  # fmt: skip


async def test_a_query_of_an_unknown_parameter_is_refused_by_name(fleet: WebFleet) -> None:
    for path in ("/api/v1/devices?gruop=cams", "/api/v1/audit?devcie=cam-1&limit=5"):
        answer = await fleet.ask("GET", path)
        assert answer.status == 422, path
        wrong = path.partition("?")[2].partition("=")[0]
        assert wrong in answer.json["detail"] and "limit" in answer.json["detail"]
    answer = await fleet.ask("GET", "/api/v1/devices?gruop=cams", token=None)
    assert answer.status == 401
