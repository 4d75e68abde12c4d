"""The revocation lists of a running back-end, for programs that are not this one.

The back-end itself goes by its registry. FOLDER/ca/crl* follow within seconds when rotation
revokes what it superseded; `fleetnet device revoke` writes them at once.
"""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from fleetnet.errors import FleetError
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.crl import Revoked

_log = structlog.get_logger("fleetnet.certificates")

# A fleet that rotates all at once must not sign a list for each device.
_PERIOD_S = 5.0


class Crls:
    """Writes the lists when they are out of date; implements core.lookout.Looking.

    Args:
        revoked: what the registry says now; called on the event loop.
    """

    def __init__(self, folder: Path, revoked: Callable[[], Iterable[Revoked]]):
        self._folder = folder
        self._revoked = revoked
        self._is_due = False
        self._free_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def soon(self) -> None:
        """Something was revoked."""
        self._is_due = True

    def look(self) -> None:
        """See Looking."""
        loop = asyncio.get_running_loop()
        if self._is_due and self._task is None and loop.time() >= self._free_at:
            self._is_due = False
            self._free_at = loop.time() + _PERIOD_S
            self._task = loop.create_task(self._write(list(self._revoked())))

    async def stop(self) -> None:
        """See Looking: write what is due."""
        if self._task is not None:
            await self._task
        if self._is_due:
            self._is_due = False
            await self._write(list(self._revoked()))

    async def _write(self, revoked: list[Revoked]) -> None:
        try:
            await asyncio.to_thread(_write_lists, self._folder, revoked)
        except (FleetError, OSError, ValueError) as error:
            _log.error("revocation lists were not written", reason=str(error))
        finally:
            self._task = None


def _write_lists(folder: Path, revoked: list[Revoked]) -> None:
    Authority.load(folder).write_crls(folder, revoked)
