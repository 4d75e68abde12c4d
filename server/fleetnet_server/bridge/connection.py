"""One connection to a broker: aiomqtt's client, with a window of messages without an answer.

aiomqtt's ``publish`` waits for one answer, does not say what the broker answered, and looks
through all messages that wait for each that is sent. ``submit`` hands a message to paho and calls
back with the answer: 5 times as many a second, in order, and what a broker refuses is known.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import aiomqtt
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, MQTT_ERR_SUCCESS
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fleetnet_server.bridge.properties import Packed
from fleetnet_server.bridge.security import make_context, read_secret
from fleetnet_server.bridge.settings import Broker

# OASIS MQTT 5.0 section 3.4.2.1: from here on a reason code says that it was not taken.
REFUSED = 0x80
# "No answer came": the connection ended.
LOST = -1

# Requests that come in: an argument of 16 KiB with its quotes and names.
_MAX_INCOMING = 64 << 10
# Four times what is answered at once; more are dropped, 16 MiB at most wait.
_INCOMING_WAITING = 256
# To connect and to subscribe; and for an image of some MB on a slow line.
_TIMEOUT_S = 10.0
_ANSWER_S = 60.0

Answered = Callable[[int], None]


class Will(NamedTuple):
    """What the broker says for the bridge when its connection breaks, retained."""

    topic: str
    payload: bytes


class Connection(aiomqtt.Client):
    """``async with Connection(...) as connection``.

    Raises, on entry and everywhere:
        aiomqtt.MqttError: the broker is away, refuses, or ended the connection.

    Attributes:
        receive_maximum, maximum_packet: what the broker takes (MQTT 5.0 section 3.2.2.3).
        has_retain: it keeps retained messages.
        waiting: messages without an answer.
    """

    def __init__(
        self, broker: Broker, will: Will | None, password: str | None, context: Any
    ):
        properties = _properties(PacketTypes.CONNECT)
        properties.MaximumPacketSize = _MAX_INCOMING
        super().__init__(
            broker.host,
            broker.port,
            username=broker.user,
            password=password,
            identifier=broker.name,
            protocol=aiomqtt.ProtocolVersion.V5,
            will=None if will is None else aiomqtt.Will(
                will.topic, will.payload, qos=1, retain=True,
                properties=_properties(PacketTypes.WILLMESSAGE),
            ),
            keepalive=broker.keepalive_s,
            timeout=_TIMEOUT_S,
            # What was not answered is sent again from the store: the broker keeps no session.
            clean_start=MQTT_CLEAN_START_FIRST_ONLY,
            max_queued_incoming_messages=_INCOMING_WAITING,
            # Without a limit of its own paho does not look through all messages at each answer.
            max_inflight_messages=0,
            properties=properties,
            tls_context=context,
        )  # fmt: skip
        self.receive_maximum = self.in_flight = broker.in_flight
        self.maximum_packet = (1 << 28) - 1
        self.has_retain = True
        self.waiting: dict[int, Answered] = {}
        self._room = asyncio.Event()
        self.ended = asyncio.Event()

    @classmethod
    async def make(cls, broker: Broker, will: Will | None) -> "Connection":
        """Read the secrets and return a connection to be entered.

        Raises:
            ConfigError, CredentialError, Unsupported: a secret cannot be used.
        """

        def read() -> tuple[str | None, Any]:
            password = None if broker.password_file is None else read_secret(broker.password_file)
            return password, None if broker.tls is None else make_context(broker.tls)

        password, context = await asyncio.to_thread(read)
        return cls(broker, will, password, context)

    async def __aenter__(self) -> Self:
        try:
            await super().__aenter__()
        except BaseException:
            # aiomqtt leaves the socket of an attempt that failed to whoever comes next.
            self._client._sock_close()
            raise
        self._disconnected.add_done_callback(lambda _done: self.give_up())
        return self

    @property
    def tls_text(self) -> str:
        """How the connection is protected, in words."""
        sock: Any = self._client.socket()
        if not isinstance(sock, ssl.SSLSocket):
            return "without TLS"
        return f"{sock.version()} {(sock.cipher() or ('',))[0]}"

    async def room(self, is_free: Callable[[], bool] = lambda: True) -> None:
        """Wait until one more message may be without an answer.

        Args:
            is_free: asked as well, at each answer and each ``wake``.

        Raises:
            aiomqtt.MqttError: the connection ended.
        """
        self._check()
        while len(self.waiting) >= self.in_flight or not is_free():
            self._room.clear()
            await self._room.wait()
            self._check()

    def wake(self) -> None:
        """What ``is_free`` says may have changed."""
        self._room.set()

    def submit(
        self, topic: str, payload: bytes, qos: int, retain: bool, properties: Packed,
        answered: Answered,
    ) -> None:  # fmt: skip
        """Send a message; call ``room`` before.

        Args:
            answered: gets the broker's reason code, 0 for QoS 0; LOST when the connection ends.

        Raises:
            aiomqtt.MqttError: the connection ended.
        """
        info = self._client.publish(topic, payload, qos, retain, properties)
        if info.rc != MQTT_ERR_SUCCESS:
            raise aiomqtt.MqttError("the connection to the broker ended")
        if info.is_published():
            answered(0)
        else:
            self.waiting[info.mid] = answered

    async def publish_whole(
        self, topic: str, payload: bytes, qos: int, retain: bool, properties: Packed
    ) -> int:
        """Send one message and wait; return the broker's reason code.

        Raises:
            aiomqtt.MqttError: the connection ended, or no answer came.
        """
        answer: asyncio.Future[int] = self._loop.create_future()

        def answered(code: int) -> None:
            if not answer.done():
                answer.set_result(code)

        await self.room()
        self.submit(topic, payload, qos, retain and self.has_retain, properties, answered)
        try:
            async with asyncio.timeout(_ANSWER_S):
                code = await answer
        except TimeoutError:
            raise aiomqtt.MqttError(f"no answer in {_ANSWER_S:.0f} s") from None
        if code == LOST:
            raise aiomqtt.MqttError("the connection to the broker ended")
        return code

    def give_up(self) -> None:
        """The connection is over: nobody gets an answer any more."""
        if self._disconnected.done():
            self._disconnected.exception()  # or asyncio complains that nobody looked
        waiting, self.waiting = self.waiting, {}
        for answered in waiting.values():
            answered(LOST)
        self.ended.set()
        self._room.set()

    def _check(self) -> None:
        if self.ended.is_set() or self._disconnected.done():
            raise aiomqtt.MqttError("the connection to the broker ended") from (
                self._disconnected.exception() if self._disconnected.done() else None
            )

    # -- what aiomqtt has paho call ------------------------------------------------------

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason_code: Any,
        properties: Properties | None = None,
    ) -> None:  # fmt: skip
        values = {} if properties is None else vars(properties)
        self.receive_maximum = int(values.get("ReceiveMaximum", 65_535))
        self.in_flight = min(self.in_flight, self.receive_maximum)
        self.maximum_packet = int(values.get("MaximumPacketSize", self.maximum_packet))
        self.has_retain = bool(values.get("RetainAvailable", 1))
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(self, *arguments: Any) -> None:
        if not self._connected.done():
            # A broker that does not want our certificate ends the connection; aiomqtt would
            # wait for its answer until the time is over.
            text = "the broker ended the connection instead of an answer to CONNECT"
            self._connected.set_exception(aiomqtt.MqttError(text))
        super()._on_disconnect(*arguments)

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any
    ) -> None:
        answered = self.waiting.pop(mid, None)
        if answered is None:
            super()._on_publish(client, userdata, mid, reason_code, properties)
            return
        answered(int(reason_code.value))
        self._room.set()


def _properties(packet: int) -> Properties:
    made: Properties = Properties(packet)  # type: ignore[no-untyped-call]
    return made
