"""A day of a thousand devices: made, queried, exported, plotted and downsampled.

    python tests/proof/day.py [--devices 1000] [--hours 24] [--rate 1/60]

`fleetnet sim --days` makes the past in scaled time: each device sends the readings of the day over
the real protocol, with the times that they would have had, as fast as the server says that it has
them. Then the commands that a user has are run on the store, and what they say is compared with
what was sent. The control is a copy of the store that lacks a chunk of readings. Housekeeping runs
as in `fleetnet serve`, but without its rests.

Exit code 0: every reading is in every answer, and the hours say the same before and after the
readings themselves were let go of.
"""

import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_PATH = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]
if __name__ == "__main__":
    sys.path[:0] = _PATH

from fleetnet_server.config import load_settings  # noqa: E402
from fleetnet_server.fleet_folder import create_fleet  # noqa: E402
from fleetnet_server.store.compaction import Compactor  # noqa: E402
from fleetnet_server.store.query import query  # noqa: E402
from fleetnet_server.store.retention import Retention  # noqa: E402
from fleetnet_server.store.schema import open_writable  # noqa: E402
from fleetnet_server.store.sqlite import SqliteStore  # noqa: E402
from fleetnet_server.store.window import Pace  # noqa: E402
from proof.verdict import Row, arguments, finish, noticed  # noqa: E402

# One command on some millions of readings.
_PATIENCE_S = 900

_QUERIES = 200
_QUERY_S = 3_600


