"""What runs in the networks of cluster.py: nodes, PostgreSQL, mosquitto, loads, boards."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fleetnet_server.sim.interpreters import device_command, device_environment
from proof.cluster_net import BROKER, DATABASE, ENTRANCE, PORT, Networks, node_address
from server.store.postgres_server import PostgresServer

# Starting Python and a store on a machine that has other work.
PATIENCE_S = 60.0

WEB_PORT = 8080

# The balancer asks each node so often; a node that says no twice gets no new flows.
_LOOK_S, _MISSES = 0.5, 2

LOAD = Path(__file__).with_name("cluster_load.py")
CLI = [sys.executable, "-m", "fleetnet_server.cli.main"]


async def until(what: str, done: Callable[[], Any], patience_s: float = PATIENCE_S) -> float:
    """Wait for a condition; return how long it took. Raises TimeoutError, which names it."""
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > patience_s:
            raise TimeoutError(f"not within {patience_s:.0f} s: {what}")
        await asyncio.sleep(0.02)
    return time.monotonic() - began


class Database(PostgresServer):
    """A PostgreSQL in a namespace, reached by TCP there, and by its socket from everywhere."""

    def __init__(self, programs: Path, networks: Networks):
        self._networks = networks
        super().__init__(programs)

    def start(self) -> None:
        data = self.folder / "data"
        if "10.77" not in (data / "pg_hba.conf").read_text():
            with (data / "pg_hba.conf").open("a") as file:
                file.write("host all all 10.77.0.0/24 scram-sha-256\n")
            with (data / "postgresql.conf").open("a") as file:
                file.write(f"listen_addresses = '{DATABASE}'\nfsync = on\nautovacuum = on\n")
        drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._networks.prefix("db"), *drop, str(self._programs / "postgres"),
                 "-D", str(data), "-k", str(self.folder)],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
        self._wait_until_it_answers()


class Broker:
    """A mosquitto in a namespace, and a subscriber that notes what readings it gets."""

    def __init__(self, folder: Path, networks: Networks):
        folder.mkdir()
        conf = folder / "mosquitto.conf"
        conf.write_text(
            f"listener 1883 {BROKER}\nallow_anonymous true\nuser root\npersistence false\n"
            "max_queued_messages 0\n"
        )
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
        if program is None:
            raise SystemExit("mosquitto is not installed: apt-get install mosquitto")
        self._networks = networks
        self._process = subprocess.Popen(
            [*networks.prefix("mq"), program, "-c", str(conf)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        # (device, epoch, stream, seq): each once, whatever the bridge repeats.
        self.seen: set[tuple[str, str, int, int]] = set()
        self.readings = 0
        self.last_at = 0.0
        self._client: Any = None

    def listen(self) -> None:
        """Subscribe. Its thread begins in the broker's namespace, as its socket does."""
        import paho.mqtt.client as mqtt

        def take(_client: object, _user: object, message: mqtt.MQTTMessage) -> None:
            found = json.loads(message.payload)
            key = (found["device"], found["epoch"], found["stream"], found["seq"])
            if key not in self.seen:
                self.seen.add(key)
                self.readings += sum(each["channel"] == "count" for each in found["readings"])
                self.last_at = time.time()

        def connect() -> Any:
            client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
            client.on_message = take
            for _ in range(100):
                with contextlib.suppress(OSError):
                    client.connect(BROKER, 1883)
                    break
                time.sleep(0.05)
            client.subscribe("fleetnet/+/readings", qos=1)
            client.loop_start()
            return client

        self._client = self._networks.call("mq", connect)

    def close(self) -> None:
        if self._client is not None:
            self._client.loop_stop()
        self._process.kill()
        self._process.wait()


