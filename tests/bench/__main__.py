"""`make bench`: the figures of docs/benchmarks.md on this machine.

    make bench [ARGS="--quick --rows P1,P4 --json bench.json"]
    make bench ARGS="--markdown docs/benchmarks.md"     # measure, and write the page's table

Each row starts what it measures, loads it for some seconds, and ends it.
"""

import argparse
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PATHS = [str(ROOT), str(ROOT / "server"), str(ROOT / "device_lib")]
sys.path[:0] = _PATHS
os.environ["PYTHONPATH"] = os.pathsep.join(_PATHS)
os.environ["PATH"] += ":/usr/sbin:/sbin"

from figures import Table, machine, sentence, write_markdown  # noqa: E402
from fleets import make_fleet  # noqa: E402
from processes import cores  # noqa: E402
from rows import Bench, devices_for, measures  # noqa: E402


def parser() -> argparse.ArgumentParser:
    names = ",".join(measures())
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 s a row: a look, not a figure")
    parser.add_argument("--seconds", type=float, help="load of one row (default 6, --quick 2)")
    parser.add_argument("--rows", default=names, help=f"some of {names}")
    parser.add_argument(
        "--stored",
        type=int,
        default=10_000_000,
        metavar="READINGS",
        help="P12 asks among so many (default 10 million, --quick 1 million)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write the table there: into a page between its marks, or a new file",
    )
    return parser


def measure(bench: Bench, wanted: list[str]) -> dict[str, float]:
    """Measure one row after the other; return how long each took, s.

    A row that fails is named in the notes, and the others are still worth having.
    """
    took = {}
    for row, work in measures().items():
        if row not in wanted:
            continue
        began = time.monotonic()
        try:
            work(bench)
        except Exception as error:
            bench.table.fail(f"{row} failed: {type(error).__name__}: {str(error)[:300]}")
            traceback.print_exc()
        took[row] = round(time.monotonic() - began, 1)
    return took


def main() -> int:
    options = parser().parse_args()
    wanted = [name.strip() for name in options.rows.split(",")]
    if unknown := set(wanted) - set(measures()):
        parser().error(f"no such row: {', '.join(sorted(unknown))}")
    seconds = options.seconds or (2.0 if options.quick else 6.0)
    table = Table()
    about = machine()
    began = time.monotonic()
    print(f"{sentence(about)} Measured on core {cores()[0]}, loaded from core {cores()[1]}.")
    with tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name:
        folder = Path(name) / "fleet"
        make_fleet(folder, devices_for(wanted))
        took = measure(Bench(folder, seconds, options.quick, table, options.stored), wanted)
    minutes = (time.monotonic() - began) / 60
    text = f"{sentence(about)} The run took {minutes:.0f} minutes.\n\n{table.text()}"
    print("\n" + text)
    if options.json:
        table.write_json(options.json, {"machine": about, "seconds": took})
    if options.markdown:
        write_markdown(options.markdown, text)
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
