"""A back-end in this process with a bridge to a real broker; messages go straight to its store."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from fleetnet.frame import EVENT, READINGS
from fleetnet_server.app import Backend
from fleetnet_server.bridge.mqtt import Bridge
from fleetnet_server.config import Settings
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.fleet_folder import create_fleet
from server.bridge.broker import HOST, PATIENCE_S

SETTINGS = Settings(host="localhost", bind=HOST, tls_port=0, dtls_port=0, compaction=False)


class World:
    """``async with World(folder, port, more)``; ``more`` is the rest of mqtt.toml.

    ``devices`` are registered. It can be entered again: that is a restart of the server.
    """

    def __init__(
        self, folder: Path, port: int, more: str = "", broker: str = "",
        devices: tuple[str, ...] = ("cam-1", "cam-2"),
    ):  # fmt: skip
        self.folder = folder
        self._port = port
        self._devices = devices
        if not folder.exists():
            create_fleet(folder, ("localhost",))
        self.write(more, broker)

    def write(self, more: str = "", broker: str = "") -> None:
        """Write mqtt.toml."""
        text = f'[broker]\nhost = "{HOST}"\nport = {self._port}\nmax_backoff_s = 0.1\n{broker}\n'
        (self.folder / "mqtt.toml").write_text(text + more)

    async def __aenter__(self) -> Self:
        self.backend = await Backend(self.folder, SETTINGS).__aenter__()
        for name in self._devices:
            if self.backend.store.lookup(name) is None:
                self.backend.store.add_device(name)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.backend.stop()

    @property
    def bridge(self) -> Bridge:
        assert self.backend.bridge is not None
        return self.backend.bridge

    async def until(self, condition: Callable[[], bool], what: str = "") -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, what or self.bridge.problem
            await asyncio.sleep(0.01)

    async def connected(self) -> None:
        await self.until(lambda: self.bridge.is_connected)

    async def put(
        self, device: str, seq: int, values: dict[str, Any], base: int | None = None, boot: int = 0,
        age_ms: int = 0, kind: int = READINGS,
    ) -> int:  # fmt: skip
        """Commit one message; return how many were new."""
        return await self.put_many([(device, seq, values)], base, boot, age_ms, kind)

    async def put_many(
        self, messages: list[tuple[str, int, dict[str, Any]]], base: int | None = None,
        boot: int = 0, age_ms: int = 0, kind: int = READINGS,
    ) -> int:  # fmt: skip
        """Commit messages (device, seq, channel -> value) in one batch."""
        now = time.time_ns() // 1_000_000 - age_ms
        batch = []
        for device, seq, values in messages:
            known = self.backend.store.lookup(device)
            assert known is not None
            epoch = self.backend.store.epoch_id(known.id, b"epoch-01")
            body = body_of(values, now if base is None else base, boot, kind)
            found = inspect_body(kind, body, lambda boot: None, now)
            batch.append(
                Message(known.id, epoch, 1, seq, kind, found.t0, found.t1, now, found.body,
                        found.problem)
            )  # fmt: skip
        done = await asyncio.to_thread(self.backend.store.commit, batch)
        return len(done)


def body_of(values: dict[str, Any], base: int, boot: int, kind: int) -> bytes:
    """A READINGS body, its readings 10 ms apart; or an EVENT of the first value."""
    if kind == EVENT:
        name, value = next(iter(values.items()))
        return json.dumps([base, boot, name, value]).encode()
    items = [[index, 10 * index, value] for index, value in enumerate(values.values())]
    return json.dumps([base, boot, list(values), items]).encode()
