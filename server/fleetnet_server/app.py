"""The composition root: the one place that knows every room.

Backend puts listeners, sessions, router, writer and store together from a fleet's folder.
"""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

import structlog

from fleetnet.ports.openssl_callbacks import missing_psk_names
from fleetnet_server import app_extras, app_store
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.core.blob_ports import BlobLimits
from fleetnet_server.core.blobs import Blobs
from fleetnet_server.core.commands import Commands
from fleetnet_server.core.configs import Configs
from fleetnet_server.core.enrolment import Enrolment
from fleetnet_server.core.events import Events
from fleetnet_server.core.gate import Gate
from fleetnet_server.core.live import LiveReadings
from fleetnet_server.core.lookout import Lookout
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.presence import Presence
from fleetnet_server.core.psks import Psks
from fleetnet_server.core.relays import Relays
from fleetnet_server.core.rotation import Rotations
from fleetnet_server.core.router import Router
from fleetnet_server.core.services import Services
from fleetnet_server.core.sessions import Sessions
from fleetnet_server.core.taps import Alarms, ReadingsTap
from fleetnet_server.core.watch import Watch
from fleetnet_server.crls import Crls
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.crl_folder import CrlFolder
from fleetnet_server.identity.expiry import Expiry
from fleetnet_server.identity.permissions import check_folder
from fleetnet_server.identity.policy import PolicyFile, Rules
from fleetnet_server.identity.psk import FindKey
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.identity.wanted import TrustFolder
from fleetnet_server.listeners import Inherited, Listeners
from fleetnet_server.reloading import Reloading
from fleetnet_server.served import take_lock, write_ports
from fleetnet_server.store.ageing import AgeClock
from fleetnet_server.store.audit import Audit, AuditTable
from fleetnet_server.store.blobs import PARTIALS
from fleetnet_server.store.claims import ClaimTable
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.following import Followers
from fleetnet_server.store.housekeeping import Housekeeping
from fleetnet_server.store.hubs import HubTable
from fleetnet_server.store.identities import IdentityTable
from fleetnet_server.store.psks import PskTable
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.tokens import TokenTable
from fleetnet_server.store.views import Views
from fleetnet_server.store.writer import Writer
from fleetnet_server.upkeep import Upkeep

if TYPE_CHECKING:
    from fleetnet_server.app_store import ServedStore
    from fleetnet_server.bridge.mqtt import Bridge
    from fleetnet_server.node import Node
    from fleetnet_server.web.ports import Workers
    from fleetnet_server.web.serving import WebServer

_log = structlog.get_logger("fleetnet")

# A disk that takes longer for what waits has failed; devices keep what is not acknowledged.
_FLUSH_S = 5.0


