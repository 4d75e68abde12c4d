"""The newest image of each device, to the broker: whole, retained, and never two in memory."""

from pathlib import Path

from fleetnet_server.bridge.connection import REFUSED, Connection
from fleetnet_server.bridge.counters import Counters
from fleetnet_server.bridge.feed import Feed
from fleetnet_server.bridge.ports import Running
from fleetnet_server.bridge.properties import pack
from fleetnet_server.bridge.settings import Frames

# IANA CoAP Content-Formats; what views.latest_frame finds.
_TYPES = {22: "image/jpeg", 23: "image/png"}


class FrameSender:
    """Sends images that are new; what comes while one is sent replaces what waits."""

    def __init__(self, running: Running, settings: Frames, feed: Feed, counters: Counters):
        self._running = running
        self._settings = settings
        self._feed = feed
        self._counters = counters
        self._sent: dict[str, int] = {}

    async def run(self, connection: Connection) -> None:
        """Send until the connection ends. Raises aiomqtt.MqttError, StoreUnavailable."""
        # A broker may have lost what it retained, and we what came while it was away.
        self._sent.clear()
        views = self._running.views
        for one in await views.run(views.overview.devices):
            self._feed.changed.setdefault(one.name)
        while True:
            while self._feed.changed:
                device = next(iter(self._feed.changed))
                del self._feed.changed[device]
                try:
                    await self._send(connection, device)
                except BaseException:
                    self._feed.changed.setdefault(device)
                    raise
            self._feed.frame_news.clear()
            await self._feed.frame_news.wait()

    async def _send(self, connection: Connection, device: str) -> None:
        known, views = self._running.store.lookup(device), self._running.views
        if known is None or known.state == "quarantined":
            return
        found = await views.run(views.latest_frame, known.id)
        if found is None or self._sent.get(device) == found[0]["id"]:
            return
        row, path = found
        out = self._settings.out
        topic = out.topic.fill(device=device)
        size = int(row["size"])
        if size > min(self._settings.max_bytes, connection.maximum_packet - 1024):
            self._counters.drop("frame larger than max", device=device, bytes=size)
            return
        try:
            payload = await views.run(_read, path, size)
        except OSError:
            return  # a quota took it; a newer one will come
        user = (("device", device), ("name", row["name"]), ("sha256", row["sha256"]))
        properties = pack(_TYPES.get(row["content_format"], ""), False, out.expiry_s, user=user)
        code = await connection.publish_whole(topic, payload, out.qos, out.retain, properties)
        if code >= REFUSED:
            self._counters.drop(f"refused by the broker: reason code {code:#x}", topic=topic)
        else:
            self._counters.sent["frames"] += 1
        self._sent[device] = row["id"]


def _read(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)
