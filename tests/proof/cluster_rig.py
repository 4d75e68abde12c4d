"""The whole of cluster.py's world: made, looked at, counted, taken away."""

import asyncio
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

from fleetnet_server.config import Settings
from fleetnet_server.fleet_folder import create_fleet
from interpreters import interpreters
from proof.cluster_net import BROKER, CLIENTS, DATABASE, ENTRANCE, PORT, Networks
from proof.cluster_world import (
    WEB_PORT,
    Balancer,
    Board,
    Broker,
    Client,
    Database,
    Node,
    all_end,
    fleetnet,
    until,
)
from server.store.postgres_server import find_programs

# Everybody is back so long after a blow, or never: the longest pause of a device, twice.
BACK_S = 120.0


class Count(NamedTuple):
    """Readings of the channel `count` so far, of the simulated devices."""

    sent: int
    acknowledged: int
    stored: int
    distinct: int


class Rig:
    """One run.

    Attributes:
        nodes, database, broker, clients, boards: what runs. faults: what must not be, beside
            those of the scenes. notes: what else was seen. token: of the HTTP API.
    """

    def __init__(
        self, place: Path, networks: Networks, devices: int, rate: float, seconds: float,
        has_database: bool,
    ):  # fmt: skip
        self.place, self.networks = place, networks
        self.devices, self.rate, self.seconds = devices, rate, seconds
        self.faults: list[str] = []
        self.notes: list[str] = []
        self.token = ""
        self.database: Database | None = None
        self._database_name = ""
        if has_database:
            programs = find_programs()
            if programs is None:
                raise SystemExit("PostgreSQL is not installed: apt-get install postgresql")
            self.database = Database(programs, networks)
        self.broker = Broker(place / "broker", networks)
        self.nodes = [Node(name, place / name, networks) for name in networks.nodes]
        self.balancer = Balancer(networks, self.nodes)
        self.clients = [Client() for _ in CLIENTS]
        self.boards = [Board(f"mp-{number}") for number, _ in enumerate(interpreters()[:2], 1)]
        store = "PostgreSQL" if has_database else "SQLite"
        self.about = (
            f"{len(self.nodes)} x fleetnet serve, {store}, {devices} devices at {rate:g}/s, "
            f"{len(self.boards)} MicroPython"
        )

    # -- making --------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the fleet, copy its folder to every node, start everything, wait for all."""
        folder = self.nodes[0].folder
        create_fleet(folder, (ENTRANCE,))
        self._configure(folder)
        await self.run_cli("sim", "--only-make", "--devices", str(self.devices))
        for board in self.boards:
            self._adapt(folder, board, json.loads(await self.run_cli(
                "device", "add", board.name, "--json"
            )))  # fmt: skip
        made = await self.run_cli("token", "add", "rig", "--scope", "admin", "--json")
        self.token = json.loads(made)["token"]
        for node in self.nodes[1:]:
            shutil.copytree(folder, node.folder)
        for node in self.nodes:
            self._name(node)
        self.broker.listen()
        self.balancer.start()
        for node in self.nodes:
            node.start()
        await until("all nodes are ready", lambda: all(node.is_well for node in self.nodes))
        await self._start_devices(folder)
        await until("all devices are online", self.is_all_online)
        await until("the boards are heard", lambda: all(
            board.last.get("acknowledged") for board in self.boards
        ))  # fmt: skip

    def _configure(self, folder: Path) -> None:
        text = (folder / "fleetnet.toml").read_text()
        kept = [
            line for line in text.splitlines()
            if line.partition("=")[0].strip()
            not in ("host", "store", "tls_port", "dtls_port", "web_port", "web_bind")
        ]  # fmt: skip
        kept += [f'host = "{ENTRANCE}"', f"tls_port = {PORT}", f"dtls_port = {PORT}",
                 f"web_port = {WEB_PORT}", 'web_bind = "0.0.0.0"']  # fmt: skip
        if self.database is not None:
            place = self.database.database()
            self._database_name = place.database
            self.database.settings(place, folder)
            user = place.user
            kept.append(f'store = "postgresql://{user}@{DATABASE}/{place.database}?sslmode=disable"')
        (folder / "fleetnet.toml").write_text("\n".join(kept) + "\n")
        (folder / "mqtt.toml").write_text(
            # A broker that is cut off says nothing: 10 s of silence are 15 s until it is missed.
            f'[broker]\nhost = "{BROKER}"\nport = 1883\nmax_backoff_s = 1\nkeepalive_s = 10\n'
        )

    def _name(self, node: Node) -> None:
        if "node" in Settings.model_fields:
            with (node.folder / "fleetnet.toml").open("a") as file:
                file.write(f'node = "{node.name}"\n')

    def _adapt(self, folder: Path, board: Board, made: dict[str, Any]) -> None:
        path = folder / "devices" / board.name / "config.json"
        config = json.loads(path.read_text())
        config.update(host=ENTRANCE, tls_port=PORT, dtls_port=PORT)
        path.write_text(json.dumps(config))

    async def _start_devices(self, folder: Path) -> None:
        bundles = folder / "sim" / "devices.jsonl"
        for part, (client, name) in enumerate(zip(self.clients, CLIENTS, strict=True)):
            await client.start(self.networks.prefix(name), bundles, part, self.rate)
        for number, (board, found) in enumerate(zip(self.boards, interpreters(), strict=False)):
            prefix = self.networks.prefix(CLIENTS[number % len(CLIENTS)])
            await board.start(prefix, found.path, folder / "devices" / board.name)

    # -- looking -------------------------------------------------------------------------

    async def run_cli(self, *arguments: str) -> str:
        """Run a command of the operator's, with the folder of the first node."""
        return await fleetnet(self.networks.prefix("lb"), self.nodes[0].folder, *arguments)

    def is_all_online(self) -> bool:
        """Whether every simulated device has a session."""
        return sum(client.sums.get("online", 0) for client in self.clients) == self.devices

    def events(self, since: float) -> list[tuple[float, str, bool, str]]:
        """What happened to sessions since then, in order of time."""
        both = [one for client in self.clients for one in client.history if one[0] >= since]
        return sorted(both)

    def on_node(self, node: Node) -> set[str]:
        """Simulated devices with a session there, as the database says."""
        if self.database is None:
            return {f"sim-{number:05d}" for number in range(1, self.devices + 1)}
        rows = self.sql(
            "SELECT d.name FROM leases l JOIN devices d ON d.id = l.device WHERE l.node = %s",
            node.name,
        )
        return {name for (name,) in rows if name.startswith("sim-")}

    def sql(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database as its superuser."""
        assert self.database is not None
        with self.database.admin(self._database_name) as connection:
            rows: list[tuple[Any, ...]] = connection.execute(text, values).fetchall()
            return rows

    def bridge_leader(self) -> Node:
        """The node that hands messages on to the broker."""
        if self.database is None:
            return self.nodes[0]
        from fleetnet_server.node import BRIDGE
        from fleetnet_server.store.postgres.leadership import lock_key

        # pg_locks shows both numbers of a key without their sign.
        key = [number % (1 << 32) for number in lock_key(f"lead {BRIDGE}")]
        rows = self.sql(
            "SELECT host(a.client_addr) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE l.locktype = 'advisory' AND l.granted"
            " AND l.classid::bigint = %s AND l.objid::bigint = %s",
            *key,
        )
        addresses = {address for (address,) in rows}
        return next((n for n in self.nodes if n.address in addresses), self.nodes[0])

    # -- counting ------------------------------------------------------------------------

    def say(self, word: str) -> None:
        """Tell all simulated devices."""
        for client in self.clients:
            client.say(word)

    def total(self, key: str) -> int:
        return sum(int(client.sums.get(key, 0)) for client in self.clients)

    async def settle(self) -> Count:
        """Let everything that was sent be acknowledged, and count; new ones wait for "go"."""
        self.say("pause")
        # What the devices' lines say is a quarter of a second old.
        await asyncio.sleep(1.0)
        started = time.time()
        await until(
            "all that was sent is acknowledged",
            lambda: self.total("sent") == self.total("acknowledged")
            and all(client.sums["at"] > started for client in self.clients),
            BACK_S,
        )  # fmt: skip
        values = [
            (one["device"], one["value"])
            for one in await self.stored("sim-*")
        ]  # fmt: skip
        return Count(
            self.total("sent"), self.total("acknowledged"), len(values), len(set(values))
        )

    async def stored(self, pattern: str) -> list[dict[str, Any]]:
        """All readings of the channel `count`, by `fleetnet query`."""
        text = await self.run_cli(
            "query", "--device", pattern, "--channel", "count", "--json"
        )
        return [json.loads(line) for line in text.splitlines()]

    async def finish(self) -> None:
        """End the devices, and compare what the boards and the broker have."""
        await asyncio.gather(*(client.finish() for client in self.clients))
        await asyncio.gather(*(board.finish() for board in self.boards))
        for board in self.boards:
            found = [one["value"] for one in await self.stored(board.name)]
            sent = board.last["sent"] // 2  # a temperature is beside each count
            once = len(set(found))
            if not sent == len(found) == once:
                self.faults.append(f"{board.name}: {sent} sent, {len(found)} stored, {once} once")
            self.notes.append(
                f"{board.name} (MicroPython): {sent} sent and stored, "
                f"{board.last['connects']} sessions"
            )
        stored = len(await self.stored("*"))
        try:
            await until("the broker has all", lambda: self.broker.readings >= stored, 60.0)
        except TimeoutError:
            self.faults.append(f"the broker got {self.broker.readings} of {stored} readings")
        self.notes.append(f"broker: {self.broker.readings} readings of {stored} stored")

    def logs(self) -> str:
        """The ends of all servers' logs."""
        return "\n".join(f"--- {node.name}\n{node.log()[-3000:]}" for node in self.nodes)

    async def close(self) -> None:
        """End everything, whatever has happened."""
        keep = os.environ.get("FLEETNET_RIG_LOGS")
        if keep:
            for node in self.nodes:
                if (node.folder / "serve.log").exists():
                    shutil.copy(node.folder / "serve.log", Path(keep) / f"{node.name}.log")
        await all_end([client.kill() for client in self.clients])
        await all_end([board.kill() for board in self.boards])
        await self.balancer.stop()
        for node in self.nodes:
            node.kill()
        self.broker.close()
        if self.database is not None:
            self.database.close()
