"""The hypothesis state machines of `make test`, with many more stories and other seeds.

    python tests/proof/machines.py [--minutes 10] [--seed 1] [--quick] [--json FILE]

Pair of sessions (tests/test_session_machine.py), outbox and spool (test_outbox_machine.py),
identity slots under power cuts (test_identity_machine.py). `make test` runs each with the same
stories every time; here they are drawn anew from the seed, in rounds until the time is up.

The control is a device that writes over the identity in force.
"""

import random
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    parts = ("", "server", "device_lib", "tests", "tests/core")
    sys.path[:0] = [str(ROOT / part) for part in parts]

from hypothesis import seed, settings
from hypothesis.stateful import run_state_machine_as_test

from fleetnet_device.identity_slots import Slots
from proof.verdict import Row, arguments, finish, noticed
from test_identity_machine import Kept
from test_outbox_machine import Spooled
from test_session_machine import Pair

MACHINES = {"sessions": Pair, "outbox": Spooled, "identities": Kept}
STORIES = 50


def run(machine: Any, number: int, stories: int = STORIES) -> str:
    """Run one round; return the fault, "" for none."""
    options = settings(machine.TestCase.settings, derandomize=False, max_examples=stories)
    try:
        run_state_machine_as_test(seed(number)(machine), settings=options)
    except Exception as error:
        return f"seed {number}: {type(error).__name__}: {str(error)[:200]}"
    return ""


def control() -> str:
    """Slots that write over the identity in force have to be noticed."""
    careful = Slots.other
    Slots.other = lambda self: self.current or "a"  # type: ignore[method-assign]
    try:
        return run(Kept, 1, 200)
    finally:
        Slots.other = careful  # type: ignore[method-assign]


def row_of(rounds: dict[str, int], faults: list[str], bad: str) -> Row:
    counted = ", ".join(f"{name} {count * STORIES}" for name, count in rounds.items())
    return Row(
        "machines",
        "stories of sessions, outbox and identities that hypothesis draws",
        "nothing lost, doubled or out of order, and always an identity",
        "; ".join(faults) or f"0 faults in stories: {counted}",
        not faults and all(rounds.values()),
        f"slots that write over the identity in force: {bad or 'not noticed'}"[:160],
        noticed([bad], "AssertionError"),
    )


def main(words: list[str]) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(words)
    minutes = min(options.minutes, 0.3) if options.quick else options.minutes
    end = time.monotonic() + 60 * minutes
    dice = random.Random(options.seed)
    rounds = dict.fromkeys(MACHINES, 0)
    faults: list[str] = []
    while not faults and (time.monotonic() < end or not all(rounds.values())):
        for name, machine in MACHINES.items():
            fault = run(machine, dice.randrange(1 << 30))
            rounds[name] += 1
            faults += [f"{name}: {fault}"] if fault else []
    return finish([row_of(rounds, faults, control())], options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
