"""Messages that are sent as they happen, with a bound on what waits while the broker is away.

What says how things are (presence, newest values) is kept once for each topic: the newest counts.
What happened (events) waits in order; of more than 1,024 the oldest are dropped, and counted.
"""

import asyncio
from collections import OrderedDict, deque

from fleetnet_server.bridge.connection import LOST, REFUSED, Connection
from fleetnet_server.bridge.counters import Counters
from fleetnet_server.bridge.payloads import Publication

# Some 300 B each; a fleet of 1,000 that goes and comes back once.
_EVENTS = 2048
# Devices times what is kept of each; presence, newest values and discovery of 20,000.
_STATES = 100_000


class Postbox:
    """What waits to be sent on one connection after the other."""

    def __init__(self, counters: Counters):
        self._counters = counters
        self._states: OrderedDict[str, Publication] = OrderedDict()
        self._events: deque[Publication] = deque()
        self._news = asyncio.Event()

    @property
    def is_empty(self) -> bool:
        return not self._states and not self._events

    def state(self, message: Publication) -> None:
        """Send how something is; an older message to the same topic is not sent."""
        self._states[message.topic] = message
        if len(self._states) > _STATES:
            self._states.popitem(last=False)
            self._counters.drop("too many states wait")
        self._news.set()

    def event(self, message: Publication) -> None:
        """Send that something happened."""
        if len(self._events) >= _EVENTS:
            self._events.popleft()
            self._counters.drop("too many events wait")
        self._events.append(message)
        self._news.set()

    async def run(self, connection: Connection) -> None:
        """Send until the connection ends. Raises aiomqtt.MqttError."""
        while True:
            while not self.is_empty:
                await connection.room()
                if self._events:
                    self._send(connection, self._events.popleft(), is_state=False)
                else:
                    self._send(connection, self._states.popitem(last=False)[1], is_state=True)
                # One at a time between those of the outbox: neither waits for the other.
                await asyncio.sleep(0)
            self._news.clear()
            await self._news.wait()

    def _send(self, connection: Connection, message: Publication, is_state: bool) -> None:
        size = len(message.payload) + len(message.topic) + len(message.properties.pack()) + 16
        if size > connection.maximum_packet:
            topic = message.topic
            self._counters.drop("larger than the broker takes", topic=topic, bytes=size)
            return

        def answered(code: int) -> None:
            if code == LOST:
                if not is_state:
                    self._events.appendleft(message)
                elif message.topic not in self._states:
                    self.state(message)
            elif code >= REFUSED:
                why = f"refused by the broker: reason code {code:#x}"
                self._counters.drop(why, topic=message.topic)
            else:
                self._counters.sent[message.sort] += 1

        retain = message.retain and connection.has_retain
        connection.submit(
            message.topic, message.payload, message.qos, retain, message.properties, answered
        )
