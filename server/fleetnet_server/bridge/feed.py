"""How the fleet is, and what happens in it: presence, events, newest values, discovery."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from fleetnet_server.bridge import discovery
from fleetnet_server.bridge.payloads import Publication
from fleetnet_server.bridge.ports import Running
from fleetnet_server.bridge.postbox import Postbox
from fleetnet_server.bridge.properties import JSON, pack
from fleetnet_server.bridge.settings import Mqtt, Output
from fleetnet_server.core.events import FLEETING, KINDS, Event
from fleetnet_server.errors import StoreUnavailable

_log = structlog.get_logger("fleetnet.mqtt")

# Of one device; core/live.py shows as many.
_CHANNELS = 64
# Between two looks for devices that are new, or gone for good.
_LOOK_S = 30.0
# Alarms come from the store (payloads.py), where none of them gets lost.
_KINDS = frozenset(KINDS) - FLEETING - {"alarm"}
# In the topic of events that are no device's: none can be called so.
_FLEET = "_fleet"

_TEXT = pack(JSON, is_text=True)


class Feed:
    """Fills the postbox with what the back-end says; from ``start`` to ``stop``.

    Attributes:
        changed: devices with a new image, for Frames; taken from there.
    """

    def __init__(self, running: Running, settings: Mqtt, post: Postbox):
        self._running = running
        self._settings = settings
        self._post = post
        self._latest: dict[str, dict[str, msgspec.Raw]] = {}
        self._dirty: set[str] = set()
        self._shown: dict[str, tuple[str, ...]] = {}  # device -> channels in its discovery
        self._names: set[str] = set()
        self._subscription = running.events.subscribe(_KINDS)
        self._tasks: list[asyncio.Task[None]] = []
        self.changed: dict[str, None] = {}
        self.frame_news = asyncio.Event()

    def start(self, channels: dict[str, list[str]]) -> None:
        """Begin; ``channels``: what is known of each device."""
        for device, names in channels.items():
            known = self._latest.setdefault(device, {})
            for name in names[:_CHANNELS]:
                known.setdefault(name, msgspec.Raw(b""))
        for work in (self._follow(), self._flush(), self._look()):
            self._tasks.append(asyncio.get_running_loop().create_task(work))

    async def stop(self) -> None:
        """End it."""
        self._subscription.close()
        # What it still has is taken first: the devices that were sent away.
        if self._tasks:
            await asyncio.wait(self._tasks[:1], timeout=1.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def connected(self) -> None:
        """Say everything again: a broker may have lost what it retained.

        Raises StoreUnavailable.
        """
        self._shown.clear()
        await self._look_once(is_again=True)
        self._dirty.update(
            name for name, values in self._latest.items() if any(map(bytes, values.values()))
        )

    def latest(self, device: str, values: Mapping[str, msgspec.Raw]) -> None:
        """Take the newest values of a device, channel -> JSON."""
        known = self._latest.setdefault(device, {})
        size = len(known)
        for channel, value in values.items():
            # A page of the store would be kept whole for the sake of one value in it.
            known[channel] = msgspec.Raw(bytes(value))
        while len(known) > _CHANNELS:
            del known[next(iter(known))]
        self._dirty.add(device)
        if len(known) != size or device not in self._shown:
            self._discover(device)

    # -- what happens --------------------------------------------------------------------

    async def _follow(self) -> None:
        async for event in self._subscription:
            self._take(event)

    def _take(self, event: Event) -> None:
        if event.device is not None:
            if event.kind in ("session-opened", "session-ended"):
                self._presence(event.device)
                self._discover(event.device)
            elif event.kind == "blob-stored":
                self.changed[event.device] = None
                self.frame_news.set()
        out = self._settings.events
        if out.is_on:
            topic = out.topic.fill(device=event.device or _FLEET, kind=event.kind)
            properties = pack(JSON, True, out.expiry_s)
            payload = event.text.encode()
            self._post.event(
                Publication(topic, payload, out.qos, out.retain, properties, "events")
            )

    def _presence(self, device: str) -> None:
        out = self._settings.presence
        if out.is_on:
            found = self._running.presence.of(device)
            self._say(out, device, msgspec.json.encode({
                "state": found.state, "link": found.link, "since_ms": found.since_ms,
                "last_seen_ms": found.last_seen_ms, "software": found.software,
                "ended": found.ended,
            }), "presence")  # fmt: skip

    def _say(self, out: Output, device: str, payload: bytes, sort: str) -> None:
        properties = _TEXT if out.expiry_s is None else pack(JSON, True, out.expiry_s)
        topic = out.topic.fill(device=device)
        self._post.state(Publication(topic, payload, out.qos, out.retain, properties, sort))

    # -- newest values -------------------------------------------------------------------

    async def _flush(self) -> None:
        state = self._settings.state
        while True:
            await asyncio.sleep(state.every_s)
            dirty, self._dirty = self._dirty, set()
            for device in dirty if state.out.is_on else ():
                values = {key: raw for key, raw in self._latest[device].items() if bytes(raw)}
                self._say(state.out, device, msgspec.json.encode(values), "state")
                await asyncio.sleep(0)

    # -- discovery -----------------------------------------------------------------------

    def _discover(self, device: str) -> None:
        found = self._settings.discovery
        if not found.is_on:
            return
        # Home Assistant's states are text of up to 255 characters: lists and objects are none.
        values = self._latest.get(device, {}).items()
        channels = tuple(
            sorted(key for key, raw in values if not bytes(raw).startswith((b"[", b"{")))
        )
        if self._shown.get(device) == channels:
            return
        self._shown[device] = channels
        software = self._running.presence.of(device).software
        for topic, payload in discovery.messages(
            self._settings, device, channels, software
        ).items():
            self._post.state(Publication(topic, payload, 1, True, _TEXT, "discovery"))

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self._look_once()
            except StoreUnavailable as error:
                _log.error("MQTT bridge cannot look for devices", reason=str(error))

    async def _look_once(self, is_again: bool = False) -> None:
        """Show devices that are new, and take back what was said of those that were removed."""
        views = self._running.views
        names = {one.name for one in await views.run(views.overview.devices)}
        for name in (self._names | self._latest.keys()) - names:
            self._forget(name)
        for name in names if is_again else names - self._names:
            self._presence(name)
            self._discover(name)
        self._names = names

    def _forget(self, device: str) -> None:
        """Empty retained messages are removed (MQTT 5.0 section 3.3.1.3)."""
        settings = self._settings
        topics: list[Any] = [
            out.topic.fill(device=device)
            for out in (settings.presence, settings.state.out, settings.frames.out)
            if out.is_on and out.retain
        ]
        channels = self._shown.pop(device, ())
        if settings.discovery.is_on:
            topics += discovery.messages(settings, device, channels)
        for topic in topics:
            self._post.state(Publication(topic, b"", 1, True, pack(), "removed"))
        self._latest.pop(device, None)
        self._dirty.discard(device)
