"""The look for news: what fails for one service does not keep the others from looking."""

import asyncio
import logging

import pytest

from fleetnet_server.core.lookout import Lookout
from fleetnet_server.errors import StoreUnavailable


class Service:
    """Counts its looks, and raises ``error`` in each while it has one."""

    def __init__(self, error: Exception | None = None):
        self.error = error
        self.looks = 0
        self.is_stopped = False

    def look(self) -> None:
        self.looks += 1
        if self.error is not None:
            raise self.error

    async def stop(self) -> None:
        self.is_stopped = True


async def looks(service: Service, more: int) -> None:
    goal = service.looks + more
    async with asyncio.timeout(30):
        while service.looks < goal:
            await asyncio.sleep(0)


async def test_one_that_fails_is_said_once_and_the_others_look_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken, full, good = Service(KeyError("x")), Service(StoreUnavailable("disk full")), Service()
    lookout = Lookout((broken, full), look_s=0)
    lookout.add(good)
    with caplog.at_level(logging.ERROR):
        await looks(good, 5)
        assert broken.looks >= 4
        assert full.looks >= 4
        said = [record.getMessage() for record in caplog.records]
        assert said == ["looking for news failed", "disk full; what Service wants waits"]
        # Well for a while, then ill again: that is news.
        full.error = None
        await looks(full, 2)
        full.error = StoreUnavailable("disk full")
        await looks(full, 2)
        assert len(caplog.records) == 3
    await lookout.stop()
    assert broken.is_stopped
    assert full.is_stopped
    assert good.is_stopped


async def test_news_are_looked_at_at_once() -> None:
    service = Service()
    lookout = Lookout((service,), look_s=3600)
    await asyncio.sleep(0)
    for count in (1, 2):
        await asyncio.to_thread(lookout.wake)
        async with asyncio.timeout(20):
            while service.looks < count:
                await asyncio.sleep(0.01)
    await lookout.stop()
    lookout.wake()
