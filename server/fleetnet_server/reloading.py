"""Settings that change while the server runs: SIGHUP, and Backend.reload.

Only what differs from the file as it was last read is put in force, so that what a program
gave to Backend itself stays. A file that is broken changes nothing.
"""

from typing import TYPE_CHECKING

import structlog

from fleetnet_server.config import Settings
from fleetnet_server.errors import ConfigError

if TYPE_CHECKING:
    from fleetnet_server.app import Backend

_log = structlog.get_logger("fleetnet.settings")

# Everything else is a port, a file or a part that was made at the start.
CHANGEABLE = frozenset(
    (
        "address_handshakes_per_s",
        "address_handshakes_burst",
        "compaction",
        "device_sessions_per_s",
        "device_sessions_burst",
        "handshake_timeout_s",
        "housekeeping_share",
        "keepalive_s",
        "dtls_keepalive_s",
        "max_handshakes",
        "max_sessions",
        "sessions_per_s",
    )
)


class Reloading:
    """Reads the settings of a back-end anew."""

    def __init__(self, backend: "Backend"):
        self._backend = backend
        self._read = self._started = self._load()

    def reload(self) -> bool:
        """Put in force what changed in the file and can change.

        Returns:
            False: the file is broken, or something changed that needs a restart; both were
            logged, and what can change was changed in the second case.
        """
        backend = self._backend
        try:
            found = backend.read_settings()
        except ConfigError as error:
            _log.error("settings not reloaded, those in force stay", reason=str(error))
            return False
        before = self._read or backend.settings
        self._read = found
        changed = {key: value for key, value in found if value != getattr(before, key)}
        now = {key: value for key, value in changed.items() if key in CHANGEABLE}
        # Not only what changed since the last look: it stays out of force until the restart.
        started = self._started or backend.settings
        later = sorted(
            key for key, value in found if key not in CHANGEABLE and value != getattr(started, key)
        )
        if now:
            self._use(backend.settings.model_copy(update=now))
            _log.info("settings reloaded", **now)
            backend.audit.note("server", "settings-reloaded", None, now)
        if later:
            _log.warning("settings that need a restart were left as they are", keys=later)
        return not later

    def _load(self) -> Settings | None:
        """The file as it is now; a back-end that was given its settings may have none."""
        try:
            return self._backend.read_settings()
        except ConfigError:
            return None

    def _use(self, settings: Settings) -> None:
        backend = self._backend
        backend.settings = settings
        backend.listeners.use_limits(settings)
        backend.housekeeping.use(settings)
        sessions = backend.sessions
        sessions.gate.use(settings)
        sessions.keepalive_ms = int(settings.keepalive_s * 1000)
        sessions.datagram_keepalive_ms = int(settings.dtls_keepalive_s * 1000)
