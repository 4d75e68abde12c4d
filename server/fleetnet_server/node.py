"""This server among those at one database: who else runs, who has which device, who does what.

Several servers have folders of their own. What has to be the same in all of them: ``ca/`` (its
keys only where certificates are made), ``server/`` (one certificate and key, for the name that
devices know), ``secret.key`` (else pre-shared keys cannot be read), ``policy.toml``,
``retention.toml``, ``mqtt.toml`` and ``fleetnet.toml`` without ``node``. ``blobs/`` has to be one
folder that all of them have mounted. The key of DTLS cookies is each server's own: a handshake
stays at one of them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

import structlog

from fleetnet import __version__
from fleetnet.errors import FleetError
from fleetnet_server.config import Settings
from fleetnet_server.core.lookout import Lookout
from fleetnet_server.core.patience import Patience
from fleetnet_server.core.presence import ONLINE, DevicePresence
from fleetnet_server.core.shared_presence import SharedPresence

if TYPE_CHECKING:
    from fleetnet_server.app import Backend
    from fleetnet_server.bridge.mqtt import Bridge
    from fleetnet_server.store.postgres.nodes import NodeRow, Where
    from fleetnet_server.store.postgres.store import PostgresStore

_log = structlog.get_logger("fleetnet.nodes")

# What the others have is read so often, and more seldom when that is much: 5 % of a core.
_READ_S = 2.0
_READ_SHARE = 0.05
# Looks of the replica and of the heartbeat are so far apart while all is well.
_USUAL_S = 2.0
# A registry that is older than this says nothing of revocations: no device may stay.
_STALE_S = 30.0
# A broker that this node does not reach for so long another node may reach.
_BROKER_S = 10.0
# Time for another node to try: longer than its first attempts take.
_RESIGNED_S = 30.0
# How often it is seen whose work the bridge is.
_BRIDGE_LOOK_S = 0.5

HOUSEKEEPING, BRIDGE = "housekeeping", "bridge"


class Node:
    """Made on a running loop; from ``start`` to ``stop``.

    Args:
        sessions: how many there are. waiting_s: since when the writer's commit is under way.

    Attributes:
        name: of this server. others: those seen lately, this one as well, by name.
    """

    def __init__(
        self,
        store: "PostgresStore",
        settings: Settings,
        presence: SharedPresence,
        sessions: Callable[[], int],
        waiting_s: Callable[[], float],
    ):
        from fleetnet_server.store.postgres.leadership import Leadership
        from fleetnet_server.store.postgres.nodes import Heartbeat
        from fleetnet_server.store.postgres.reading import Reader

        assert store.node is not None
        self.name = store.node
        self.others: list[NodeRow] = []
        self._store = store
        self._presence = presence
        self._waiting_s = waiting_s
        self._reader = Reader(store.place)
        url = f"http://{settings.web_bind}:{settings.web_port}" if settings.web_port else ""
        self._heart = Heartbeat(store.place, self.name, __version__, url, sessions)
        self._works = {
            HOUSEKEEPING: Leadership(store.place, HOUSEKEEPING),
            BRIDGE: Leadership(store.place, BRIDGE),
        }
        self._reached = 0.0  # when the bridge was seen connected last
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Say that this server runs, and look at the others.

        Raises:
            ConfigError: one of them has this name. StoreUnavailable, StoreError.
        """
        await asyncio.to_thread(self._heart.start)
        self._works[HOUSEKEEPING].start()
        self._tasks.append(asyncio.get_running_loop().create_task(self._follow()))

    async def stop(self) -> None:
        """Give up what is done for all, and say that this server runs no longer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in (*(work.close for work in self._works.values()), self._heart.close):
            await asyncio.to_thread(end)
        self._reader.close()

    def leads(self, work: str = HOUSEKEEPING) -> bool:
        """Say whether this server does a work for all."""
        return self._works[work].is_leader

    def lead_bridge(
        self, backend: "Backend", make: "Callable[[], Awaitable[Bridge | None]]"
    ) -> None:
        """Run the bridge while that is this server's work; ``make`` starts one."""
        self._works[BRIDGE].start()
        self._tasks.append(asyncio.get_running_loop().create_task(self._bridge(backend, make)))

    async def _bridge(
        self, backend: "Backend", make: "Callable[[], Awaitable[Bridge | None]]"
    ) -> None:
        self._reached = time.monotonic()
        while True:
            await asyncio.sleep(_BRIDGE_LOOK_S)
            try:
                await self._look_at_bridge(backend, make)
            except Exception as error:
                # Whatever it is: this server would keep the work from the others for ever.
                is_known = isinstance(error, FleetError)
                _log.error("MQTT bridge fails", reason=str(error), exc_info=not is_known)
                self._works[BRIDGE].resign(_RESIGNED_S)

    async def _look_at_bridge(
        self, backend: "Backend", make: "Callable[[], Awaitable[Bridge | None]]"
    ) -> None:
        leads, bridge, now = self.leads(BRIDGE), backend.bridge, time.monotonic()
        if leads and bridge is None:
            self._reached = now
            backend.bridge = await make()
        elif bridge is not None and not leads:
            backend.bridge = None
            await bridge.stop()
        elif bridge is not None and bridge.is_connected:
            self._reached = now
        elif bridge is not None and now - self._reached > _BROKER_S:
            self._reached = now
            if not self._presence.is_alone:
                _log.warning("MQTT broker not reached: another server may have the bridge")
                self._works[BRIDGE].resign(_RESIGNED_S)

    async def has(self, device_id: int) -> bool:
        """Say whether another server has a device now. Raises StoreUnavailable, StoreError."""
        from fleetnet_server.store.postgres.nodes import whereabouts
        from fleetnet_server.store.postgres.reading import Reader

        def read() -> bool:
            with Reader(self._store.place) as reader:
                found = whereabouts(reader, [device_id]).get(device_id)
            return found is not None and found.node != self.name

        return await asyncio.to_thread(read)

    def away_s(self) -> float:
        """Return since when the database does not answer, in seconds, 0: it does.

        A commit says so, or, where nothing is to be committed, the heartbeat and the replica
        both; one alone may be busy. But not for _STALE_S: then the replica's word counts alone.
        """
        lag_s = self.lag_s
        if lag_s > _STALE_S:
            return lag_s
        return max(self._waiting_s(), min(lag_s, self._heart.silence_s) - _USUAL_S, 0.0)

    @property
    def alive(self) -> int:
        """How many servers run, with this one."""
        return max(1, sum(one.is_alive for one in self.others))

    @property
    def revocations(self) -> int:
        """Grows when a certificate was revoked, by whichever server or program."""
        replica = self._store.replica
        return 0 if replica is None else replica.revocations

    @property
    def lag_s(self) -> float:
        """Seconds since the registry here was surely that of the database."""
        replica = self._store.replica
        return 0.0 if replica is None else replica.lag_s

    async def _follow(self) -> None:
        """Know what the others have, by and by."""
        is_said = False
        while True:
            took = 0.0
            try:
                self.others, found, took = await asyncio.to_thread(self._read)
            except FleetError as error:
                if not is_said:
                    _log.warning("what other servers have is not known", reason=str(error))
                is_said = True
            else:
                is_said = False
                self._presence.is_alone = self.alive < 2
                self._presence.use(found)
            await asyncio.sleep(max(_READ_S, took / _READ_SHARE))

    def _read(self) -> "tuple[list[NodeRow], dict[str, DevicePresence], float]":
        from fleetnet_server.store.postgres import nodes

        began = time.thread_time()
        others = nodes.nodes(self._reader)
        found = nodes.sessions_elsewhere(self._reader, self.name)
        shown = {name: _presence(where) for name, where in found.items()}
        return others, shown, time.thread_time() - began


