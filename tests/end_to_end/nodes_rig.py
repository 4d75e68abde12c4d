"""Two servers at one PostgreSQL in this process, a device, and a way that leads to one of them."""

import asyncio
import contextlib
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from end_to_end.device_process import until
from end_to_end.fleet import free_port
from fleetnet.events import Closed, Refused
from fleetnet_device import Device
from fleetnet_server.app import Backend
from fleetnet_server.config import Settings
from fleetnet_server.device_bundles import add_device
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.query import query
from fleetnet_server.store_place import PostgresPlace
from server.store.postgres_server import PostgresServer


class Told(Device):
    """A device that keeps what servers say at the end of a session."""

    def __init__(self, bundle: Path):
        super().__init__(str(bundle))
        self.endings: list[int] = []

    def on_event(self, event: object) -> None:
        if isinstance(event, Closed | Refused):
            self.endings.append(event.ending.reason)
        super().on_event(event)


class Switch:
    """A way to one of several servers. Whom a device had before does not hear that it went."""

    def __init__(self) -> None:
        self.target = 0
        self.number = free_port()
        self._pumps: set[asyncio.Task[None]] = set()
        self._clients: list[asyncio.StreamWriter] = []
        self._others: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.number)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._clients.append(writer)
        self._others.append(other_writer)
        for source, sink in ((reader, other_writer), (other_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()

    def turn(self, target: int) -> None:
        """Lead to another server; devices lose their links, servers do not notice."""
        self.target = target
        for task in self._pumps:
            task.cancel()
        for client in self._clients:
            client.transport.abort()
        self._clients.clear()

    async def stop(self) -> None:
        self.turn(0)
        self._server.close()
        for writer in self._others:
            writer.transport.abort()
        await asyncio.gather(*self._pumps, return_exceptions=True)


class World:
    """Servers "a" and "b" with folders of their own, and one device."""

    def __init__(self, folder: Path, place: PostgresPlace):
        self.folder = folder
        self.place = place
        self.nodes: dict[str, Backend] = {}
        self.switch = Switch()
        self.sent = 0
        self._sender: asyncio.Task[None] | None = None
        create_fleet(folder / "a", ("localhost",))

    def settings(self, name: str, **changes: Any) -> Settings:
        return Settings(
            host="127.0.0.1", bind="127.0.0.1", tls_port=0, dtls_port=0, node=name,
            store=self.place.url, **changes,
        )  # fmt: skip

    async def start(self, mqtt: dict[str, str]) -> None:
        await self.switch.start()
        bundle = self.add_device("cam-1")
        shutil.copytree(self.folder / "a", self.folder / "b")
        for name in ("a", "b"):
            if name in mqtt:
                (self.folder / name / "mqtt.toml").write_text(mqtt[name])
            await self.start_node(name)
        self.switch.target = self.nodes["a"].tls_port
        self.device = Told(bundle)
        await self.device.start()
        await self.is_at("a")

    async def start_node(self, name: str) -> None:
        backend = Backend(self.folder / name, self.settings(name))
        self.nodes[name] = await backend.__aenter__()

    def add_device(self, name: str) -> Path:
        with open_store(self.place) as store:
            bundle = add_device(self.folder / "a", self.settings("a"), store, name, "tls")
        config = json.loads((bundle / "config.json").read_text())
        config.update(
            host="127.0.0.1", tls_port=self.switch.number, dtls_port=self.switch.number,
            server_hostname="localhost",
        )  # fmt: skip
        (bundle / "config.json").write_text(json.dumps(config))
        return bundle

    async def stop(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
        await self.device.stop()
        await self.switch.stop()
        for backend in self.nodes.values():
            await backend.stop()

    async def is_at(self, name: str) -> None:
        device = self.nodes[name].store.lookup("cam-1")
        assert device is not None
        sessions = self.nodes[name].sessions

        def is_there() -> bool:
            peer = sessions.live.get(device.id)
            return peer is not None and peer.is_open

        await until(is_there, f"at {name}", explain=lambda: self.device.last_error)

    def begin_to_send(self) -> None:
        self._sender = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while True:
            await self.device.send("count", self.sent)
            self.sent += 1
            await asyncio.sleep(0.01)

    async def is_acknowledged(self, more: int) -> None:
        goal = self.device.acknowledged + more
        await until(
            lambda: self.device.acknowledged >= goal, "acknowledged",
            explain=lambda: (self.device.state, self.device.last_error, self.device.endings),
        )  # fmt: skip

    async def all_is_there_once(self) -> None:
        """Everything that the device made is stored, in order, and nothing twice."""
        assert self._sender is not None
        self._sender.cancel()
        await until(lambda: self.device.acknowledged == self.sent, "everything acknowledged")
        counts = [reading.value for reading in query(self.place) if reading.channel == "count"]
        assert [value for value, times in Counter(counts).items() if times > 1] == []
        assert counts == list(range(self.sent))


@contextlib.asynccontextmanager
async def two_nodes(
    folder: Path, postgres: PostgresServer, mqtt: dict[str, str] | None = None
) -> AsyncIterator[World]:
    """Servers "a" and "b" at a fresh database; PGPASSFILE leads to FOLDER/pgpass.

    Args:
        mqtt: what is in mqtt.toml, by server.
    """
    place = postgres.database()
    (folder / "pgpass").write_text(f"*:*:*:*:{postgres.password}\n")
    (folder / "pgpass").chmod(0o600)
    made = World(folder, PostgresPlace(place.url))
    await made.start(mqtt or {})
    try:
        yield made
    finally:
        if postgres._process is None:
            postgres.start()
        await made.stop()
        postgres.drop(place)
