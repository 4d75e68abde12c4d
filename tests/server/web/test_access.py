"""Devices, claims and tokens over HTTP: what is shown once, and what is refused from then on."""

import json
from pathlib import Path

from fleetnet_server.store.claims import token_hash
from fleetnet_server.store.sqlite import SqliteStore
from server.web.devices import online, until
from server.web.world import WebFleet


class Enrolling(WebFleet):
    """A fleet with a port for claims."""

    def environment(self) -> dict[str, str]:
        return super().environment() | {"FLEETNET_ENROL_PORT": str(self.web[1] + 1)}


async def test_a_device_is_registered_and_claimed(tmp_path: Path) -> None:
    fleet = Enrolling(tmp_path / "fleet")
    try:
        await fleet.start_server()
        made = await fleet.ask("POST", "/api/v1/devices", {"name": "cam-1"})
        assert (made.status, made.json["state"]) == (201, "enabled")
        assert (await fleet.ask("POST", "/api/v1/devices", {"name": "cam-1"})).status == 409
        assert (await fleet.ask("POST", "/api/v1/devices", {"name": "A b"})).status == 422
        path = "/api/v1/devices/cam-2/claim"
        claimed = await fleet.ask("POST", path, {"days": 1, "transport": "tls"})
        assert claimed.status == 201
        token = claimed.json["token"]
        config = claimed.json["config"]
        assert config["claim"] == {"token": token, "port": fleet.web[1] + 1}
        assert (config["name"], config["transport"]) == ("cam-2", "tls")
        assert config["pins"]
        listed = await fleet.get("/api/v1/claims")
        (one,) = listed["items"]
        assert (one["device"], one["is_answered"]) == ("cam-2", False)
        assert token not in json.dumps(listed)
        with SqliteStore(fleet.store) as store:
            assert store.read("SELECT token FROM claims") == [(token_hash(token),)]
        # The claim before is of no use any more.
        again = await fleet.ask("POST", path, {})
        assert again.json["token"] != token
        assert len((await fleet.get("/api/v1/claims"))["items"]) == 1
        assert token not in fleet.log()
    finally:
        await fleet.close()


async def test_claims_need_a_port(fleet: WebFleet) -> None:
    answer = await fleet.ask("POST", "/api/v1/devices/cam-1/claim", {})
    assert answer.status == 409
    assert "set enrol_port" in answer.json["detail"]
    assert (await fleet.ask("GET", "/api/v1/devices/cam-1")).status == 404


async def test_a_new_identity_is_asked_for(fleet: WebFleet) -> None:
    path = "/api/v1/devices/cam-1/renew"
    assert (await fleet.ask("POST", path)).status == 404
    async with online(fleet, "cam-1"):
        assert (await fleet.ask("POST", path)).json == {"asked": ["cam-1"]}
        story = await until(
            lambda: fleet.get("/api/v1/devices/cam-1/identities"),
            lambda found: len(found["certificates"]) == 2,
        )
        assert story["certificates"][0]["serial"] != story["certificates"][1]["serial"]
    ends = (await fleet.get("/api/v1/certificates?limit=1", token="read"))["items"]
    assert len(ends) == 1


async def test_a_token_is_made_shown_once_and_revoked(fleet: WebFleet) -> None:
    wanted = {"name": "grafana", "scopes": ["read"], "expires_s": 3600}
    made = await fleet.ask("POST", "/api/v1/tokens", wanted)
    assert (made.status, made.json["scopes"]) == (201, ["read"])
    token = made.json["token"]
    assert (await fleet.ask("POST", "/api/v1/tokens", wanted)).status == 409
    assert (await fleet.ask("POST", "/api/v1/tokens", {"name": "x", "scopes": []})).status == 422
    assert (await fleet.ask("GET", "/api/v1/session", token=token)).status == 200
    first = await fleet.get("/api/v1/tokens?limit=3")
    rest = await fleet.get(f"/api/v1/tokens?limit=3&cursor={first['next']}")
    names = [one["name"] for one in first["items"] + rest["items"]]
    assert (names, rest["next"]) == (["admin", "command", "config", "grafana", "read"], None)
    assert token not in json.dumps([first, rest])
    gone = await fleet.ask("DELETE", "/api/v1/tokens/grafana")
    assert (gone.status, gone.body) == (204, b"")
    assert (await fleet.ask("GET", "/api/v1/session", token=token)).status == 401
    assert (await fleet.ask("DELETE", "/api/v1/tokens/grafana")).status == 404
    entries = (await fleet.get("/api/v1/audit"))["items"]
    actions = [one["action"] for one in entries if one["actor"] == "token:admin"]
    assert actions == ["token-revoke", "token-add"]


async def test_numbers_are_summed_up_in_pages(fleet: WebFleet) -> None:
    hour = 3_600_000
    first = 1_800_000_000_000 // hour * hour
    async with online(fleet, "cam-1") as device:
        for number in range(12):
            await device.send("x", number, time_ms=first + number * hour // 2)
        await device.flush(20_000)
    path = f"/api/v1/summaries?device=cam-1&channel=x&start={first}&end={first + 6 * hour}"
    whole = await fleet.get(path, token="read")
    assert whole["next"] is None
    assert [(one["unix_ms"] - first) // hour for one in whole["items"]] == [0, 1, 2, 3, 4, 5]
    assert whole["items"][1] | {"unix_ms": 0} == {
        "unix_ms": 0, "count": 2, "low": 2, "high": 3, "mean": 2.5,
    }  # fmt: skip
    found, cursor = [], ""
    while True:
        page = await fleet.get(f"{path}&limit=2{cursor}")
        found += page["items"]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert found == whole["items"]
    days = await fleet.get(f"{path}&step=day")
    assert sum(one["count"] for one in days["items"]) == 12
    assert (await fleet.ask("GET", path.replace("cam-1", "nobody"))).status == 404
    assert (await fleet.ask("GET", "/api/v1/summaries?device=cam-1")).status == 422
