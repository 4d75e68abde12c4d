"""A store as several servers share it: its sessions begin after a wait, and it can lose a device.

The tables are SQLite's; leases are a set of devices, the time of a wait is the test's to say.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from fleetnet_server.core.bodies import Message
from fleetnet_server.core.ports import Committed, SessionAbout, SessionStart
from fleetnet_server.core.relay_ports import Relayed
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.sqlite import SqliteStore


def holder(message: Message) -> int:
    """Whose lease a message came under."""
    return message.hub if isinstance(message, Relayed) else message.device_id


class SharedStore(SqliteStore):
    """See the module.

    Attributes:
        permission: sessions begin while it is set. is_away: they fail then.
        begun: (device, is_here) of each begin that was asked for. ended: of each end.
        held: devices whose lease is this server's.
    """

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.permission = asyncio.Event()
        self.permission.set()
        self.is_away = False
        self.begun: list[tuple[int, bool]] = []
        self.ended: list[int] = []
        self.held: set[int] = set()

    async def begin(  # type: ignore[override]
        self, device_id: int, epoch: bytes, about: SessionAbout
    ) -> SessionStart:
        self.begun.append((device_id, about.is_here))
        await asyncio.sleep(0)
        await self.permission.wait()
        if self.is_away:
            raise StoreUnavailable("the database is away")
        if about.is_here:
            self.held.add(device_id)
        return super().begin(device_id, epoch, about)

    def end(self, device_id: int) -> None:
        if device_id in self.held:
            self.ended.append(device_id)
            self.held.discard(device_id)

    def take(self, device_id: int) -> None:
        """Another server has the device from now on; nobody has told this one yet."""
        self.held.discard(device_id)

    def commit(self, batch: Sequence[Message]) -> Sequence[int] | Committed:  # type: ignore[override]
        places = [at for at, message in enumerate(batch) if holder(message) in self.held]
        new = super().commit([batch[at] for at in places])
        lost = frozenset(range(len(batch))).difference(places)
        return Committed([places[at] for at in new], lost)