class _Duties:
    """What changes with other servers; looked after by a Lookout."""

    def __init__(self, node: Node, backend: "Backend", on_revoked: Callable[[], None]):
        self._node = node
        self._backend = backend
        self._on_revoked = on_revoked
        self._revocations = node.revocations

    def look(self) -> None:
        """See Looking."""
        self._backend.commands.expires = self._node.leads()
        revocations = self._node.revocations
        if revocations != self._revocations:
            # Each server keeps the lists in its folder.
            self._revocations = revocations
            self._on_revoked()

    async def stop(self) -> None:
        """See Looking."""


async def join(
    backend: "Backend", store: "PostgresStore", lookout: Lookout, on_revoked: Callable[[], None]
) -> Node:
    """Make a back-end one of the servers at its database.

    Args:
        on_revoked: called when a certificate was revoked by whomever.

    Raises: as Node.start.
    """
    settings = backend.settings
    node = Node(
        store,
        settings,
        cast("SharedPresence", backend.presence),
        lambda: backend.session_count,
        lambda: backend.writer.waiting_s,
    )
    await node.start()
    store.on_change = lookout.wake
    backend.commands.elsewhere = node.has
    lookout.add(_Duties(node, backend, on_revoked))
    lookout.add(Patience(backend.sessions, node.away_s, settings.store_patience_s))
    return node


def _presence(where: "Where") -> DevicePresence:
    return DevicePresence(
        ONLINE, where.link, where.address, where.since_ms, software=where.software, node=where.node
    )
