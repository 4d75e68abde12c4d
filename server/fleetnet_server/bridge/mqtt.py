"""The bridge to an MQTT 5 broker: one task beside the back-end, connected or trying to be.

    outgoing.py   readings and alarms from the store, each of them
    feed.py       presence, events, newest values, discovery, as they are
    frames.py     the newest image of each device
    inbound.py    commands and configurations

Whatever happens here, devices notice nothing: nothing that they wait for waits for the broker.
"""

import asyncio
import random
from collections.abc import Callable

import aiomqtt
import structlog

from fleetnet.errors import FleetError
from fleetnet_server.bridge.connection import Connection, Will
from fleetnet_server.bridge.counters import Counters
from fleetnet_server.bridge.discovery import OFFLINE, ONLINE
from fleetnet_server.bridge.feed import Feed
from fleetnet_server.bridge.frames import FrameSender
from fleetnet_server.bridge.inbound import Intake
from fleetnet_server.bridge.outgoing import Outgoing
from fleetnet_server.bridge.ports import Outbox, Running
from fleetnet_server.bridge.postbox import Postbox
from fleetnet_server.bridge.properties import pack
from fleetnet_server.bridge.settings import Mqtt, load_mqtt

_log = structlog.get_logger("fleetnet.mqtt")

# A broker that restarts is back in less; half of it to all of it, drawn at random.
_FIRST_BACKOFF_S = 0.5
# A connection that lived so long was a good one: the next pause is short again.
_GOOD_S = 30.0
# At the end: answers that are due, and good-byes.
_DRAIN_S = 1.0
_STOP_S = 1.5


class Bridge:
    """Made on a running loop; from ``start`` to ``stop``.

    Args:
        make_outbox: gives the place of the bridge in the store, by its name.

    Attributes:
        counters: what was sent, dropped, asked. is_connected; problem: why it is not, "".
        behind: messages of the store that the broker lacks, about.
    """

    def __init__(self, running: Running, settings: Mqtt, make_outbox: Callable[[str], Outbox]):
        self.counters = Counters()
        self.settings = settings
        self.is_connected = False
        self.problem = ""
        self._post = Postbox(self.counters)
        self._feed = Feed(running, settings, self._post)
        self._frames = FrameSender(running, settings.frames, self._feed, self.counters)
        self._intake = Intake(running, settings, self._post, self.counters)
        outbox = make_outbox(settings.broker.name)
        self._outgoing = Outgoing(outbox, settings, self.counters, self._feed.latest)
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False

    @property
    def behind(self) -> int:
        """See the class."""
        return self._outgoing.behind

    async def start(self) -> None:
        """Find the place in the store and begin to connect. Raises StoreUnavailable."""
        await self._outgoing.start()
        self._feed.start(await self._outgoing.channels())
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Take the answers that are due, say good-bye, note the place."""
        self._is_stopping = True
        await self._feed.stop()
        try:
            async with asyncio.timeout(_STOP_S):
                await self._say_offline()
        except (TimeoutError, aiomqtt.MqttError):
            pass  # the broker says it for us: the will
        if self._task is not None:
            self._task.cancel()
            # aiomqtt waits for a broker to end the connection, too; one that hangs does not.
            await asyncio.wait((self._task,), timeout=_STOP_S)
        await self._intake.stop()
        await self._outgoing.close()

    async def _say_offline(self) -> None:
        connection = self._connection
        if connection is not None:
            await self._drain(connection)
            await self._say(connection, OFFLINE)

    async def _drain(self, connection: Connection) -> None:
        """Wait for what is to be sent, and for the answers."""
        outgoing, until = self._outgoing, asyncio.get_running_loop().time() + _DRAIN_S
        # The look that is under way may have begun before the last commit.
        looks = outgoing.looks + 2
        while not (
            outgoing.looks >= looks and outgoing.is_idle and self._post.is_empty
            and not connection.waiting
        ):  # fmt: skip
            if asyncio.get_running_loop().time() > until or connection.ended.is_set():
                break
            await asyncio.sleep(0.01)

    async def _say(self, connection: Connection, state: str) -> None:
        topic = self.settings.status.text
        await connection.publish_whole(topic, state.encode(), 1, True, pack(is_text=True))

    async def _run(self) -> None:
        backoff = _FIRST_BACKOFF_S
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._connect()
            except* Exception as group:
                self._failed(_first(group))
            finally:
                self.is_connected = False
                self._connection = None
            if self._is_stopping:
                return
            backoff = _FIRST_BACKOFF_S if loop.time() - began > _GOOD_S else backoff
            await self._wait(backoff * (0.5 + random.random() / 2))  # noqa: S311
            backoff = min(2 * backoff, self.settings.broker.max_backoff_s)

    async def _connect(self) -> None:
        status = self.settings.status.text
        will = Will(status, OFFLINE.encode())
        connection = await Connection.make(self.settings.broker, will)
        try:
            async with connection:
                self._connection = connection
                await self._serve(connection)
        finally:
            connection.give_up()

    async def _serve(self, connection: Connection) -> None:
        broker = self.settings.broker
        await self._say(connection, ONLINE)
        await self._feed.connected()
        self.counters.connections += 1
        self.is_connected, self.problem = True, ""
        _log.info(
            "MQTT broker connected", host=broker.host, port=broker.port,
            in_flight=connection.in_flight, behind=self._outgoing.behind,
        )  # fmt: skip
        async with asyncio.TaskGroup() as group:
            group.create_task(self._outgoing.run(connection))
            group.create_task(self._post.run(connection))
            if self.settings.frames.out.is_on:
                group.create_task(self._frames.run(connection))
            if self._intake.is_on:
                group.create_task(self._intake.run(connection))
            group.create_task(_watch(connection))

    async def _wait(self, seconds: float) -> None:
        away = asyncio.get_running_loop().create_task(self._outgoing.away())
        try:
            await asyncio.sleep(seconds)
        finally:
            away.cancel()
            await asyncio.gather(away, return_exceptions=True)

    def _failed(self, error: BaseException) -> None:
        text = str(error) or type(error).__name__
        if not isinstance(error, aiomqtt.MqttError | FleetError | OSError):
            # A mistake of ours in one message must not end the bridge for good.
            _log.error("MQTT bridge failed, and begins again", exc_info=error)
        if text != self.problem and not self._is_stopping:
            broker = self.settings.broker
            _log.warning(
                "MQTT broker away; readings are kept for it", host=broker.host, port=broker.port,
                reason=text,
            )  # fmt: skip
        self.problem = text


async def _watch(connection: Connection) -> None:
    """Notice the end of a connection that nobody uses now."""
    await connection.ended.wait()
    await connection.room()


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


async def make_bridge(running: Running, make_outbox: Callable[[str], Outbox]) -> Bridge | None:
    """Start the bridge of FOLDER/mqtt.toml; None: it was removed.

    Raises:
        ConfigError: the file is broken. StoreUnavailable.
    """
    settings = load_mqtt(running.folder)
    if settings is None:
        return None
    bridge = Bridge(running, settings, make_outbox)
    await bridge.start()
    return bridge
