"""Every curl line of docs/api.md runs, in order, and is answered well."""

import asyncio
import json
import shlex
import shutil
from pathlib import Path

import pytest

from rules.tree import ROOT
from server.web.devices import online
from server.web.test_access import Enrolling
from server.web.test_scopes import routes
from server.web.world import PATIENCE_S, WebFleet

PAGE = ROOT / "docs" / "api.md"
CURL = shutil.which("curl")

# How their answers begin, where it is not JSON.
ENDLESS = "curl -sN "


def lines() -> list[str]:
    found = [line.strip() for line in PAGE.read_text().splitlines() if line.startswith("    curl ")]
    assert len(found) > 12
    return found


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
async def test_every_line_of_the_page_is_answered_well(tmp_path: Path) -> None:
    fleet = Enrolling(tmp_path / "fleet")
    try:
        await fleet.start_server()
        await asyncio.to_thread(fleet.add_device, "cam-2", "tls")
        async with online(fleet, "cam-1") as device:
            await device.send("temp", 21.5)
            await device.send_blob("frame", b"\xff\xd8\xff" * 100, 22)
            await device.flush(20_000)
            for line in lines():
                await run(fleet, line, tmp_path)
        assert (tmp_path / "frame.jpg").read_bytes() == b"\xff\xd8\xff" * 100
    finally:
        await fleet.close()


async def run(fleet: WebFleet, line: str, folder: Path) -> None:
    url = "http://{}:{}".format(*fleet.web)
    text = line.replace("http://localhost:8080", url)
    if line.startswith(ENDLESS):
        # It ends with 28: the time is over. What came by then is an answer's head.
        text = text.replace("curl -sN", "curl -sN --max-time 3 -D -")
    token = fleet.tokens["admin"]
    variables = f"TOKEN={token}; AUTH='Authorization: Bearer {token}'; API={url}/api/v1;"
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", f"{variables} {text} -w '\\n%{{http_code}}'",
        stdout=asyncio.subprocess.PIPE, cwd=folder,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    body, _, status = out.decode().rpartition("\n")
    if line.startswith(ENDLESS):
        assert (process.returncode, status) == (28, "200"), (line, out)
        assert "text/event-stream" in body
        return
    assert process.returncode == 0, line
    assert status in ("200", "201", "204"), (line, out)
    if body:
        found = json.loads(body)
        if not found.get("items", True) and found["next"]:
            # A page that took longer than a second: a client goes on from there.
            return await run(fleet, f'{line[:-1]}&cursor={found["next"]}"', folder)
        # What the page asks for is there.
        assert found.get("items", True), (line, found)
        if "/call" in line:
            assert found["result"] == 42


async def test_the_page_names_every_route(fleet: WebFleet) -> None:
    text = PAGE.read_text()
    for route in routes(await fleet.get("/api/openapi.json", token=None)):
        path = route.partition(" ")[2].removeprefix("/api/v1").replace("{name}", "NAME")
        path = path.replace("{command_id}", "ID").replace("{blob_id}", "ID")
        # enable, disable, revoke, renew: "and so on".
        last = path.rpartition("/")[2]
        assert path in text or f"`{last}`" in text, f"docs/api.md lacks {route}"


def test_the_lines_are_shell() -> None:
    for line in lines():
        assert shlex.split(line)[0] == "curl"
