"""Timers: called in time, once, and nobody is kept whose session is over."""

import asyncio
import gc
import logging
import sys
import weakref

import pytest

from fleetnet_server.core import timers as module
from fleetnet_server.core.timers import Timers
from loop_clock import put_forward

_PATIENCE_S = 20


class Entry:
    """Notes when it is called."""

    def __init__(self) -> None:
        self.near_at = self.far_at = 0
        self.calls = 0
        self.called = asyncio.Event()

    def handle_timer(self) -> None:
        self.calls += 1
        self.called.set()


class Broken(Entry):
    def handle_timer(self) -> None:
        super().handle_timer()
        raise RuntimeError("one session's fault")


async def wait(entry: Entry) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        await entry.called.wait()


async def test_never_too_early_and_once() -> None:
    timers, entry, loop = Timers(), Entry(), asyncio.get_running_loop()
    began = loop.time()
    timers.arm(entry, 0.03)
    timers.arm(entry, 0.05)  # it will be called before
    await wait(entry)
    # uvloop's clock counts milliseconds.
    assert loop.time() - began >= 0.028
    await asyncio.sleep(0.06)
    assert entry.calls == 1
    timers.close()


async def test_an_earlier_time_takes_the_place_of_a_later_one() -> None:
    timers, entry = Timers(), Entry()
    timers.arm(entry, 9)
    timers.arm(entry, 3600)
    timers.arm(entry, 0.01)
    await wait(entry)
    assert entry.calls == 1
    timers.close()


async def test_the_far_time_stands_when_the_near_one_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_FAR_S", 0.05)
    monkeypatch.setattr(module, "_FAR_SLOTS", 10)
    timers, entry = Timers(), Entry()
    timers.arm(entry, 3600)
    for _ in range(2):
        timers.arm(entry, 0.01)
        await wait(entry)
        entry.called.clear()
    put_forward(3601)
    await wait(entry)  # what nobody armed again
    assert entry.calls == 3
    timers.close()


async def test_a_session_that_acknowledges_for_hours_has_one_place() -> None:
    timers, entry = Timers(), Entry()
    timers.arm(entry, 100)
    held = sys.getrefcount(entry)
    for _ in range(20):
        timers.arm(entry, 0.001)
        await wait(entry)
        entry.called.clear()
        timers.arm(entry, 135)  # the keepalive, once more
    assert sys.getrefcount(entry) == held
    timers.close()


@pytest.mark.parametrize("delays", [(100,), (100, 0.001), (0.001,), (20, 15)])
async def test_whoever_is_forgotten_is_neither_called_nor_kept(delays: tuple[float, ...]) -> None:
    timers, entry, other = Timers(), Entry(), Entry()
    for delay_s in delays:
        timers.arm(entry, delay_s)
    timers.forget(entry)
    timers.arm(other, 0.03)
    await wait(other)
    assert entry.calls == 0
    gone = weakref.ref(entry)
    del entry
    gc.collect()
    assert gone() is None
    timers.close()


async def test_who_is_forgotten_in_the_same_turn_is_not_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_FAR_S", 0.01)
    timers, second = Timers(), Entry()

    class First(Entry):
        def handle_timer(self) -> None:
            super().handle_timer()
            timers.forget(second)

    first = First()
    timers.arm(first, 0.02)
    timers.arm(second, 0.02)
    await wait(first)
    await asyncio.sleep(0)
    assert second.calls == 0
    timers.close()


async def test_a_fault_stops_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    timers, entries = Timers(), [Entry(), Broken(), Entry()]
    with caplog.at_level(logging.ERROR, "fleetnet.timers"):
        for entry in entries:
            timers.arm(entry, 0.01)
        for entry in entries:
            await wait(entry)
    assert "timer of" in caplog.text
    timers.close()
