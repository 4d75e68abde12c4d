"""Sends devices to other servers when this one cannot reach the store that they share.

A server alone at its store lets devices wait: there is nowhere else to go. Where others run, a
device that waits is served by one of them sooner.
"""

import logging
from collections.abc import Callable

from fleetnet_server.core.sessions import Sessions

_log = logging.getLogger("fleetnet.sessions")


# It is back when it takes so much of the patience at most: one that is slow would send away again.
_BACK = 0.5


class Patience:
    """Looked after by a Lookout (core/lookout.py).

    Args:
        away_s: seconds since which the store does not answer, 0: it does.
        patience_s: so long devices wait with it.
    """

    def __init__(self, sessions: Sessions, away_s: Callable[[], float], patience_s: float):
        self._sessions = sessions
        self._away_s = away_s
        self.patience_s = patience_s

    def look(self) -> None:
        """See Looking."""
        entering = self._sessions.entering
        away_s = self._away_s()
        if away_s > self.patience_s and not entering.is_shut:
            _log.error(
                "the store is away for %.1f s: %d devices are sent to other servers",
                away_s, len(self._sessions.live),
            )  # fmt: skip
            entering.send_away()
        elif entering.is_shut and away_s < self.patience_s * _BACK:
            entering.is_shut = False
            _log.warning("the store is back: devices may come")

    async def stop(self) -> None:
        """See Looking."""
