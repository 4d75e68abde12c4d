"""What is under way to one device: the commands that were sent on its present link."""

from typing import TYPE_CHECKING

from fleetnet_server.core.command_ports import Command

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer

# A device runs 4 at a time and lets 8 wait: this many never make it say "busy".
_OPEN = 8


class CallLine:
    """One device's; made and used by core/commands.py.

    Attributes:
        open: id -> (loop time at which it is sent again, unix ms at which it is stale).
    """

    def __init__(self, peer: "Peer", boot: int):
        self.peer = peer
        self.boot = boot
        self.open: dict[str, tuple[float, int]] = {}
        self.is_new = True
        self.is_pumping = False
        self.again = False

    def room(self, now_ms: int) -> int:
        """Return how many more may be sent; those that are stale (unix ms) do not count."""
        good = sum(expires_ms > now_ms for _due, expires_ms in self.open.values())
        return max(0, _OPEN - good)

    def objection(self, command: Command) -> str:
        """Return what the policy of the device has against a command, "" for nothing."""
        rules = self.peer.rules
        return "" if rules is None else rules.objection(command.name, command.issuer)