class Backend:
    """A running back-end: ``async with Backend(folder, settings) as backend``.

    Raises, on entry:
        FolderError: another server uses the folder, or others can read its keys.
        CredentialError: keys cannot be used.
        StoreUnavailable, StoreError: the store cannot be opened.
        ConfigError: policy.toml is broken, or a port cannot be had.

    Attributes:
        tls_port, dtls_port: the real ones, where the settings say 0. web_port: 0: closed.
        commands, configs: what a program tells its devices, see core/.
        policy: FOLDER/policy.toml. audit: who decided what, to be written to.
        rotations, enrolment: new identities of devices, and first ones by claim.
        live: best-effort readings, to be watched. blobs: files and frames of devices.
        events: what happens, to be subscribed to. presence: who is here.
        housekeeping: compaction, retention and blob quotas, on a thread of its own.
        bridge: to MQTT; None: there is no mqtt.toml.
        tokens, views: for the HTTP API. is_draining: ``stop`` was called.
    """

    # Of a worker: what it has from the process that started it, and its folder below blobs/.
    _inherited: Inherited | None = None
    _partials = PARTIALS
    # Of the process that sees all of them.
    workers: "Workers | None" = None
    # Of a server whose database others have as well.
    node: "Node | None" = None

    def __init__(self, folder: Path, settings: Settings):
        self.folder = folder
        self.settings = settings
        self.tls_port = 0
        self.dtls_port = 0
        self.is_draining = False
        self.bridge: Bridge | None = None
        self.web: WebServer | None = None
        self._lock: IO[bytes] | None = None

    async def __aenter__(self) -> "Backend":
        check_folder(self.folder)
        self._reloading = Reloading(self)
        self.policy = PolicyFile(self.folder)
        self._lists = CrlFolder(self.folder)
        self._lock = self._take_lock()
        self.store = self._open_store()
        self.router = Router()
        self.writer = self._make_writer()
        self.router.writer = self.writer
        self._make_services()
        self._make_sessions()
        try:
            await self._listen()
        except BaseException:
            await self._lookout.stop()
            await self._leave()
            await self.writer.close()
            self._blob_files.close()
            self.views.close()
            self.store.close()
            if self._lock is not None:
                self._lock.close()
            raise
        self._begin_housekeeping()
        return self

    # -- what a process of `serve --workers` has otherwise, see workers/ ------------------------

    def _take_lock(self) -> IO[bytes] | None:
        return take_lock(self.folder)

    def _open_store(self) -> "ServedStore":
        return app_store.open_served(self.settings, self.folder)

    def _make_writer(self) -> Writer[Peer]:
        return app_store.make_writer(self.store, self.router, self.settings)

    def _make_feed(self) -> tuple[Events, Presence]:
        return app_store.make_feed(self.store)

    def _make_commands(self, table: CommandTable) -> tuple[Commands, Configs]:
        return Commands(table, self._rules, self.audit), Configs(table)

    def _make_audit(self) -> Audit:
        return Audit(self.store)

    def _begin_housekeeping(self) -> None:
        self.housekeeping.start()

    def read_settings(self) -> Settings:
        """Return what the file says now. Raises ConfigError."""
        return load_settings(self.folder)

    # -- its parts -------------------------------------------------------------------------------

    def _make_services(self) -> None:
        settings = self.settings
        self.events, self.presence = self._make_feed()
        self.tap = ReadingsTap(self.events)
        self.router.on_batch = self.tap.on_batch
        self.tokens, self.views = TokenTable(self.store), Views(self.folder, self.store)
        table = CommandTable(self.store)
        self.audit = self._make_audit()
        self.commands, self.configs = self._make_commands(table)
        self.live = LiveReadings(self.events)
        self._blob_files = app_store.make_blob_files(self.store, self.folder, self._partials)
        self.blobs = Blobs(self._blob_files, BlobLimits(settings.max_blob_bytes))
        for service in (self.commands, self.configs, self.blobs):
            service.tell = self.events.publish
        trust = TrustFolder(self.folder, settings.device_lifetime_s)
        self.rotations = Rotations(
            IdentityTable(self.store), trust, settings.rotations_per_s, self.audit
        )
        crls = Crls(self.folder, self.store.registry.revoked)
        self.rotations.on_revoked = self.revoked = crls.soon
        self.enrolment = Enrolment(ClaimTable(self.store), trust, self.audit)
        self.psks = Psks(PskTable(self.store))
        self.relays = Relays(HubTable(self.store), self.audit)
        self._crls = crls
        clock = AgeClock(self.folder, app_store.newest_received(self.store))
        self.followers = Followers()
        works = app_store.make_works(
            self.store, self.folder, self._blob_files, clock.now_ms, self.followers, self.leads
        )
        self.housekeeping = Housekeeping(works)
        self.housekeeping.use(settings)

    def _make_sessions(self) -> None:
        settings = self.settings
        services = (
            self.commands, self.configs, self.live, self.blobs, self.psks, self.rotations,
            self.relays, Alarms(self.events),
        )  # fmt: skip
        self.sessions = Sessions(
            self.store,
            self.store,
            self.router,
            Services(services),
            audit=self.audit,
            presence=self.presence,
            gate=Gate.of(settings),
            keepalive_ms=int(settings.keepalive_s * 1000),
            datagram_keepalive_ms=int(settings.dtls_keepalive_s * 1000),
        )
        self.relays.begin(self.sessions)
        # First: whoever may no longer be here goes, whatever the others meet.
        changes = AuditTable(self.store)
        watch = Watch(changes, self.policy, self._lists, self.sessions, self.audit)
        watch.use_issuers(*Authority.load(self.folder).issuers)
        self._watch = watch
        self._lookout = Lookout(
            (
                watch, self.commands, self.configs, self.psks, self.rotations, self.enrolment,
                self._crls, self.relays, self.audit,
            )
        )  # fmt: skip

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _join(self) -> None:
        """Become one of the servers at a database; before the first device comes."""
        if not isinstance(self.store, SqliteStore):
            from fleetnet_server.node import join

            self.node = await join(self, self.store, self._lookout, self._crls.soon)

    @property
    def session_count(self) -> int:
        """How many sessions this server has now."""
        return len(self.sessions.live)

    async def _leave(self) -> None:
        if self.node is not None:
            await self.node.stop()

    def leads(self) -> bool:
        """Say whether this server does what one of several does for all."""
        return self.node is None or self.node.leads()

    def _rules(self, group: str) -> Rules | None:
        return self.policy.policy.rules(group)

    async def _listen(self) -> None:
        settings = self.settings
        self._upkeep = Upkeep(self.folder, settings, self.store, self.audit.note)
        await self._renew_keys()
        self.psks.live = self.sessions.live
        find_key: FindKey | None = FindKey(self.folder, PskTable(self.store).find)
        if missing := missing_psk_names():
            _log.warning("no pre-shared keys with this version of cryptography", missing=missing)
            find_key = None
        self.listeners = Listeners(
            self.folder,
            settings,
            self.sessions.accept,
            self.sessions.handshake_refused,
            find_key,
            self.sessions.address_limited,
            self._inherited,
        )
        self.tls, self.dtls = self.listeners.tls, self.listeners.dtls
        if settings.enrol_port:
            self.listeners.add_enrolment(self.enrolment.accept)
        await self._join()
        await self.listeners.start()
        await self._begin_rest()
        self._lookout.add(self.listeners)
        self.listeners.on_reload = self._on_reload
        self.tls_port = self.tls.port
        self.dtls_port = self.dtls.port
        if self._lock is not None:
            write_ports(self._lock, self.ports)
        _log.info("listening", bind=settings.bind, tls=self.tls_port, dtls=self.dtls_port)

    async def _renew_keys(self) -> None:
        ServerKeys(self.folder).finish()
        # Before the first device comes: a server that was off for long may have an old one.
        await self._upkeep.renew()

    async def _begin_rest(self) -> None:
        """Begin what is done once, however many processes have listeners."""
        try:
            self.web = await app_extras.open_web(self)
            self.bridge = await app_extras.start_bridge(self)
        except BaseException:
            self.listeners.close()
            if self.web is not None:
                await self.web.stop()
            raise
        self._upkeep.start()

    @property
    def web_port(self) -> int:
        """The real one of the HTTP API; 0: closed."""
        return 0 if self.web is None else self.web.port

    @property
    def ports(self) -> dict[str, int]:
        """The ports that are open, by the setting's name."""
        found = {"tls_port": self.tls_port, "dtls_port": self.dtls_port}
        if self.settings.enrol_port:
            found["enrol_port"] = self.settings.enrol_port
        if self.web_port:
            found["web_port"] = self.web_port
        return found

    async def reload(self) -> bool:
        """Read settings, certificates and keys anew; sessions go on.

        Returns:
            True when everything that the files say and that can change is in force.
        """
        is_set = self._reloading.reload()
        return await self.listeners.reload() and is_set

    def _on_reload(self) -> None:
        self._upkeep.wake()
        self._watch.use_issuers(*Authority.load(self.folder).issuers)
        detail = {"serial": f"{self.listeners.serial:x}"}
        self.audit.note("server", "certificates-reloaded", None, detail)

    def expiries(self) -> list[Expiry]:
        """Return when each certificate ends, the nearest first. Raises as Upkeep.expiries."""
        return self._upkeep.expiries()

    async def stop(self) -> None:
        """Commit what was received, acknowledge it, say BYE, close."""
        self.is_draining = True
        self.listeners.stop_accepting()
        await self._upkeep.stop()
        try:
            async with asyncio.timeout(_FLUSH_S):
                await self.writer.flush()
        except TimeoutError:
            _log.error("store unavailable: what it lacks was not acknowledged")
        await self._lookout.stop()
        await self.sessions.close()
        self.listeners.close()
        await self.writer.close()
        await self.blobs.close()
        if self.web is not None:
            await self.web.stop()
        await self._leave()
        if self.bridge is not None:
            await self.bridge.stop()
        await asyncio.to_thread(self.housekeeping.stop)
        self.views.close()
        self._blob_files.close()
        self.store.close()
        if self._lock is not None:
            self._lock.close()
        _log.info("stopped", stored=self.router.stored, duplicates=self.router.duplicates)
