"""One worker of `fleetnet serve --workers`: listeners and sessions, with the store elsewhere.

    python -m fleetnet_server.workers.worker FILE-NUMBER NAME      (started by supervisor.py)

It differs from a server of one process in where things go: messages to the store process, events
and counters as well, and what there is one of is left to that process.
"""

import contextlib
import math
import socket
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fleetnet_server.app import Backend
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.core.commands import Commands
from fleetnet_server.core.configs import Configs
from fleetnet_server.core.events import Events
from fleetnet_server.core.patience import Patience
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.presence import Presence
from fleetnet_server.errors import ConfigError
from fleetnet_server.listeners import Inherited
from fleetnet_server.store.audit import Audit
from fleetnet_server.store.blobs import BlobFiles
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.lifetimes import load_lifetimes
from fleetnet_server.store.remote import RemoteStore, start_line
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.writer import Writer
from fleetnet_server.workers.child import serve_child
from fleetnet_server.workers.control import Setup
from fleetnet_server.workers.process import WORKER_DRAIN_S
from fleetnet_server.workers.telling import Reporter, ToldEvents, ToldPresence

if TYPE_CHECKING:
    from fleetnet_server.app_store import ServedStore

# The kernel shares out devices by chance: a worker may have this much more than its part.
_UNEVEN = 1.25

# After an attempt that has waited for three seconds already (store/remote.py).
_RETRY_S = (0.1, 0.5)

# As often as the quotas themselves look (store/blob_quotas.py).
_QUOTAS_S = 10.0

# What every process notices by itself and only the store process writes down.
_SAID_ONCE = frozenset(
    (
        "policy-reloaded", "policy-broken", "lists-reloaded", "lists-broken", "settings-reloaded",
        "certificates-reloaded",
    )
)  # fmt: skip


def share(settings: Settings, workers: int) -> Settings:
    """Return the settings of one of ``workers``: what holds for all together is divided."""
    return settings.model_copy(
        update={
            "address_handshakes_per_s": settings.address_handshakes_per_s / workers,
            "address_handshakes_burst": math.ceil(settings.address_handshakes_burst / workers),
            "sessions_per_s": settings.sessions_per_s / workers,
            "max_sessions": math.ceil(settings.max_sessions / workers * _UNEVEN),
            "rotations_per_s": settings.rotations_per_s / workers,
        }
    )


class WorkerAudit(Audit):
    """The audit log of a worker: without what the store process notices as well."""

    def note(
        self, actor: str, action: str, device: str | None, detail: dict[str, Any] | None = None
    ) -> None:
        """See Audit."""
        if action not in _SAID_ONCE:
            super().note(actor, action, device, detail)


class WorkerBackend(Backend):
    """A back-end for some of the devices. Raises, on entry: as Backend."""

    def __init__(self, folder: Path, settings: Settings, setup: Setup):
        super().__init__(folder, share(settings, setup.workers))
        self._setup = setup
        self._partials = f"{self._partials}-{setup.worker}"
        sockets = {key: socket.socket(fileno=number) for key, number in setup.sockets.items()}
        self._inherited = Inherited(sockets, bytes.fromhex(setup.cookie_key))
        self._line = start_line(folder, setup.worker)
        self._reporter = Reporter(self, self._line)

    def read_settings(self) -> Settings:
        """See Backend."""
        return share(super().read_settings(), self._setup.workers)

    def _take_lock(self) -> IO[bytes] | None:
        return None  # the supervisor has it

    def _open_store(self) -> "ServedStore":
        place = self.settings.store_place(self.folder)
        if isinstance(place, Path):
            return RemoteStore(place, self.folder, self._line, self._setup.worker)
        from fleetnet_server.store.postgres.remote import RemotePostgresStore

        return RemotePostgresStore(place, self.folder, self._line, self._setup.worker)

    async def _join(self) -> None:
        """The store process is the node; this one hears of changes by itself."""
        if not isinstance(self.store, SqliteStore):
            self.store.on_change = self._lookout.wake
            patience_s = self.settings.store_patience_s
            self._lookout.add(Patience(self.sessions, lambda: self.writer.waiting_s, patience_s))

    def _make_writer(self) -> Writer[Peer]:
        # The store process gives the beat: while it commits, the next batch gathers.
        return Writer(
            self.store,
            self.router.on_durable,
            interval_s=0,
            max_rows=self.settings.commit_rows,
            retry_s=_RETRY_S,
            on_lost=self.router.on_lost,
        )

    def _make_feed(self) -> tuple[Events, Presence]:
        return ToldEvents(self._line), ToldPresence(self._line)

    def _make_audit(self) -> Audit:
        return WorkerAudit(self.store)

    def _make_commands(self, table: CommandTable) -> tuple[Commands, Configs]:
        commands, configs = super()._make_commands(table)
        commands.expires = False
        return commands, configs

    async def _renew_keys(self) -> None:
        """The store process does, before the first worker starts."""

    async def _begin_rest(self) -> None:
        """What is done once is done by the store process."""
        self._lookout.add(_Quotas(self._blob_files, self.folder))
        self.rotations.on_revoked = self.revoked = lambda: self._line.tell("revoked", None)
        self._line.on_news = self._hear
        self._reporter.start()

    def _begin_housekeeping(self) -> None:
        """See _begin_rest."""

    def _hear(self, kind: str, data: Any) -> None:
        """The store process says that there is something new to be found in the store."""
        if kind == "look":
            self._lookout.wake()

    async def stop(self) -> None:
        """See Backend."""
        await super().stop()
        await self._reporter.stop()
        await self._line.stop()


class _Quotas:
    """Knows how large a blob may be; the store process removes what is too much."""

    def __init__(self, files: BlobFiles, folder: Path):
        self._files = files
        self._folder = folder
        self._due = 0.0

    def look(self) -> None:
        """See Looking."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _QUOTAS_S
            with contextlib.suppress(ConfigError):  # the store process says so
                self._files.lifetimes = load_lifetimes(self._folder)

    async def stop(self) -> None:
        """See Looking."""


def make_worker(setup: Setup) -> WorkerBackend:
    """Return the back-end of a worker. Raises ConfigError."""
    folder = Path(setup.folder)
    return WorkerBackend(folder, load_settings(folder), setup)


if __name__ == "__main__":
    serve_child(make_worker, WORKER_DRAIN_S)
