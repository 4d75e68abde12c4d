"""`make bench`: the figures of docs/benchmarks.md on this machine.

    make bench [ARGS="--quick --rows P1,P4 --json bench.json"]

Each row starts what it measures, loads it for some seconds, and ends it.
"""

import argparse
import os
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PATHS = [str(ROOT), str(ROOT / "server"), str(ROOT / "device_lib")]
sys.path[:0] = _PATHS
os.environ["PYTHONPATH"] = os.pathsep.join(_PATHS)
os.environ["PATH"] += ":/usr/sbin:/sbin"

from figures import Table, machine  # noqa: E402
from fleets import make_fleet  # noqa: E402
from processes import cores  # noqa: E402
from rows import DEVICES, Bench  # noqa: E402

_ROWS = ("bounds", "P1", "P2", "P3", "P4", "P5", "P7", "P8", "P13", "MQTT", "POSTGRES")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 s a row: a look, not a figure")
    parser.add_argument("--seconds", type=float, help="load of one row (default 6, --quick 2)")
    parser.add_argument("--rows", default=",".join(_ROWS),
                        help="some of " + ",".join(_ROWS) + "; and P12, which takes 10 minutes")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything there, too")
    options = parser.parse_args()
    wanted = [name.strip() for name in options.rows.split(",")]
    if unknown := set(wanted) - set(_ROWS) - {"P12"}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    seconds = options.seconds or (2.0 if options.quick else 6.0)
    table = Table()
    print(f"machine: {machine()}; measured on core {cores()[0]}, loaded from core {cores()[1]}")
    failed = False
    with tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name:
        folder = Path(name) / "fleet"
        make_fleet(folder, DEVICES)
        bench = Bench(folder, seconds, options.quick, table)
        measures = {
            "bounds": bench.bounds, "P1": bench.p1, "P2": bench.p2, "P3": bench.p3,
            "P4": bench.p4, "P5": bench.p5, "P7": bench.p7, "P8": bench.p8_p9,
            "P12": bench.p12, "P13": bench.p13, "MQTT": bench.mqtt,
            "POSTGRES": bench.postgres,
        }  # fmt: skip
        for row in wanted:
            try:
                measures[row]()
            except Exception:
                # A row that fails is an error of the run; the others are still worth having.
                failed = True
                table.note(f"{row} failed: {traceback.format_exc(limit=-1).splitlines()[-1]}")
                traceback.print_exc()
    if "P1" in wanted or "P3" in wanted:
        table.note(
            "The peer acknowledges when the broker has a message, before its commit: what the "
            "subscriber loses was acknowledged. fleetnet acknowledges behind the commit."
        )
    print("\n" + table.text())
    if options.json:
        table.write_json(options.json)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