class Node:
    """One `fleetnet serve` in a namespace.

    Attributes:
        name: of the namespace. is_well: what the balancer thinks of it. answers: it was ready
            when it was asked last, and since its start.
    """

    def __init__(self, name: str, folder: Path, networks: Networks):
        self.name, self.folder = name, folder
        self.address = node_address(int(name[1:]))
        self.is_well = self.answers = False
        self._networks = networks
        self._process: subprocess.Popen[bytes] | None = None
        self._misses = 0

    def start(self) -> None:
        self.answers = False
        environment = os.environ | {"FLEETNET_BIND": "0.0.0.0"}
        with (self.folder / "serve.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._networks.prefix(self.name), *CLI, "-C", str(self.folder), "serve",
                 "--json", "--quiet"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL; what the namespace answers then is that nobody listens."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self, is_frozen: bool) -> None:
        """SIGSTOP or SIGCONT: it does nothing, and its sockets stay as they are."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if is_frozen else signal.SIGCONT)

    async def terminate(self) -> float:
        """SIGTERM: say good-bye to all, end. Return the seconds it took."""
        assert self._process is not None
        began = time.monotonic()
        self._process.terminate()
        await until(f"{self.name} ends", lambda: self._process and self._process.poll() is not None)
        return time.monotonic() - began

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return (self.folder / "serve.log").read_text(errors="replace")

    def look(self) -> bool:
        """Ask it, as the balancer does; return whether what is thought of it has changed."""
        found = self.ask("/readyz")
        is_ready = self.answers = found is not None and "problem" not in found
        self._misses = 0 if is_ready else self._misses + 1
        before = self.is_well
        self.is_well = is_ready or (before and self._misses < _MISSES)
        return before != self.is_well

    def ask(
        self, path: str, token: str = "", body: Any = None, timeout_s: float = 2.0
    ) -> dict[str, Any] | None:
        """Ask its HTTP API from the balancer's namespace; None: no answer.

        What it refuses has "problem" with what it said.
        """
        request = urllib.request.Request(
            f"http://{self.address}:{WEB_PORT}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
        )

        def get() -> dict[str, Any] | None:
            try:
                with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
                    found: dict[str, Any] = json.load(answer)
                    return found
            except urllib.error.HTTPError as error:
                return {"problem": f"{error.code} {error.read().decode(errors='replace')[:300]}"}
            except (OSError, ValueError):
                return None

        return self._networks.call("lb", get)


class Balancer:
    """Looks at all nodes, and tells the kernel where new flows go."""

    def __init__(self, networks: Networks, nodes: list[Node]):
        self._networks, self._nodes = networks, nodes
        self._task: asyncio.Task[None] | None = None
        # (unix time, node, is it well): what it found, as it found it.
        self.history: list[tuple[float, str, bool]] = []

    def start(self) -> None:
        self._networks.balance([])
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            changed = await asyncio.gather(
                *(asyncio.to_thread(node.look) for node in self._nodes)
            )
            for node, is_new in zip(self._nodes, changed, strict=True):
                if is_new:
                    self.history.append((time.time(), node.name, node.is_well))
            if any(changed):
                self._networks.balance([node.name for node in self._nodes if node.is_well])
            await asyncio.sleep(_LOOK_S)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class Client:
    """The devices of one client's network: a process of cluster_load.py.

    Attributes:
        sums: the newest. history: (unix time, device, is up, why), as it came.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Any] = {}
        self.history: list[tuple[float, str, bool, str]] = []
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self, prefix: list[str], bundles: Path, part: int, rate: float) -> None:
        parts = 2
        self._process = await asyncio.create_subprocess_exec(
            *prefix, sys.executable, str(LOAD), str(bundles), str(part), str(parts), str(rate),
            ENTRANCE, str(PORT), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        while line := await self._process.stdout.readline():
            found = json.loads(line)
            if "name" in found:
                self.history.append(
                    (found["at"], found["name"], found["up"], found.get("why", ""))
                )
            elif "sent" in found:
                self.sums = found

    def say(self, word: str) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")

    async def finish(self) -> None:
        self.say("finish")
        assert self._process is not None and self._reader is not None
        await asyncio.wait_for(self._process.wait(), PATIENCE_S)
        await self._reader

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Board:
    """A MicroPython device; `sim/device_main.py` is its program."""

    def __init__(self, name: str):
        self.name = name
        self.last: dict[str, Any] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self, prefix: list[str], interpreter: str, bundle: Path) -> None:
        command = device_command(interpreter, str(bundle), "3600", "2")
        self._process = await asyncio.create_subprocess_exec(
            *prefix, *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=device_environment(), start_new_session=True,
        )  # fmt: skip
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        while line := await self._process.stdout.readline():
            with contextlib.suppress(ValueError):  # what MicroPython says when it fails
                self.last = json.loads(line)

    async def finish(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), PATIENCE_S)
        assert self._reader is not None
        await self._reader

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


async def fleetnet(prefix: list[str], folder: Path, *arguments: str) -> str:
    """Run a command as the operator does, in a namespace; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *prefix, *CLI, "-C", str(folder), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, error = await process.communicate()
    if process.returncode:
        raise SystemExit(f"fleetnet {' '.join(arguments)}: {error.decode()}")
    return out.decode()


async def all_end(endings: list[Awaitable[Any]]) -> None:
    """End everything, whatever of it fails."""
    await asyncio.gather(*endings, return_exceptions=True)
