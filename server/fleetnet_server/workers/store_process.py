"""The store process of `fleetnet serve --workers`: everything that there is one of.

    python -m fleetnet_server.workers.store_process FILE-NUMBER NAME      (started by supervisor.py)

It commits for all workers (store/serving.py), and has the HTTP API, the bridge, housekeeping and
the server's certificate. It has no devices of its own: workers tell of theirs (mirrors.py).
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from socket import gethostname
from typing import IO, Any, cast

import structlog

from fleetnet.errors import CredentialError
from fleetnet_server.app import Backend
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.core.commands import Commands
from fleetnet_server.core.configs import Configs
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.transport import LINKS
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.listeners import Listeners, marks_of
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.serving import Lost, Stored, StoreServer, Token
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.writer import Writer
from fleetnet_server.upkeep import Upkeep
from fleetnet_server.workers.child import serve_child
from fleetnet_server.workers.control import Setup
from fleetnet_server.workers.mirrors import Door, Mirrors
from fleetnet_server.workers.process import STORE_DRAIN_S

_log = structlog.get_logger("fleetnet")


class StoreCommands(Commands):
    """Commands to devices that are at the workers: these find them in the store.

    Attributes:
        look_now: lets the workers look into the store at once.
    """

    look_now: Callable[[], None]

    async def queue(
        self, device_name: str, name: str, args: Any = None, expires_s: float = 3600.0,
        issuer: str = "program",
    ) -> str:  # fmt: skip
        """See Commands."""
        command_id = await super().queue(device_name, name, args, expires_s, issuer)
        self.look_now()
        return command_id

    def note_ended(self, command_id: str) -> None:
        """A worker has stored how a command ended."""
        self._ended(command_id)


class StoreConfigs(Configs):
    """Configurations of devices that are at the workers. Attributes: see StoreCommands."""

    look_now: Callable[[], None]

    async def set(self, device_name: str, document: dict[str, Any]) -> int:
        """See Configs."""
        version = await super().set(device_name, document)
        self.look_now()
        return version


class NoListeners:
    """In the place of listeners.Listeners, where there are none: it only knows of new files.

    Attributes:
        doors: sums of all workers'. serial: of the certificate that these show.
    """

    def __init__(self, folder: Path) -> None:
        self.doors = {link: Door() for link in LINKS}
        self.serial = 0
        self._folder = folder
        self._seen = marks_of(folder)
        self.on_reload: Callable[[], None] = lambda: None

    def use_limits(self, settings: Settings) -> None:
        """Nobody comes."""

    def stop_accepting(self) -> None:
        """Nobody was let in."""

    def close(self) -> None:
        """Nothing is open."""

    async def reload(self) -> bool:
        """The workers read the files themselves."""
        return True

    def look(self) -> None:
        """See Looking: hear of files that changed. What is wrong with them the workers say."""
        seen = marks_of(self._folder)
        if seen != self._seen:
            self._seen = seen
            with contextlib.suppress(CredentialError, OSError):
                self.serial = ServerKeys(self._folder).serial
                self.on_reload()

    async def stop(self) -> None:
        """See Looking."""


class StoreBackend(Backend):
    """A back-end without devices of its own. Raises, on entry: as Backend.

    Attributes:
        commands: with those at the workers. doors: sums of the workers'.
        workers: what they tell. reload_workers: has them read settings and certificates anew.
    """

    commands: StoreCommands
    workers: Mirrors

    def __init__(self, folder: Path, settings: Settings, setup: Setup):
        # A database knows this server by one name, however often this process begins anew.
        node = settings.node or f"{gethostname()}-{os.getppid()}"
        super().__init__(folder, settings.model_copy(update={"node": node}))
        self._setup = setup
        self.workers = Mirrors(self, setup.workers)
        self.reload_workers: Callable[[], None] = lambda: None
        self._none = NoListeners(folder)
        self.doors = self._none.doors

    def _take_lock(self) -> IO[bytes] | None:
        return None  # the supervisor has it

    def _make_writer(self) -> Writer[Peer]:
        def make(
            on_durable: Callable[[Stored], None], on_lost: Callable[[Lost], None]
        ) -> Writer[Token]:
            return Writer(
                self.store,
                on_durable,
                interval_s=self.settings.commit_interval_ms / 1000,
                max_rows=self.settings.commit_rows,
                on_lost=on_lost,
            )

        keeps_leases = isinstance(self.store, SqliteStore)
        self._server = StoreServer(self.store, make, keeps_leases)
        return cast("Writer[Peer]", self._server.writer)

    def _make_commands(self, table: CommandTable) -> tuple[Commands, Configs]:
        commands = StoreCommands(table, self._rules, self.audit)
        configs = StoreConfigs(table)
        commands.look_now = configs.look_now = lambda: self._server.tell(None, "look")
        return commands, configs

    async def _listen(self) -> None:
        self._upkeep = Upkeep(self.folder, self.settings, self.store, self.audit.note)
        await self._renew_keys()
        self.psks.live = self.sessions.live
        self.listeners = cast("Listeners", self._none)
        ports = self._setup.ports
        self.tls_port, self.dtls_port = ports["tls_port"], ports["dtls_port"]
        server, workers = self._server, self.workers
        server.on_news, server.on_left = workers.hear, workers.left
        server.on_batch = workers.on_batch
        self.store.on_lost = server.lose
        await self._join()
        others = self.commands.elsewhere

        async def is_anywhere(device_id: int) -> bool:
            if self.workers.takes_commands(device_id):
                return True
            return others is not None and await others(device_id)

        self.commands.elsewhere = is_anywhere
        await self._begin_rest()
        self._none.on_reload = self._on_reload
        self._lookout.add(self._none)
        await server.start(self.folder)
        _log.info("store process serves", workers=self._setup.workers, web=self.web_port)

    def worker_of(self, device_id: int) -> int | None:
        """Return which worker has a device, None when nobody has."""
        return self._server.worker_of(device_id)

    @property
    def session_count(self) -> int:
        """See Backend: of all workers."""
        return sum(state.sessions for state in self.workers.states())

    async def reload(self) -> bool:
        """See Backend; the workers do the same."""
        self.reload_workers()
        return await super().reload()

    async def stop(self) -> None:
        """See Backend."""
        await super().stop()
        await self._server.stop()


def make_store_process(setup: Setup) -> StoreBackend:
    """Return the back-end of the store process. Raises ConfigError."""
    folder = Path(setup.folder)
    return StoreBackend(folder, load_settings(folder), setup)


if __name__ == "__main__":
    serve_child(make_store_process, STORE_DRAIN_S)
