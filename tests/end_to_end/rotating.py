"""A fleet whose devices change their identities, and what the store says of that."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from end_to_end.device_process import PATIENCE_S, until
from end_to_end.fleet import Fleet, free_port
from fleetnet_server.store import schema
from fleetnet_server.store.identities import IdentityTable
from fleetnet_server.store.sqlite import SqliteStore


class RotatingFleet(Fleet):
    """See Fleet; ``settings`` are more of the server's, by name."""

    def __init__(self, folder: Path, **settings: object):
        super().__init__(folder)
        self.enrol_port = free_port()
        self._more = {"enrol_port": self.enrol_port, **settings}

    def environment(self) -> dict[str, str]:
        more = {f"FLEETNET_{key.upper()}": str(value) for key, value in self._more.items()}
        return super().environment() | more

    async def run(self, *arguments: str, expect: int = 0) -> str:
        """Run a `fleetnet` command; return its standard output, and its error where it fails."""
        process = await asyncio.create_subprocess_exec(
            *self.command(*arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment(),
        )
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert process.returncode == expect, (arguments, out, err)
        return (out + err if expect else out).decode()

    # -- bundles ---------------------------------------------------------------------------

    def change_bundle(self, name: str, **changes: object) -> None:
        """Change a bundle's config.json."""
        path = self.folder / "devices" / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    async def claim(self, name: str, transport: str) -> str:
        """`fleetnet device claim`; return the token. The bundle leads to this fleet's server."""
        shown = json.loads(
            await self.run("device", "claim", name, "--transport", transport, "--json")
        )
        number = (self.tls if transport == "tls" else self.dtls)[1]
        self.change_bundle(
            name, host="127.0.0.1", tls_port=number, dtls_port=number, server_hostname="localhost"
        )
        return str(shown["token"])

    # -- what the store says -----------------------------------------------------------------

    def read(self, sql: str, *values: object) -> list[Any]:
        """Read the store beside the server."""
        connection = schema.open_readable(self.store)
        try:
            return connection.execute(sql, values).fetchall()  # type: ignore[arg-type]
        finally:
            connection.close()

    def renew(self, *names: str) -> None:
        """What `fleetnet device renew` does."""
        with SqliteStore(self.store) as store:
            devices = [store.lookup(name) for name in names]
            IdentityTable(store).ask([device for device in devices if device], "test")

    def identities(self, name: str) -> list[tuple[int, str]]:
        """(number, state) of a device, newest first."""
        return self.read(
            "SELECT number, i.state FROM identities AS i JOIN devices AS d ON d.id = i.device"
            " WHERE name = ? ORDER BY number DESC",
            name,
        )

    def working(self, name: str) -> int:
        """The newest identity that works."""
        return max((n for n, state in self.identities(name) if state == "working"), default=-1)

    def good_certificates(self, name: str) -> int:
        """How many of a device's certificates are not revoked."""
        return self.read(
            "SELECT count(*) FROM certificates AS c JOIN devices AS d ON d.id = c.device"
            " WHERE name = ? AND revoked_ms IS NULL",
            name,
        )[0][0]

    def is_settled(self, name: str, above: int) -> bool:
        """A newer identity than ``above`` works, and its predecessors are done with."""
        states = [state for _, state in self.identities(name)]
        return (
            self.working(name) > above
            and states.count("working") == 1
            and "offered" not in states
            and self.good_certificates(name) == 1
        )

    async def until_settled(self, before: dict[str, int]) -> float:
        """Wait until every device has a newer identity than ``before`` says, and no other."""
        return await until(
            lambda: all(self.is_settled(name, number) for name, number in before.items()),
            "everybody has another identity",
            explain=lambda: (
                {name: self.identities(name) for name in before}, self.story(), self.log()[-3000:],
            ),
        )  # fmt: skip

    def files(self, name: str) -> list[str]:
        """What a device's folder holds."""
        return sorted(os.listdir(self.folder / "devices" / name))


async def wait_for(is_true: Callable[[], bool], what: str, fleet: Fleet) -> float:
    """``until``, with the fleet's story."""
    return await until(is_true, what, explain=lambda: (fleet.story(), fleet.log()[-3000:]))
