"""Presence where several servers share a store: the sessions at the others are seen as well.

What happens here is told at once; what the others have is read every few seconds (node.py), and
its beginnings and ends are told as if they were this server's.
"""

from collections.abc import Mapping

from fleetnet_server.core.events import Tell, tell_nobody
from fleetnet_server.core.presence import ONLINE, DevicePresence, Presence


class SharedPresence(Presence):
    """See Presence.

    Args:
        node: name of this server.

    Attributes:
        is_alone: no other server runs: nobody needs to be told which one has a device.
    """

    def __init__(self, node: str, tell: Tell = tell_nobody):
        super().__init__(tell)
        self._node = node
        self._elsewhere: dict[str, DevicePresence] = {}
        self.is_alone = True

    def of(self, name: str) -> DevicePresence:
        """See Presence."""
        found = super().of(name)
        if found.state == ONLINE:
            return found if self.is_alone else found._replace(node=self._node)
        other = self._elsewhere.get(name)
        if other is None:
            return found
        # What this server counted in its own sessions of the device stays true.
        return found._replace(
            state=ONLINE, link=other.link, address=other.address, since_ms=other.since_ms,
            last_seen_ms=None, ended="", software=other.software, via="", node=other.node,
        )  # fmt: skip

    def is_online(self, name: str) -> bool:
        """See Presence."""
        return super().is_online(name) or name in self._elsewhere

    def use(self, others: Mapping[str, DevicePresence]) -> None:
        """Take the sessions at all other servers, by device, as they are now."""
        before, self._elsewhere = self._elsewhere, dict(others)
        for name, old in before.items():
            if name not in others and not super().is_online(name):
                why = f"its session at {old.node} ended"
                self._tell("session-ended", name, {"link": old.link, "why": why})
        for name, new in others.items():
            known = before.get(name)
            if known is None or (known.node, known.since_ms) != (new.node, new.since_ms):
                detail = {
                    "link": new.link, "address": new.address, "software": new.software,
                    "quarantined": new.is_quarantined, "node": new.node,
                }  # fmt: skip
                self._tell("session-opened", name, detail)
