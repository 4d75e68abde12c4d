"""How many messages a session may have under way: what the store and its group's rules allow."""

from typing import TYPE_CHECKING

from fleetnet.acceptor import AcceptorSession
from fleetnet.ports import port
from fleetnet_server.core.policing import Pace
from fleetnet_server.identity.policy import Rules

if TYPE_CHECKING:
    from fleetnet_server.core.sessions import Sessions


class Windowed:
    """The part of a Peer that opens and shuts its windows.

    Attributes:
        rules: what the policy says of its group; None: nothing.
        pace: holds it to the rate of its rules; None: there is none.
    """

    __slots__ = ("pace", "rules")
    _session: AcceptorSession
    _sessions: "Sessions"
    is_open: bool
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

    def _flush(self, now: int) -> None:
        """Send what there is to send."""
        raise NotImplementedError
