"""`fleetnet doctor --port`: the small doctor on a board; real MicroPython behind a terminal."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from end_to_end.fleet import Fleet
from interpreters import Interpreter, interpreters
from provision.pty_board import PtyBoard
from server.cli.running import tried
from server.doctor.bundles import diagnose


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with Fleet(tmp_path / "fleet") as made:
        yield made


@pytest.fixture(params=interpreters(), ids=lambda each: each.name)
def runtime(request: pytest.FixtureRequest) -> Interpreter:
    return request.param  # type: ignore[no-any-return]


async def install(fleet: Fleet, board: PtyBoard) -> None:
    bundle = fleet.add_device("cam-1", "auto")
    path = bundle / "config.json"
    document = json.loads(path.read_text())
    document.update(tls_port=fleet.tls[1], dtls_port=fleet.dtls[1])
    path.write_text(json.dumps(document))
    answer = await asyncio.to_thread(
        tried, "-C", fleet.folder, "device", "install", board.port, "--device", "cam-1",
        "--no-test",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr


async def test_a_board(runtime: Interpreter, fleet: Fleet, tmp_path: Path) -> None:
    flash = tmp_path / "flash"
    with PtyBoard(runtime, flash) as board:
        bare = await diagnose("doctor", "--port", board.port)
        assert "there are no credentials on the board" in bare.only()
        assert f"device install {board.port}" in bare.only()
        await install(fleet, board)
        found = await diagnose("doctor", "--port", board.port)
        assert found.bad() == []
        assert "would take cam-1" in found.ok("session")
        assert "MicroPython" in found.ok("board")
        answer = await asyncio.to_thread(
            tried, "-C", fleet.folder, "device", "disable", "cam-1"
        )
        assert answer.returncode == 0
        found = await diagnose("doctor", "--port", board.port)
        assert any("device is disabled -> `fleetnet device enable" in each for each in found.bad())
    # The same flash on a board with too little heap for it.
    with PtyBoard(runtime, flash, heap="64K") as board:
        found = await diagnose("doctor", "--port", board.port)
    (heap,) = [one for one in found.bad() if one.startswith("heap")]
    assert "docs/memory.md" in heap


async def test_no_board(tmp_path: Path) -> None:
    answer = await asyncio.to_thread(tried, "doctor", "--port", tmp_path / "none")
    assert answer.returncode == 1
    assert "no such port" in answer.stderr


async def test_a_board_without_the_doctor(
    runtime: Interpreter, fleet: Fleet, tmp_path: Path
) -> None:
    flash = tmp_path / "flash"
    with PtyBoard(runtime, flash) as board:
        await install(fleet, board)
        for path in flash.glob("lib/**/fleetnet_device/doctor*"):
            path.unlink()
        found = await diagnose("doctor", "--port", board.port)
    assert "its doctor, is not on the board" in found.only()
