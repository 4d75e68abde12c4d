"""A fleet whose server has workers, devices of the real library beside the test, and who is where.

    async with WorkersFleet(tmp_path / "fleet", workers=3) as fleet:
        senders = await fleet.start_senders(6, "dtls")
        fleet.worker_of("cam-1"), fleet.pids()["worker-1"]

Devices are objects beside the test, whose sessions can be told apart.
"""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

from end_to_end.device_process import until
from end_to_end.fleet import Fleet
from end_to_end.store_check import Account
from fleetnet_device import Device
from fleetnet_server.store.opening import open_store
from fleetnet_server.store_place import PostgresPlace

# A restart is a second of Python's start; a device notices a dead association after eight.
PATIENCE_S = 60.0

# Between two readings of a sender.
_PERIOD_S = 0.05


class KnownDevice(Device):
    """A device that remembers its sessions, and why they ended."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.heard: list[str] = []
        self.session_ids: list[str] = []
        super().__init__(*args, **kwargs)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "last_error" and value is not None:
            self.heard.append(str(value))
        super().__setattr__(name, value)

    def _opened(self, event: Any) -> None:
        super()._opened(event)
        self.session_ids.append(event.welcome.session_id.hex())


class Sender:
    """Sends pairs of readings, as store_check wants them, from ``start`` to ``finish``."""

    def __init__(self, name: str, bundle: Path):
        self.name = name
        self.device = KnownDevice(str(bundle))
        self.ran: list[str] = []
        self._task: asyncio.Task[None] | None = None

        @self.device.command()
        def ping(text: str) -> str:
            self.ran.append(text)
            return f"{self.name} {text}"

        @self.device.config.on_change
        def take(document: dict[str, Any]) -> dict[str, Any]:
            return document

    async def start(self) -> None:
        await self.device.start()
        self._task = asyncio.create_task(self._send())

    async def _send(self) -> None:
        count = 0
        while True:
            await self.device.send("temperature", 20.5)
            await self.device.send("count", count)
            count += 1
            await asyncio.sleep(_PERIOD_S)

    async def finish(self) -> Account:
        """Send no more, have all acknowledged, and say good-bye."""
        await self.end_sending()
        assert await self.device.flush(30_000), self.story()
        await self.device.stop()
        return self.account()

    async def end_sending(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            # Between two pairs: half of one would be no reading too few.
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def account(self) -> Account:
        device = self.device
        return Account(self.name, device.sent, device.acknowledged, device.dropped)

    async def until_acknowledged(self, more: int = 1) -> None:
        goal = self.device.acknowledged + more
        await until(
            lambda: self.device.acknowledged >= goal, f"{self.name} is acknowledged {more} more",
            PATIENCE_S, self.story,
        )  # fmt: skip

    def story(self) -> str:
        device = self.device
        return (
            f"\n{self.name}: {device.state}, {device.connects} connects, {device.sent} sent, "
            f"{device.acknowledged} acknowledged, {device.heard[-3:]}"
        )


class WorkersFleet(Fleet):
    """A Fleet with `fleetnet serve --workers`; its log is read for who is where.

    Args:
        place: a database in the place of the store file.
    """

    def __init__(
        self, folder: Path, workers: int, place: PostgresPlace | None = None, **settings: object
    ):
        super().__init__(folder)
        self._workers = workers
        self._place = place
        if place is not None:
            settings["store"] = place.url
        self._more = {f"FLEETNET_{key.upper()}": str(value) for key, value in settings.items()}
        self.senders: list[Sender] = []
        self.ready: dict[str, Any] = {}

    def environment(self) -> dict[str, str]:
        return super().environment() | self._more

    async def start_server(self, program: Path | None = None) -> None:
        with self._log.open("ab") as log:
            self._server = await asyncio.create_subprocess_exec(
                *self.command("serve", "--json", "--workers", str(self._workers)),
                stdout=asyncio.subprocess.PIPE, stderr=log, env=self.environment(),
                start_new_session=True,
            )  # fmt: skip
        assert self._server.stdout is not None
        line = await asyncio.wait_for(self._server.stdout.readline(), PATIENCE_S)
        assert line, f"the server did not start: {self.log()}"
        self.ready = json.loads(line)
        self.starts += 1

    async def start_senders(self, count: int, transport: str) -> list[Sender]:
        """Register devices and start them; returns when each has been acknowledged something."""
        made = []
        with open_store(self._place or self.store) as store:
            for _ in range(count):
                name = f"cam-{len(self.senders) + len(made) + 1}"
                made.append(Sender(name, self.make_bundle(store, name, transport)))
        self.senders += made
        await asyncio.gather(*(sender.start() for sender in made))
        await asyncio.gather(*(sender.until_acknowledged() for sender in made))
        return made

    async def finish_senders(self) -> list[Account]:
        return list(await asyncio.gather(*(sender.finish() for sender in self.senders)))

    async def close(self) -> None:
        for sender in self.senders:
            await sender.end_sending()
            await sender.device.stop(0)
        await super().close()

    # -- who is where --------------------------------------------------------------------------

    def events(self, what: str) -> list[dict[str, Any]]:
        """What the server's processes logged, of one kind."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == what]

    def workers_of(self, name: str) -> list[str]:
        """The workers at which a device had its sessions, the newest last."""
        return [e["process"] for e in self.events("session opened") if e["device"] == name]

    def worker_of(self, name: str) -> str:
        return self.workers_of(name)[-1]

    def pids(self) -> dict[str, int]:
        """The processes that run, by name, as the kernel tells them."""
        assert self._server is not None
        found = {}
        for pid in _children_of(self._server.pid):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if any(".workers." in word for word in command):
                found[command[-2]] = pid
        return found

    def signal_server(self, number: signal.Signals) -> None:
        """A signal for the supervisor."""
        assert self._server is not None
        os.kill(self._server.pid, number)

    async def kill(self, name: str) -> None:
        """kill -9 one process, and wait until another one serves in its place."""
        pid = self.pids()[name]
        served = len(self.events("process serves again"))
        os.kill(pid, signal.SIGKILL)
        await until(
            lambda: len(self.events("process serves again")) > served,
            f"{name} serves again", PATIENCE_S, self.log,
        )  # fmt: skip
        assert self.pids()[name] != pid


def _children_of(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                stat = (path / "stat").read_text()
            except OSError:
                continue  # it has just ended
            if int(stat.rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.name))
    return found
