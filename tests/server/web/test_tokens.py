"""Tokens: shown once, stored as a hash, refused when revoked, expired or wrong; and cookies."""

import asyncio
import json
import sqlite3
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleetnet_server.cli.main import main
from fleetnet_server.errors import ConfigError, StoreError
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.tokens import TokenTable
from server.web.devices import until
from server.web.world import WebFleet


def test_a_token_is_in_no_file(tmp_path: Path) -> None:
    runner = CliRunner()
    folder = str(tmp_path / "fleet")
    assert runner.invoke(main, ["init", folder]).exit_code == 0
    arguments = ["-C", folder, "token", "add", "grafana", "--scope", "read", "--json"]
    made = json.loads(runner.invoke(main, arguments).stdout)
    assert made["scopes"] == ["read"]
    assert made["token"].startswith("fnt_")
    for path in Path(folder).rglob("*"):
        if path.is_file():
            assert made["token"].encode() not in path.read_bytes(), path
    listed = runner.invoke(main, ["-C", folder, "token", "list", "--json"]).stdout
    assert made["token"] not in listed
    assert [one["name"] for one in json.loads(listed)] == ["grafana"]
    again = runner.invoke(main, arguments)
    assert again.exit_code == 1
    assert "choose another name" in again.output
    gone = runner.invoke(main, ["-C", folder, "token", "revoke", "grafana"])
    assert gone.stdout == "Token grafana revoked.\n"
    missing = runner.invoke(main, ["-C", folder, "token", "revoke", "grafana"])
    assert "see `fleetnet token list`" in missing.output
    audit = runner.invoke(main, ["-C", folder, "audit", "--json"]).stdout
    actions = [json.loads(line)["action"] for line in audit.splitlines()]
    assert actions == ["token-add", "token-revoke"]


def test_only_names_and_scopes_that_mean_something(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "fleet.db") as store:
        table = TokenTable(store)
        for name, scopes in (("", ("read",)), ("A b", ("read",)), ("x", ()), ("x", ("root",))):
            with pytest.raises(ConfigError):
                table.add(name, scopes, "test")
        made = table.add("x", ("admin", "read"), "test")
        with pytest.raises(StoreError):
            table.add("x", ("read",), "test")
        found = table.find(made)
        assert found is not None
        assert found.actor == "token:x"
        for wrong in ("", made[:-1], made + "A", made.lower(), "fnt_" + "A" * 32, "\ud800"):
            assert table.find(wrong) is None
        late = table.add("late", ("read",), "test", time.time_ns() // 1_000_000 - 1)
        assert table.find(late) is None


async def test_a_revoked_token_is_refused_at_once(fleet: WebFleet) -> None:
    path = "/api/v1/session"
    assert (await fleet.get(path, token="read")) == {"name": "read", "scopes": ["read"]}
    with SqliteStore(fleet.store) as store:
        TokenTable(store).revoke("read", "test")
    assert (await fleet.ask("GET", path, token="read")).status == 401
    fleet.add_token("short", "read", expires_ms=1)
    assert (await fleet.ask("GET", path, token="short")).status == 401
    # Its use is noted, to the minute.
    database = sqlite3.connect(f"file:{fleet.store}?mode=ro", uri=True)
    (used_ms,) = database.execute("SELECT used_ms FROM tokens WHERE name = 'admin'").fetchone()
    database.close()
    assert used_ms is None


async def test_an_address_that_guesses_is_sent_away(fleet: WebFleet) -> None:
    async def ask(token: str) -> int:
        return (await fleet.ask("GET", "/api/v1/session", token=token)).status

    # The same one again is a program that was not told of a new one: it shuts out nobody.
    assert {await ask("fnt_" + "A" * 32) for _ in range(30)} == {401}
    assert await ask("read") == 200
    wrong = ["fnt_" + letter * 32 for letter in "BCDEFGHIJKLMNOPQRSTUV"]
    assert [await ask(token) for token in wrong] == [401] * 19 + [429] * 2
    assert await ask("command") == 429
    # Behind a proxy all have one address: who was let in before goes on.
    assert await ask("read") == 200
    with SqliteStore(fleet.store) as store:
        TokenTable(store).revoke("read", "test")
    assert [await ask("read"), await ask("read")] == [401, 429]
    rows = await until(lambda: asyncio.to_thread(refusals, fleet), bool)
    assert rows == [("127.0.0.1",)]
    lines = [json.loads(line) for line in fleet.log().splitlines()]
    (line,) = [line for line in lines if line["event"] == "token refused"]
    assert (line["level"], line["address"]) == ("warning", "127.0.0.1")


def refusals(fleet: WebFleet) -> list[tuple[object, ...]]:
    with SqliteStore(fleet.store) as store:
        return store.read("SELECT actor FROM audit WHERE action = 'token-refused'")


async def test_a_cookie_is_only_taken_from_our_own_page(fleet: WebFleet) -> None:
    body = {"token": fleet.tokens["config"]}
    login = await fleet.ask("POST", "/api/v1/session", body, token=None)
    assert login.json == {"name": "config", "scopes": ["config"]}
    cookie = login.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    fleet.add_device("cam-1", "tls")

    async def put(**headers: str) -> int:
        sent = {"Cookie": cookie.partition(";")[0], **headers}
        path = "/api/v1/devices/cam-1/config"
        answer = await fleet.ask("PUT", path, {"document": {}}, token=None, headers=sent)
        return answer.status

    host = "{}:{}".format(*fleet.web)
    own = {"Sec-Fetch-Site": "same-origin"}
    assert await put(**own) == 200
    assert await put(Origin=f"http://{host}") == 200
    assert await put() == 403
    assert await put(Origin="http://evil.example") == 403
    assert await put(**{"Sec-Fetch-Site": "cross-site", "Origin": f"http://{host}"}) == 403
    foreign = {"Sec-Fetch-Site": "cross-site"}
    body = {"token": fleet.tokens["admin"]}
    answer = await fleet.ask("POST", "/api/v1/session", body, token=None, headers=foreign)
    assert answer.status == 403
    assert "set-cookie" not in answer.headers
