"""The supervisor, with small processes in the place of its own: starts, ends, and starts again."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fleetnet_server.config import Settings
from fleetnet_server.errors import ConfigError, FolderError, StoreError
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.served import find_server
from fleetnet_server.workers import processes as processes_module
from fleetnet_server.workers import supervisor as supervisor_module
from fleetnet_server.workers.supervisor import Supervisor

PATIENCE_S = 60.0  # a dozen starts of Python, one after the other


class World:
    """A supervisor and what its children wrote."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.made: list[Supervisor] = []

    def supervisor(self, **settings: object) -> Supervisor:
        found = {"bind": "127.0.0.1", "tls_port": 0, "dtls_port": 0, "workers": 2, **settings}
        made = Supervisor(self.folder, Settings(**found), True, False)  # type: ignore[arg-type]
        self.made.append(made)
        return made

    def heard(self, name: str) -> list[str]:
        path = self.folder / "heard"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{name} ")]

    def starts(self, name: str) -> int:
        return self.heard(name).count("starts")

    async def until(self, is_true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_true():
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(supervisor_module, "_STORE", "small_child")
    monkeypatch.setattr(supervisor_module, "_WORKER", "small_child")
    folder = tmp_path / "fleet"
    create_fleet(folder, ("localhost",))
    made = World(folder)
    yield made
    for one in made.made:
        await one.stop()


async def test_all_processes_serve_and_end_in_order(world: World) -> None:
    made = world.supervisor()
    await made.start()
    assert [world.starts(name) for name in ("store", "worker-0", "worker-1")] == [1, 1, 1]
    assert made.ports["web_port"] == 8080
    server = find_server(world.folder)
    assert server is not None and (server.pid, server.ports) == (os.getpid(), made.ports)
    with pytest.raises(FolderError, match="another `fleetnet serve`"):
        world.supervisor()
    await made.stop()
    order = (world.folder / "heard").read_text().splitlines()
    ends = [line.split()[0] for line in order if line.endswith("SIGTERM")]
    assert sorted(ends[:2]) == ["worker-0", "worker-1"] and ends[2:] == ["store"]
    assert 'store {"do": "drain"}' in order
    assert find_server(world.folder) is None


async def test_a_process_that_cannot_start_says_why(world: World) -> None:
    (world.folder / "fail-worker-1").touch()
    with pytest.raises(StoreError, match="it is not to be"):
        await world.supervisor().start()
    # Nothing is left behind: the folder and the ports are free.
    assert find_server(world.folder) is None
    (world.folder / "fail-worker-1").unlink()
    (world.folder / "crash-store").touch()
    with pytest.raises(ConfigError, match="exit code 3"):
        await world.supervisor().start()


async def test_a_dead_process_is_started_again_with_the_same_sockets(world: World) -> None:
    made = world.supervisor()
    await made.start()
    worker = made._workers[0]
    before, numbers = worker.pid, dict(worker._setup.sockets)
    os.kill(before, signal.SIGKILL)
    await world.until(lambda: world.starts("worker-0") == 2 and worker.is_ready)
    assert worker.pid != before
    assert worker._setup.sockets == numbers
    assert (world.starts("worker-1"), world.starts("store")) == (1, 1)
    await world.until(
        lambda: json.dumps({"do": "note-restarts", "restarts": [1, 0]}) in world.heard("store")
    )


async def test_a_process_that_crashes_at_its_start_does_not_spin(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float, result: object = None) -> None:
        # Small ones are this test's, large ones the watch's.
        if supervisor_module._FIRST_PAUSE_S <= seconds and seconds != supervisor_module._LOOK_S:
            pauses.append(seconds)
            seconds = 0.01
        await real(seconds)

    made = world.supervisor()
    await made.start()
    monkeypatch.setattr(supervisor_module.asyncio, "sleep", sleep)
    (world.folder / "crash-worker-1").touch()
    os.kill(made._workers[1].pid, signal.SIGKILL)
    await world.until(lambda: len(pauses) >= 12)
    assert pauses[:4] == [0.05, 0.1, 0.2, 0.4]
    assert pauses[10:12] == [30.0, 30.0]
    assert made._workers[0].is_ready and world.starts("worker-0") == 1
    (world.folder / "crash-worker-1").unlink()
    await world.until(lambda: made._workers[1].is_ready)


async def test_a_process_that_cannot_be_forked_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world.supervisor()
    await made.start()
    real = asyncio.create_subprocess_exec
    failures = [BlockingIOError(11, "no more processes"), OSError(12, "no memory")]

    async def fork(*arguments: object, **more: object) -> object:
        if failures:
            raise failures.pop()
        return await real(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fork)
    os.kill(made._workers[1].pid, signal.SIGKILL)
    await world.until(lambda: world.starts("worker-1") == 2 and made._workers[1].is_ready)
    assert not failures


async def test_a_process_that_hangs_is_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "_HANGS_S", 3.0)
    monkeypatch.setattr(supervisor_module, "_LOOK_S", 0.2)
    made = world.supervisor()
    await made.start()
    (world.folder / "mute-worker-0").touch()
    await world.until(lambda: world.starts("worker-0") == 2)
    assert world.starts("worker-1") == 1


async def test_time_in_which_nothing_ran_is_nobodys_silence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that was paused ended all its processes, and with them every session."""
    ahead_s = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead_s)
    for module in (supervisor_module, processes_module):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(supervisor_module, "_LOOK_S", 0.1)
    made = world.supervisor()
    await made.start()
    before = [child.pid for child in made._children]
    for child in made._children:
        (world.folder / f"mute-{child.name}").touch()
    await asyncio.sleep(0.2)  # until they say nothing
    ahead_s = 2 * supervisor_module._HANGS_S
    await asyncio.sleep(0.5)  # some looks
    assert [child.pid for child in made._children] == before


async def test_every_process_reads_its_files_anew(world: World) -> None:
    made = world.supervisor()
    told: list[str] = []
    made._manager.ready = told.append  # type: ignore[method-assign]
    await made.start()
    async with asyncio.timeout(PATIENCE_S):
        await made.reload()
    # One of them said that it was not complete.
    assert "not complete" in told[-1]


async def test_the_service_manager_hears_of_one_server(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        monkeypatch.setattr(
            supervisor_module, "Manager",
            lambda: _real_manager({"NOTIFY_SOCKET": str(tmp_path / "notify")}),
        )  # fmt: skip
        made = world.supervisor()
        await made.start()
        said = (await asyncio.to_thread(manager.recv, 4096)).decode()
        assert said.startswith("READY=1\nSTATUS=2 workers on ")
        os.kill(made._workers[0].pid, signal.SIGKILL)
        said = (await asyncio.to_thread(manager.recv, 4096)).decode()
        assert "down: ['worker-0']" in said
        await world.until(lambda: made._workers[0].is_ready)


_real_manager = supervisor_module.Manager
