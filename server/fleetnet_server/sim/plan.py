"""What a run of the simulator shall be, and what each device does in it.

Everything that is left to chance is drawn from ``Plan.seed`` and the device's number: the same
plan has the same schedule, in whatever process a device runs. (Keys, and the pauses between
attempts to connect, are the device library's own and not repeatable.)
"""

import dataclasses
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from fleetnet_server.sim.faults import FAULTS, Strike
from fleetnet_server.sim.shapes import SHAPES, Step

DAY_S = 86_400.0


@dataclass(frozen=True)
class Plan:
    """A run.

    Attributes:
        seconds: how long all devices send; those that start earlier send longer.
        rate: readings a second of each.
        transport: "tls", "dtls", "auto", or "mixed": TLS and DTLS in turn.
        shapes: names, dealt out in turn; faults: names, each strikes every device.
        devices: how many. ramp: so many of them start in a second; 0: all at once.
        base: number of the first reading. No two runs share numbers, so that a store that
            has seen several can be compared with this one.
        history_ms: unix ms of the first reading when the past is made; 0: the present.
        days: how much past. scale: seconds of past in a second, 0: as fast as it goes.
        linger_ms: how long readings wait for others of their batch.
        patient: devices come back when the server asks them to, and rarer each time; False:
            every half second, the known bad fleet.
    """

    seconds: float = 30.0
    rate: float = 1.0
    transport: str = "mixed"
    shapes: tuple[str, ...] = ("steady",)
    faults: tuple[str, ...] = ()
    seed: int = 1
    devices: int = 0
    ramp: float = 100.0
    base: int = 0
    history_ms: int = 0
    days: float = 0.0
    scale: float = 0.0
    linger_ms: int = 1_000
    patient: bool = True

    @property
    def ramp_s(self) -> float:
        """How long it takes until all devices have started."""
        return self.devices / self.ramp if self.ramp else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Plan":
        """Read the document of ``to_json``."""
        lists = {key: tuple(document[key]) for key in ("shapes", "faults")}
        return cls(**{**document, **lists})


class Schedule(NamedTuple):
    """What is settled of a device before it starts.

    Attributes:
        start_s: after the first device. seconds: how much time its readings span, of the
            present or of the past.
    """

    number: int
    transport: str
    shape: str
    start_s: float
    seconds: float
    strikes: tuple[Strike, ...]
    needs_wire: bool


def schedule(plan: Plan, index: int) -> Schedule:
    """Return the schedule of device ``index`` (0 and up)."""
    transport = ("tls", "dtls")[index % 2] if plan.transport == "mixed" else plan.transport
    # By twos: with links in turn each shape has both.
    shape = plan.shapes[index // 2 % len(plan.shapes)]
    names = sorted({*plan.faults, *SHAPES[shape].faults})
    start_s = index / plan.ramp if plan.ramp else 0.0
    seconds = plan.seconds + max(0.0, plan.ramp_s - start_s)
    strikes: list[Strike] = []
    for name in names:
        # A stream of its own for each: one fault more does not move the others.
        dice = random.Random(f"{plan.seed}/{index}/{name}")  # noqa: S311
        strikes += FAULTS[name].strikes(dice, seconds)
    return Schedule(
        index,
        transport,
        shape,
        start_s,
        plan.days * DAY_S if plan.history_ms else seconds,
        tuple(sorted(strikes)),
        any(FAULTS[name].needs_wire for name in names),
    )


def steps(plan: Plan, index: int) -> Iterator[Step]:
    """Yield what device ``index`` does, until its time is over."""
    dice = random.Random(f"{plan.seed}/{index}/traffic")  # noqa: S311
    made = schedule(plan, index)
    for step in SHAPES[made.shape].steps(dice, plan.rate):
        if step.at_s >= made.seconds:
            return
        yield step
