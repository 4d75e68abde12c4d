"""What every row of the bench is given, and which function measures it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from figures import Table

# P5 counts 1,000 sessions behind the first 100; what is not named has enough of 100.
_DEVICES = {"P3": 1000, "P5": 1100}


class Bench(NamedTuple):
    """One run.

    Attributes:
        folder: of a fleet with devices_for() devices. seconds: length of one load.
        stored: readings that P12 asks among.
    """

    folder: Path
    seconds: float
    quick: bool
    table: Table
    stored: int


def devices_for(wanted: Iterable[str]) -> int:
    """Return how many devices the fleet of some rows needs."""
    return max(_DEVICES.get(row, 100) for row in wanted)


Measure = Callable[[Bench], None]


def measures() -> dict[str, Measure]:
    """Return the function of each row, in the order in which they are measured."""
    from rows_device import p8_p9, p13
    from rows_ingest import bounds, p1, p2, p3
    from rows_sessions import p4, p5, p6, p7
    from rows_stores import mqtt, p12, postgres
    from rows_wire import p10, p11

    return {
        "bounds": bounds, "P1": p1, "P2": p2, "P3": p3, "P4": p4, "P5": p5, "P6": p6, "P7": p7,
        "P8": p8_p9, "P10": p10, "P11": p11, "P12": p12, "P13": p13, "MQTT": mqtt,
        "POSTGRES": postgres,
    }  # fmt: skip
