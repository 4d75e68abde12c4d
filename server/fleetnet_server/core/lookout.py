"""Looks for what other programs wrote into the store: `fleetnet call`, `fleetnet config set`.

Two seeks in the store four times a second. A socket for waking the server would be faster
and would need a place, rights and an answer for the case that no server runs; a row needs
none of these, and a row that was written while the server was down is found when it is back.
A store that hears of news by itself wakes the look.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Protocol

from fleetnet_server.errors import StoreUnavailable

_log = logging.getLogger("fleetnet.services")

# A command of another process is on its way a quarter of a second later; a look is 0.1 ms.
_LOOK_S = 0.25


class Looking(Protocol):
    """A service that wants to look into the store now and then."""

    def look(self) -> None:
        """Act on news; short, as it runs on the event loop."""

    async def stop(self) -> None:
        """End what the service still has under way."""


class Lookout:
    """Calls ``look`` of each service until it is stopped."""

    def __init__(self, services: Iterable[Looking], look_s: float = _LOOK_S):
        self._services = tuple(services)
        self._look_s = look_s
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._task = self._loop.create_task(self._run())

    def add(self, service: Looking) -> None:
        """Call one more, behind the others."""
        self._services = (*self._services, service)

    def wake(self) -> None:
        """Look now. For any thread."""
        try:
            self._loop.call_soon_threadsafe(self._woken.set)
        except RuntimeError:
            pass  # the loop was closed: nobody looks any more

    async def stop(self) -> None:
        """End the looking, then the services."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for service in self._services:
            await service.stop()

    async def _next(self) -> None:
        try:
            async with asyncio.timeout(self._look_s):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()

    async def _run(self) -> None:
        failing: set[int] = set()
        while True:
            await self._next()
            for service in self._services:
                # What fails for one is no reason for the others to look away.
                try:
                    service.look()
                    failing.discard(id(service))
                except Exception as error:
                    if id(service) in failing:
                        continue
                    failing.add(id(service))
                    if isinstance(error, StoreUnavailable):
                        _log.error("%s; what %s wants waits", error, type(service).__name__)
                    else:
                        _log.exception("looking for news failed")
