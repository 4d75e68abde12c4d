"""How many messages a session may have under way, and the acknowledgements that free them.

The window is what the store and the group's rules allow.
"""

from typing import TYPE_CHECKING

from fleetnet.acceptor import AcceptorSession
from fleetnet.ports import port
from fleetnet_server.core.policing import Pace
from fleetnet_server.core.transport import Transport
from fleetnet_server.identity.policy import Rules

if TYPE_CHECKING:
    from fleetnet_server.core.sessions import Sessions


class Windowed:
    """The part of a Peer that opens and shuts its windows, and acknowledges.

    Attributes:
        far_at, near_at: see Timed.
        rules: what the policy says of its group; None: nothing.
        pace: holds it to the rate of its rules; None: there is none.
    """

    __slots__ = ("_ack_armed", "far_at", "near_at", "pace", "rules")
    _session: AcceptorSession
    _sessions: "Sessions"
    _transport: Transport | None
    _ack_armed: int | None
    is_open: bool
    far_at: int
    near_at: int
    pace: Pace | None
    rules: Rules | None

    def use_rules(self, rules: Rules | None, pace: Pace | None) -> None:
        """Follow these rules from now on."""
        self.rules, self.pace = rules, pace
        self.update_window()

    def _window(self) -> int:
        window = self._sessions.window()
        return window if self.pace is None else self.pace.room(window)

    def update_window(self) -> None:
        """Offer as many messages a stream as there is room for now; 0 halts the device."""
        if self.is_open:
            now = port.ticks()
            self._session.set_window(self._window(), now)
            self._flush(now)

    def acknowledge_now(self) -> None:
        """Let every acknowledgement leave at once (before a shutdown)."""
        now = port.ticks()
        self._session.receiver.acknowledge_soon(now)
        self._flush(now)

    def _send_acknowledgement(self, now: int) -> bool:
        """Send the one that is due; False when there is more to say, or no way."""
        transport = self._transport
        if transport is None or not (frame := self._session.acknowledgement_alone(now)):
            return False
        transport.send(frame)
        # Nothing else is due soon, so what was armed for this one need not come.
        self.near_at, self._ack_armed = 0, None
        if not self.far_at:
            self._arm(now)
        return True

    def _flush(self, now: int) -> None:
        """Send what there is to send."""
        raise NotImplementedError

    def _arm(self, now: int) -> None:
        """Be called again when the session wants to be."""
        raise NotImplementedError
