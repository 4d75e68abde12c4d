"""Shapes of traffic by name: what one device does when, drawn from its own seed.

    for step in SHAPES["bursty"].steps(random.Random("7/3"), 0.5):
        ...  # wait until step.at_s, then send step.readings

Each shape sends ``rate`` readings a second in the mean, so that shapes can be compared.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple, Protocol

# A camera's picture: 160x120 as JPEG, every five seconds.
_FRAME_BYTES = (4_000, 12_000)
_FRAME_S = 5.0

# A sleeper wakes when it has so many readings.
_SLEEPER_READINGS = 10

_BURST_READINGS = (5, 40)


class Step(NamedTuple):
    """What a device does at one moment.

    Attributes:
        at_s: seconds since its start. readings: how many it sends.
        frame_bytes: size of a camera frame that it sends, 0 for none.
    """

    at_s: float
    readings: int = 0
    frame_bytes: int = 0


class Shape(Protocol):
    """One kind of device.

    Attributes:
        faults: names of faults (faults.py) that belong to it.
        sends_frames: the device needs its part for blobs.
        sleeps: it says good-bye after each step, and comes back for the next.
    """

    faults: tuple[str, ...]
    sends_frames: bool
    sleeps: bool

    def steps(self, dice: random.Random, rate: float) -> Iterator[Step]:
        """Yield steps in order of time, for ever."""


class Steady:
    """One reading at a time, evenly; devices do not tick together."""

    faults: tuple[str, ...] = ()
    sends_frames = False
    sleeps = False

    def steps(self, dice: random.Random, rate: float) -> Iterator[Step]:
        period_s = 1 / rate
        phase_s = dice.random() * period_s
        number = 0
        while True:
            yield Step(phase_s + number * period_s, readings=1)
            number += 1


class Bursty:
    """Quiet, then 5 to 40 readings at once, as a motion detector."""

    faults: tuple[str, ...] = ()
    sends_frames = False
    sleeps = False

    def steps(self, dice: random.Random, rate: float) -> Iterator[Step]:
        at_s = 0.0
        while True:
            burst = dice.randint(*_BURST_READINGS)
            # The pause is drawn first: devices that start together do not burst together.
            at_s += burst / rate * dice.uniform(0.2, 1.8)
            yield Step(at_s, readings=burst)


class Camera:
    """Steady readings, and a frame of 4 to 12 KB every 5 s."""

    faults: tuple[str, ...] = ()
    sends_frames = True
    sleeps = False

    def steps(self, dice: random.Random, rate: float) -> Iterator[Step]:
        readings = Steady().steps(dice, rate)
        frame_s = dice.random() * _FRAME_S
        for step in readings:
            while frame_s <= step.at_s:
                yield Step(frame_s, frame_bytes=dice.randint(*_FRAME_BYTES))
                frame_s += _FRAME_S
            yield step


class FlakyRadio(Steady):
    """Steady readings over a link that loses packets and goes away at times."""

    faults: tuple[str, ...] = ("loss", "cut")


class Sleepy:
    """Asleep; wakes for ten readings, sends them, waits for their receipt, and is gone."""

    faults: tuple[str, ...] = ()
    sends_frames = False
    sleeps = True

    def steps(self, dice: random.Random, rate: float) -> Iterator[Step]:
        period_s = _SLEEPER_READINGS / rate
        phase_s = dice.random() * period_s
        number = 0
        while True:
            yield Step(phase_s + number * period_s, readings=_SLEEPER_READINGS)
            number += 1


SHAPES: dict[str, Shape] = {
    "steady": Steady(),
    "bursty": Bursty(),
    "camera": Camera(),
    "flaky-radio": FlakyRadio(),
    "sleepy": Sleepy(),
}
