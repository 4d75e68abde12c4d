"""What a running back-end does about certificates that end: renews its own, and says the rest.

The server's certificate is renewed, for the same key, when less than a third of its life is
left, if this fleet's CA made it. The listeners notice the new files by themselves.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from fleetnet.errors import FleetError
from fleetnet_server.config import Settings
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.identity import expiry
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.expiry import Expiry
from fleetnet_server.identity.pki import Credential
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.store.expiry import device_certificates
from fleetnet_server.store.ports import Readable

_log = structlog.get_logger("fleetnet.certificates")

_DAY_S = 86_400.0
# Clocks are set, machines sleep: nobody waits for longer than this without looking.
_LONGEST_S = 3600.0
_SHORTEST_S = 0.2
# Of a failed renewal: then, twice that, up to _LONGEST_S.
_RETRY_S = 2.0
# Names in one log line.
_MOST_NAMES = 10

Note = Callable[[str, str, str | None, dict[str, Any]], None]


class Renewal(NamedTuple):
    """What ``renew_if_due`` did.

    Attributes:
        keys: the new state; None: nothing was due. wait_s: until it should be looked at again.
        problem: why the certificate ends without being renewed; "".
    """

    keys: ServerKeys | None
    wait_s: float
    problem: str = ""


def renew_if_due(folder: Path, lifetime: timedelta | None, now_ms: int) -> Renewal:
    """Renew the server's certificate when less than a third of its life is left; may block.

    Raises:
        CredentialError: it is due, and cannot be done. OSError.
    """
    keys = ServerKeys(folder)
    due_ms = keys.not_after_ms - (keys.not_after_ms - keys.not_before_ms) // 3
    if now_ms < due_ms:
        return Renewal(None, (due_ms - now_ms) / 1000)
    authority = Authority.load(folder)
    issuing = authority.generations[authority.ledger.server].issuing
    if not keys.was_issued_by(issuing.certificate):
        problem = "this fleet's CA did not make it: replace server/cert.der, key.der and chain.pem"
        return Renewal(None, _LONGEST_S, problem)
    if Credential(issuing.certificate, b"").not_after_ms <= keys.not_after_ms:
        return Renewal(None, _LONGEST_S, "its CA ends with it: `fleetnet ca rotate`")
    return Renewal(keys.renew(authority, lifetime=lifetime), _SHORTEST_S)


class Upkeep:
    """Runs beside the listeners, from ``start`` to ``stop``.

    Args:
        note: audit log, function(actor, action, device, detail).
    """

    def __init__(
        self, folder: Path, settings: Settings, store: Readable, note: Note | None = None
    ):
        self._folder = folder
        self._lifetime = timedelta(seconds=settings.server_lifetime_s)
        self._store = store
        self._note = note
        self._news = asyncio.Event()
        self._said_at: float | None = None
        self._retry_s = _RETRY_S
        self._problem = ""
        self._is_over = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look after the certificates."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def wake(self) -> None:
        """The files changed: look whether that changes what is due."""
        self._news.set()

    async def stop(self) -> None:
        """End it; a renewal under way is completed, and said."""
        self._is_over = True
        self._news.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def expiries(self) -> list[Expiry]:
        """Return when each certificate ends, the nearest first.

        Raises:
            StoreUnavailable; CredentialError: files of the server or the CA cannot be read.
        """
        return expiry.expiries(
            time.time_ns() // 1_000_000,
            device_certificates(self._store),
            ServerKeys(self._folder),
            Authority.load(self._folder),
        )

    async def _run(self) -> None:
        while True:
            wait_s = await self.renew()
            self._say_daily()
            if self._is_over:
                return
            self._news.clear()
            try:
                async with asyncio.timeout(min(max(wait_s, _SHORTEST_S), _LONGEST_S)):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def renew(self) -> float:
        """Renew if it is due; return after how many seconds to look again. Problems are logged."""
        now_ms = time.time_ns() // 1_000_000
        try:
            done = await asyncio.to_thread(renew_if_due, self._folder, self._lifetime, now_ms)
        except (FleetError, ValueError, OSError) as error:
            _log.error("server certificate not renewed", reason=str(error))
            wait_s, self._retry_s = self._retry_s, min(2 * self._retry_s, _LONGEST_S)
            return wait_s
        self._retry_s = _RETRY_S
        self._problem = done.problem
        if done.keys is not None:
            serial = f"{done.keys.serial:x}"
            _log.info("server certificate renewed", serial=serial, until=_date(done.keys))
            if self._note is not None:
                self._note("server", "server-certificate-renewed", None, {"serial": serial})
        return done.wait_s

    def _say_daily(self) -> None:
        now = time.monotonic()
        if self._said_at is not None and now - self._said_at < _DAY_S:
            return
        try:
            found = self.expiries()
        except (FleetError, StoreUnavailable, ValueError, OSError) as error:
            _log.error("expiry of certificates unknown", reason=str(error))
            return
        self._said_at = now
        if self._problem:
            _log.warning("server certificate ends and is not renewed", reason=self._problem)
        say(found)


def say(found: list[Expiry]) -> None:
    """Log what ends soon: one line for the server, for each CA, and for all devices together."""
    devices = [one for one in found if one.kind == expiry.DEVICE and one.level != expiry.OK]
    for one in found:
        if one.kind != expiry.DEVICE and one.level != expiry.OK:
            _log.warning(
                "certificate ends", kind=one.kind, name=one.name, level=one.level,
                until=_format(one.not_after_ms),
            )  # fmt: skip
    if devices:
        _log.warning(
            "device certificates end",
            count=len(devices),
            expired=sum(one.level == expiry.EXPIRED for one in devices),
            first=[one.name for one in devices[:_MOST_NAMES]],
            until=_format(devices[0].not_after_ms),
        )


def _date(keys: ServerKeys) -> str:
    return _format(keys.not_after_ms)


def _format(unix_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_ms / 1000))
