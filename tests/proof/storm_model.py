"""The model of the reconnect storm against real storms of real devices.

    python tests/proof/storm_model.py [--devices 300] [--sessions 40]

Each row runs `fleetnet sim` (the device library, TLS and DTLS in turn, a real `fleetnet serve` on
this machine) through a storm, and sim/storm_model.py through the same. Compared are the seconds
from the server's return until the last device is back, and the attempts of a device. The fleet
that is known to be bad, which tries each half second whatever it is told, has to be bad in both.

Exit code 0: the model says what is, within TOOK and ATTEMPTS. tests/server/sim/test_storm_model.py
compares with figures that this printed, without running devices.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from fleetnet_server.fleet_folder import create_fleet  # noqa: E402
from fleetnet_server.sim.storm_model import Case, Outcome, run  # noqa: E402
from proof.storm import Run, report  # noqa: E402
from proof.verdict import Row, arguments, finish  # noqa: E402

# How far from the truth the model may be: of the time a fifth and 2 s (a server that starts and
# devices that share its cores), of a device's attempts a quarter and 0.2.
TOOK, TOOK_S = 0.20, 2.0
ATTEMPTS, ATTEMPTS_EACH = 0.25, 0.2

# The bad fleet is bound by the rig's two cores, which the model does not have.
_BAD_ATTEMPTS = 2.0

_RATE = 0.5  # readings a second and device

RUNS = (
    Run("restart", ("--storm", "restart")),
    Run("kill", ("--storm", "kill")),
    Run("power", ("--storm", "power")),
    Run("restart, impatient", ("--storm", "restart", "--impatient"), is_bad=True),
)


class Real(NamedTuple):
    """What a real storm came to; all of it from the report of `fleetnet sim`."""

    hit: int
    back: int
    away_s: float
    took_s: float
    attempts: float

    @classmethod
    def of(cls, found: dict[str, Any]) -> "Real":
        """Read the report."""
        storm = found["storm"]
        return cls(
            storm["hit"], storm["back"], storm["server_away_s"], storm["took_s"],
            storm["attempts_per_device"],
        )  # fmt: skip


def modelled(storm: Run, real: Real, sessions_per_s: float, rate: float) -> Outcome:
    """Run the model through the same: only how long the server was away is taken from the rig."""
    kind = storm.arguments[1]
    return run(
        Case(
            devices=real.hit, kind=kind, away_s=real.away_s, sessions_per_s=sessions_per_s,
            message_s=1 / rate, is_patient=not storm.is_bad, max_sessions=max(20_000, real.hit),
        )
    )  # fmt: skip


def faults_of(storm: Run, real: Real, model: Outcome) -> list[str]:
    """Where the model is wrong; [] is good."""
    faults = []
    if real.back != real.hit or model.back != model.hit:
        faults.append(f"back: really {real.back} of {real.hit}, modelled {model.back}")
    if storm.is_bad:
        least = min(real.attempts, model.attempts_per_device)
        if least < _BAD_ATTEMPTS:
            faults.append(f"the bad fleet is not bad: {least:.2f} attempts a device")
        return faults
    if abs(model.took_s - real.took_s) > TOOK * real.took_s + TOOK_S:
        faults.append(f"took: really {real.took_s:.1f} s, modelled {model.took_s:.1f} s")
    off = abs(model.attempts_per_device - real.attempts)
    if off > ATTEMPTS * real.attempts + ATTEMPTS_EACH:
        faults.append(
            f"attempts: really {real.attempts:.2f}, modelled {model.attempts_per_device:.2f}"
        )
    return faults


def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--devices", type=int, default=300)
    parser.add_argument("--sessions", type=float, default=40, help="sessions_per_s of the server")
    options = parser.parse_args(words)
    os.environ["FLEETNET_SESSIONS_PER_S"] = str(options.sessions)
    faults: list[str] = []
    attempts: list[float] = []
    figures: list[str] = []
    print(f"{'storm':<22}{'away':>7}{'took':>8}{'model':>8}{'attempts':>10}{'model':>8}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "fleet"
        create_fleet(folder, ("localhost",))
        for storm in RUNS:
            real = Real.of(report(folder, storm, options.devices, _RATE))
            model = modelled(storm, real, options.sessions, _RATE)
            print(
                f"{storm.title:<22}{real.away_s:>6.1f}s{real.took_s:>7.1f}s{model.took_s:>7.1f}s"
                f"{real.attempts:>10.2f}{model.attempts_per_device:>8.2f}", flush=True
            )  # fmt: skip
            found = [f"{storm.title}: {one}" for one in faults_of(storm, real, model)]
            faults += found if not storm.is_bad else []
            if storm.is_bad:
                attempts = [real.attempts, model.attempts_per_device] if not found else []
            else:
                figures.append(f"{storm.title} {real.took_s:.1f} s, modelled {model.took_s:.1f} s")
            for fault in found:
                print("FAULT", fault)
    row = Row(
        "7m", "the restart in the model of `fleetnet plan storm`",
        f"the model says what is: {TOOK:.0%} and {TOOK_S:g} s of the time, "
        f"{ATTEMPTS:.0%} and {ATTEMPTS_EACH} of the attempts",
        "; ".join(figures + faults), not faults,
        f"devices that try each half second: attempts each, real and modelled: {attempts}",
        bool(attempts),
    )  # fmt: skip
    return finish([row], options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
