"""Requests that come in by MQTT: commands and configurations, each with an answer.

    topic            fleetnet/cam-1/command/blink
    payload          {"times": 3}
    response topic   fleetnet/cam-1/reply/blink      (MQTT 5; else the topic in mqtt.toml)
    correlation      any bytes, which come back
    expiry           seconds: the command's deadline

A message of MQTT does not say who published it. All of them are of the issuer "mqtt:NAME", the
bridge's name; who may publish there is for the broker's access list to say. What is retained is
no request: it would be one again at every connection.
"""

import asyncio
import json
from typing import Any, NamedTuple

import aiomqtt
import structlog
from paho.mqtt.subscribeoptions import SubscribeOptions

from fleetnet.errors import FleetError
from fleetnet_server.bridge import topics
from fleetnet_server.bridge.connection import REFUSED, Connection
from fleetnet_server.bridge.counters import Counters
from fleetnet_server.bridge.payloads import Publication
from fleetnet_server.bridge.ports import Running
from fleetnet_server.bridge.postbox import Postbox
from fleetnet_server.bridge.properties import JSON, Request, pack, read_request
from fleetnet_server.bridge.settings import Inbound, Mqtt
from fleetnet_server.errors import (
    CommandError,
    CommandFailed,
    CommandTimeout,
    CommandUnknown,
    DeviceOffline,
    NotAllowed,
    StoreError,
    StoreUnavailable,
)

_log = structlog.get_logger("fleetnet.mqtt")

# At once; each is a row of the store and at most 64 KiB.
_MOST = 64
# A correlation is some bytes of a client's own; what comes back must not be its payload.
_MAX_CORRELATION = 1024
_LONGEST_S = 30 * 86_400.0
# MQTT 5.0 section 3.8.3.1: do not send retained messages, nor what we publish ourselves.
_OPTIONS = SubscribeOptions(qos=1, noLocal=True, retainHandling=2)

# What an answer says that brings no value, by the error; the first that fits.
_KINDS: tuple[tuple[type[Exception], str], ...] = (
    (NotAllowed, "not-allowed"),
    (DeviceOffline, "offline"),
    (CommandTimeout, "timeout"),
    (CommandUnknown, "unknown-command"),
    (CommandFailed, "failed"),
    (StoreError, "unknown-device"),
    (StoreUnavailable, "unavailable"),
    (CommandError, "unavailable"),
    (ValueError, "bad-request"),
)


class _Order(NamedTuple):
    """A request that was read. ``command`` "": a configuration."""

    device: str
    command: str
    payload: bytes
    request: Request
    settings: Inbound
    reply: str


