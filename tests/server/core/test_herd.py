"""A fleet that lost its server comes back at the rate that is set, in a time that is known.

The pauses of the devices are those of the device library; time is a number.
"""

import heapq
import itertools
import random

import pytest

from fleetnet_device.backoff import Backoff
from fleetnet_server.core.herd import DATAGRAM_HOLD_S, HOLD_S, RESTART_S, Herd

RATE = 200.0
DEVICES = 5_000


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


class Story:
    """What happened to a fleet: when each device was let in, and after how many attempts."""

    def __init__(self, seed: int):
        self.clock = Clock()
        self.herd = Herd(RATE, self.clock)
        self.dice = random.Random(seed)
        self.attempts = [0] * DEVICES
        self.let_in: list[float] = []
        self.waiting = self.most_waiting = 0
        self._backoffs = [Backoff(self.dice.randbytes) for _ in range(DEVICES)]
        self._queue: list[tuple[float, int, bool]] = []

    def pause_s(self, device: int, asked_ms: int = 0) -> float:
        return self._backoffs[device].after(0, asked_ms) / 1000

    def come(self, device: int, at: float) -> None:
        heapq.heappush(self._queue, (at, device, False))

    def run(self) -> None:
        while self._queue:
            self.clock.now, device, is_turn = heapq.heappop(self._queue)
            if is_turn:
                self.waiting -= 1
                self.let_in.append(self.clock.now)
                continue
            self.attempts[device] += 1
            is_datagram = bool(device % 2)
            place = self.herd.place(device, is_datagram)
            if not place.wait_s:
                self.let_in.append(self.clock.now)
            elif place.is_held:
                assert place.wait_s <= (DATAGRAM_HOLD_S if is_datagram else HOLD_S)
                self.waiting += 1
                self.most_waiting = max(self.most_waiting, self.waiting)
                heapq.heappush(self._queue, (self.clock.now + place.wait_s, device, True))
            else:
                pause_s = self.pause_s(device, place.retry_after_ms)
                heapq.heappush(self._queue, (self.clock.now + pause_s, device, False))

    def most_in(self, span_s: float) -> int:
        """The most that were let in within so long a time."""
        times, first, most = sorted(self.let_in), 0, 0
        for last, at in enumerate(times):
            while times[first] < at - span_s:
                first += 1
            most = max(most, last - first + 1)
        return most


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_a_clean_stop_everybody_is_back_in_time_with_one_attempt(seed: int) -> None:
    story = Story(seed)
    for device, asked_ms in Herd(RATE).spread(range(DEVICES)):
        story.come(device, story.clock.now + story.pause_s(device, asked_ms))
    began = story.clock.now + RESTART_S
    story.run()
    assert len(story.let_in) == DEVICES
    assert max(story.let_in) - began <= 1.1 * DEVICES / RATE
    assert sum(story.attempts) <= 1.01 * DEVICES
    assert story.most_in(1.0) <= 2.1 * RATE and story.most_in(10.0) <= 1.2 * 10 * RATE


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_crash_costs_a_second_attempt_for_some(seed: int) -> None:
    """The server was away for 8 s; the handshakes of a core are 1,000 a second."""
    story = Story(seed)
    began = story.clock.now + 8.0
    arrivals = []
    for device in range(DEVICES):
        at = story.clock.now
        while at < began:
            at += story.pause_s(device)
        arrivals.append((at, device))
    at = began
    for wanted, device in sorted(arrivals):
        at = max(wanted, at + 0.001)
        story.come(device, at)
    story.run()
    assert len(story.let_in) == DEVICES
    assert max(story.let_in) - began <= 1.1 * DEVICES / RATE
    assert sum(story.attempts) <= 1.5 * DEVICES
    assert max(story.attempts) <= 3
    assert story.most_waiting <= HOLD_S * RATE
    assert story.most_in(10.0) <= 1.2 * 10 * RATE


def test_a_few_devices_never_wait() -> None:
    herd = Herd(RATE, Clock())
    assert all(not herd.place(device, True).wait_s for device in range(int(RATE) - 1))
    herd.place(998, True)
    assert herd.place(999, True).is_held


def test_whoever_is_sent_away_comes_behind_those_who_were_before() -> None:
    clock = Clock()
    herd = Herd(10.0, clock)
    places = [herd.place(device, False) for device in range(200)]
    held = [place for place in places if place.is_held]
    away = [place for place in places if place.wait_s and not place.is_held]
    assert len(held) == HOLD_S * 10 and len(away) >= 110
    assert herd.refused == herd.away == len(away) and herd.held == len(held)
    gaps = [b.wait_s - a.wait_s for a, b in itertools.pairwise(away)]
    assert gaps == pytest.approx([0.1] * len(gaps))
    # Its turn, when it comes back in time; and it is expected no longer.
    clock.now += away[0].wait_s
    assert herd.place(199, False).wait_s < 0.2 and herd.away == len(away) - 1
    # Those who never come are forgotten.
    clock.now += 1000.0
    for device in range(1000, 1200):
        herd.place(device, False)
    assert herd.away < len(away) + 5