class Day:
    """One run in a folder of its own.

    Attributes:
        figures: (what, how much), as they come. faults: what must not be; [] is good.
        missed: the faults of the control.
    """

    def __init__(self, place: Path, devices: int, hours: float, rate: float):
        self.place = place
        self.folder = place / "fleet"
        self.devices, self.hours, self.rate = devices, hours, rate
        self.figures: list[tuple[str, str]] = []
        self.faults: list[str] = []
        self.readings = 0
        self.missed: list[str] = []
        create_fleet(self.folder, ("localhost",))
        self._store = load_settings(self.folder).store_path(self.folder)

    def run(self) -> None:
        """Run everything."""
        self._make()
        self._compact()
        self.query()
        self._miss_some()
        self.export()
        self._plot()
        self._downsample()

    def _make(self) -> None:
        done, seconds = self._fleetnet(
            "sim", "--devices", str(self.devices), "--days", str(self.hours / 24), "--rate",
            str(self.rate), "--ramp", "0", "--json",
        )  # fmt: skip
        found = json.loads(done)
        self.readings = found["sent"]
        # Each moment of a device is a curve and a count.
        expected = 2 * self.devices * round(self.hours * 3600 * self.rate)
        self._check(f"{self.readings} readings were sent, not {expected}", expected, self.readings)
        self._check("the simulator's report is not complete", True, found["complete"])
        pace = self.hours * 3600 / found["seconds"]
        self._note("readings made", f"{self.readings} in {found['seconds']:g} s")
        self._note("time was scaled", f"1:{pace:.0f}")
        self._note("  with start and comparison", f"{seconds:.1f} s")
        self._note("ack latency p50, p99", f"{_ms(found, 'p50')}, {_ms(found, 'p99')}")

    def _compact(self) -> None:
        before = self._store.stat().st_size
        with SqliteStore(self._store) as store:
            work = Compactor(store, Pace(delay_ms=0, wait_ms=0))
            began = time.perf_counter()
            while work.step():
                pass
            seconds = time.perf_counter() - began
            work.close()
        self._note("compacted", f"{work.readings} readings in {seconds:.1f} s")
        found = json.loads(self._fleetnet("store", "show", "--json")[0])
        size = found["file_bytes"] + found["log_bytes"]
        self._note("store before, after", f"{before / 1e6:.1f} MB, {size / 1e6:.1f} MB")
        # The newest message stays a row.
        rest = self.readings - found["chunk_readings"]
        self._note("not in chunks", f"{rest} readings in {found['messages']} messages")

    def query(self) -> None:
        """Ask for an hour of a device at random, and for all of one."""
        dice = random.Random(1)
        end_ms = time.time_ns() // 1_000_000
        times, found = [], 0
        for _ in range(_QUERIES):
            device = f"sim-{dice.randrange(self.devices) + 1:05d}"
            start_ms = end_ms - int(1000 * dice.uniform(_QUERY_S, self.hours * 3600))
            began = time.perf_counter()
            found += sum(
                1
                for _ in query(
                    self._store, device, "temperature", start_ms, start_ms + 1000 * _QUERY_S
                )
            )
            times.append((time.perf_counter() - began) * 1000)
        times.sort()
        p50, p99 = statistics.median(times), times[math.ceil(0.99 * len(times)) - 1]
        mean = f"{found / _QUERIES:.0f} readings"
        self._note(f"query: an hour of a channel, {mean}", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        lines, seconds = self._fleetnet("query", "--device", "sim-00001", "--json")
        answer = len(lines.splitlines())
        expected = self.readings // self.devices
        self._check(f"query found {answer} of {expected} of a device", expected, answer)
        self._note(f"fleetnet query: all of one device, {answer} readings", f"{seconds:.1f} s")

    def _miss_some(self) -> None:
        """Known bad: a copy of the store that has lost a chunk of a device's readings."""
        whole = self.folder, self._store, list(self.figures), list(self.faults)
        self.folder = self.place / "copy"
        shutil.copytree(whole[0], self.folder)
        self._store = load_settings(self.folder).store_path(self.folder)
        connection = open_writable(self._store)
        connection.execute(
            "DELETE FROM chunks WHERE (series, t0) IN (SELECT c.series, c.t0 FROM chunks AS c"
            " JOIN series AS s ON s.id = c.series JOIN devices AS d ON d.id = s.device"
            " WHERE d.name = 'sim-00001' LIMIT 1)"
        )
        lost = connection.changes()
        connection.close()
        self.query()
        self.export(("csv",))
        self.missed = self.faults[len(whole[3]) :]
        shutil.rmtree(self.folder)
        self.folder, self._store, self.figures, self.faults = whole
        self._check("the control lost nothing", 1, lost)

    def export(self, forms: Sequence[str] = ("csv", "jsonl", "parquet")) -> None:
        """Write everything into a file of each format."""
        for form in forms:
            target = self.place / f"day.{form}"
            found, seconds = self._fleetnet("export", str(target), "--json")
            exported = json.loads(found)["readings"]
            self._check(f"{form} has {exported} of {self.readings}", self.readings, exported)
            size = target.stat().st_size / 1e6
            self._note(f"fleetnet export: {form}, {size:.1f} MB", f"{seconds:.1f} s")
            target.unlink()

    def _plot(self) -> None:
        target = self.place / "day.png"
        found, seconds = self._fleetnet(
            "plot", "sim-00001", "temperature", "--png", str(target), "--json"
        )
        drawn, expected = json.loads(found)["readings"], self.readings // self.devices // 2
        self._check(f"plot drew {drawn} of {expected}", expected, drawn)
        self._check("the plot is no PNG", b"\x89PNG", target.read_bytes()[:4])
        self._note(f"fleetnet plot: {drawn} readings to PNG", f"{seconds:.1f} s")

    def _downsample(self) -> None:
        before = self._by_hour("fleetnet query --every 1h")
        minutes = round(self.hours * 60)
        (self.folder / "retention.toml").write_text(
            f'[[rule]]\nraw = "{minutes // 2}m"\nminutes = "{minutes}m"\n'
            f'hours = "{10 * minutes}m"\n'
        )
        # Seen half a day later: no reading is kept as such, and the older half only by the hour.
        later_ms = minutes * 30_000 + 120_000
        size = self._store.stat().st_size
        with SqliteStore(self._store) as store:
            work = Retention(
                store, self.folder, lambda: time.time_ns() // 1_000_000 + later_ms
            )
            began = time.perf_counter()
            while work.step():
                pass
            seconds = time.perf_counter() - began
            work.close()
        self._note("let go of by retention", f"{work.ended} readings in {seconds:.1f} s")
        if not work.ended:
            self.faults.append("retention ended nothing")
        found = json.loads(self._fleetnet("store", "show", "--json")[0])
        self._note("now", f"{found['chunk_readings']} readings, {found['minutes']} minutes, "
                   f"{found['hours']} hours")  # fmt: skip
        self._note("store file", f"{size / 1e6:.1f} MB, its free pages are used again")
        after = self._by_hour("  the same, downsampled")
        self._check("the hours differ after downsampling", before, after)

    def _by_hour(self, what: str) -> list[tuple[Any, ...]]:
        text, seconds = self._fleetnet("query", "--every", "1h", "--json")
        rows = [json.loads(line) for line in text.splitlines()]
        total = sum(row["count"] for row in rows)
        self._check(f"hours have {total} of {self.readings} readings", self.readings, total)
        self._note(f"{what}, {len(rows)} rows", f"{seconds:.1f} s")
        # Sums of floats in another order: the last digits of a mean are not kept.
        return [
            (row["unix_ms"], row["device"], row["channel"], row["count"], row["low"], row["high"],
             f"{row['mean']:.9g}")
            for row in rows
        ]  # fmt: skip

    # -- how ---------------------------------------------------------------------------

    def _fleetnet(self, *arguments: str) -> tuple[str, float]:
        """Run a command; return its standard output and the seconds it took."""
        command = [sys.executable, "-m", "fleetnet_server.cli.main", "-C", str(self.folder)]
        began = time.perf_counter()
        done = subprocess.run(
            [*command, *arguments], env={**os.environ, "PYTHONPATH": os.pathsep.join(_PATH)},
            stdout=subprocess.PIPE, text=True, timeout=_PATIENCE_S, check=False,
        )  # fmt: skip
        if done.returncode:
            self.faults.append(f"{' '.join(arguments)}: exit code {done.returncode}")
        return done.stdout, time.perf_counter() - began

    def _check(self, fault: str, expected: object, found: object) -> None:
        if expected != found:
            self.faults.append(fault)

    def _note(self, what: str, how_much: str) -> None:
        self.figures.append((what, how_much))


def _ms(found: dict[str, Any], share: str) -> str:
    return f"{found['latency_ms'][share]:.0f} ms"


def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--rate", type=float, default=1 / 60, help="moments a second and device")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as place:
        day = Day(Path(place), options.devices, options.hours, options.rate)
        day.run()
        faults, missed = day.faults, day.missed
    for what, how_much in day.figures:
        print(f"{what:<52}{how_much}")
    for fault in faults:
        print("FAULT", fault)
    row = Row(
        "day", f"a day of {options.devices} devices through every command",
        "every reading is in every answer, the hours are the same after downsampling",
        "; ".join(faults) or f"{day.readings} readings in every answer", not faults,
        f"a copy of the store that lacks a chunk: {'; '.join(missed)}",
        noticed(missed, "^query found") and noticed(missed, "^csv has"),
    )  # fmt: skip
    return finish([row], options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