class Intake:
    """Takes requests from one connection after the other."""

    def __init__(self, running: Running, settings: Mqtt, post: Postbox, counters: Counters):
        self._running = running
        self._settings = settings
        self._post = post
        self._counters = counters
        self._tasks: set[asyncio.Task[None]] = set()
        self.issuer = f"mqtt:{settings.broker.name}"

    @property
    def is_on(self) -> bool:
        return self._settings.commands.is_on or self._settings.config.is_on

    async def run(self, connection: Connection) -> None:
        """Subscribe, and take what comes until the connection ends. Raises aiomqtt.MqttError."""
        for wanted in (self._settings.commands, self._settings.config):
            if wanted.is_on:
                codes = await connection.subscribe(wanted.topic.filter, options=_OPTIONS)
                if any(_value(code) >= REFUSED for code in codes):
                    raise aiomqtt.MqttError(f"the broker refuses to subscribe: {codes[0]}")
        async for message in connection.messages:
            self._take(message)

    async def stop(self) -> None:
        """Give up what is under way; a command that was given stays given."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, message: aiomqtt.Message) -> None:
        if message.retain:
            self._refuse("retained", message)
            return
        order = self._read(message)
        if order is None:
            self._refuse("unreadable topic", message)
        elif len(self._tasks) >= _MOST:
            self._answer(order, "busy", {"error": f"{_MOST} requests are under way"})
        else:
            task = asyncio.get_running_loop().create_task(self._serve(order))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _refuse(self, why: str, message: aiomqtt.Message) -> None:
        self._counters.requests[why] += 1
        _log.warning("MQTT request not taken", why=why, topic=message.topic.value[:200])

    def _read(self, message: aiomqtt.Message) -> _Order | None:
        for wanted in (self._settings.commands, self._settings.config):
            names = wanted.topic.match(message.topic.value) if wanted.is_on else None
            if names is not None:
                request = read_request(message.properties)
                payload = message.payload if isinstance(message.payload, bytes) else b""
                reply = request.response_topic or wanted.reply.fill(**names)
                command = names.get("command", "")
                return _Order(names["device"], command, payload, request, wanted, reply)
        return None

    async def _serve(self, order: _Order) -> None:
        try:
            detail = await (self._call(order) if order.command else self._configure(order))
        except (FleetError, ValueError, RecursionError, OverflowError) as error:
            kind = next((text for sort, text in _KINDS if isinstance(error, sort)), "bad-request")
            said: dict[str, Any] = {"error": str(error)}
            if isinstance(error, CommandFailed):
                said = {"error": error.text, "type": error.kind}
            self._answer(order, kind, said)
        else:
            self._answer(order, *detail)

    async def _call(self, order: _Order) -> tuple[str, dict[str, Any]]:
        args = json.loads(order.payload) if order.payload.strip() else []
        commands, expiry_s = self._running.commands, order.request.expiry_s
        timeout_s = min(order.settings.timeout_s if expiry_s is None else expiry_s, _LONGEST_S)
        if order.request.user.get("queue") == "true":
            command_id = await commands.queue(
                order.device, order.command, args, timeout_s, self.issuer
            )
            return "queued", {"id": command_id}
        value = await commands.call(order.device, order.command, args, timeout_s, self.issuer)
        return "ok", {"value": value}

    async def _configure(self, order: _Order) -> tuple[str, dict[str, Any]]:
        document = json.loads(order.payload)
        device = self._running.store.lookup(order.device)
        if device is None:
            raise StoreError(f"device {order.device!r} is not registered")
        rules = self._running.policy.policy.rules(device.group)
        if rules is not None and rules.issuers is not None and self.issuer not in rules.issuers:
            why = f"{self.issuer} may not configure its group"
            detail = {"name": "config", "why": why}
            self._running.audit.note_repeated(self.issuer, "command-denied", device.name, detail)
            raise NotAllowed(why)
        version = await self._running.configs.set(order.device, document)
        self._running.audit.note(self.issuer, "config-set", order.device, {"version": version})
        return "ok", {"version": version}

    def _answer(self, order: _Order, state: str, detail: dict[str, Any]) -> None:
        self._counters.requests[state] += 1
        request = order.request
        if not self._may_answer(order):
            self._counters.drop("response topic not allowed", topic=order.reply[:200])
            return
        if len(request.correlation) > _MAX_CORRELATION:
            self._counters.drop("correlation data too long", bytes=len(request.correlation))
            return
        document = {"device": order.device, "state": state, **detail}
        if order.command:
            document["command"] = order.command
        payload = json.dumps(document, separators=(",", ":")).encode()
        properties = pack(JSON, True, correlation=request.correlation)
        self._post.event(Publication(order.reply, payload, 1, False, properties, "replies"))

    def _may_answer(self, order: _Order) -> bool:
        """The bridge may publish where its requests' publishers may not: they must not choose."""
        if not order.request.response_topic:
            return True
        if not topics.is_topic(order.reply):
            return False
        return any(topics.matches(one, order.reply) for one in order.settings.responses)


def _value(code: Any) -> int:
    """Return the number of a reason code, which aiomqtt gives as an object or as a number."""
    return int(getattr(code, "value", code))
