"""SIGHUP, SIGTERM and kill -9 in turn, under the load of `fleetnet sim` over TLS and DTLS.

Nothing that was acknowledged is lost: what the devices sent, what was acknowledged to them and
what the store has are the same. It takes its time because each signal has to meet a server that
is at work, and a fleet of devices with the pauses of the real library has to come back twice.
"""

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from end_to_end.device_process import until
from end_to_end.fleet import Fleet
from fleetnet_server.store import schema

HASTY = Path(__file__).with_name("hasty_server.py")
DEVICES, RATE = 40, 10

# What is received waits so long for its commit: every signal meets messages in that state.
COMMIT_INTERVAL_MS = 300


class Load:
    """`fleetnet sim` beside a server of ours; the devices are half TLS, half DTLS."""

    def __init__(self, fleet: Fleet, seconds: int):
        self._fleet = fleet
        self._seconds = seconds

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._fleet.command(
                "sim", "--devices", str(DEVICES), "--rate", str(RATE), "--ramp", "0",
                "--seconds", str(self._seconds), "--json",
            ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._fleet.environment(),
        )  # fmt: skip

    async def flows(self) -> None:
        """Wait until half of the devices have something new in the store: others come still."""
        now_ms = int(time.time() * 1000)
        sql = f"SELECT count(DISTINCT device) FROM messages WHERE received > {now_ms}"
        await until(lambda: self._count(sql) >= DEVICES // 2, "half of the devices send")

    def _count(self, sql: str) -> int:
        connection = schema.open_readable(self._fleet.store)
        try:
            return int(connection.execute(sql).get)
        finally:
            connection.close()

    async def report(self) -> tuple[int, dict[str, Any]]:
        """Wait for its end; return its exit code and its report."""
        out, noise = await asyncio.wait_for(self._process.communicate(), 120)
        assert b"Traceback" not in noise, noise.decode()
        assert self._process.returncode is not None
        return self._process.returncode, json.loads(out)

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()


async def test_nothing_that_was_acknowledged_is_lost(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet", COMMIT_INTERVAL_MS)
    load = Load(fleet, seconds=10)
    settings = fleet.folder / "fleetnet.toml"
    try:
        await fleet.start_server()
        await load.start()
        await load.flows()
        server = fleet._server
        assert server is not None
        settings.write_text(settings.read_text() + "\nmax_sessions = 1000\ncommit_rows = 100\n")
        os.kill(server.pid, signal.SIGHUP)
        await until(lambda: "need a restart" in fleet.log(), "the files were read")
        await load.flows()
        took_s = await fleet.terminate_server()
        await fleet.start_server()
        await load.flows()
        await fleet.kill_server()
        await fleet.start_server()
        code, found = await load.report()
    finally:
        await load.close()
        await fleet.close()
    print({"drain_s": round(took_s, 2)}, {key: found[key] for key in ("sent", "connects", "store")})
    assert code == 0, found
    assert 0 < found["sent"] == found["acknowledged"] == found["store"]["stored"], found
    assert found["store"]["lost"] == found["store"]["twice"] == found["dropped"] == 0, found
    # SIGHUP ended no session; SIGTERM and SIGKILL ended all that there were.
    assert 2 * DEVICES <= found["connects"] <= 3 * DEVICES, found


async def test_control_a_server_that_acknowledges_too_early_is_found(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    load = Load(fleet, seconds=3)
    try:
        await fleet.start_server(HASTY)
        await load.start()
        await until((fleet.folder / "hasty").exists, "it acknowledged what it has not stored")
        await fleet.kill_server()
        await fleet.start_server()
        code, found = await load.report()
    finally:
        await load.close()
        await fleet.close()
    assert code == 1, found
    assert found["sent"] == found["acknowledged"] > found["store"]["stored"], found
    assert found["store"]["lost"] > 0, found
