"""The power of a device fails at every byte of every write to its spool.

    python tests/proof/spool_power.py

tests/core/test_spool_power.py at its full size: every offset with all five tails that a flash
may show behind it, on this CPython and on the newest real MicroPython. Controls: a reader without
the check of sequences, and a writer without checksums.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from interpreters import interpreters  # noqa: E402
from proof.verdict import Row, arguments, finish  # noqa: E402

ENOUGH = 60_000
_PATIENCE_S = 1800

# Runs on CPython and on MicroPython alike.
PROGRAM = """
import sys
for path in {paths!r}:
    sys.path.insert(0, path)
import test_spool_power as t
operations, stored = t.recorded_run()
trial = t.Trial(stored)
t.cut_everywhere(trial, operations, {stride}, True)
gullible = t.Trial(stored, t.Gullible)
t.cut_everywhere(gullible, operations, 7)
real = t.spool_records.crc32
t.spool_records.crc32 = lambda data, value=0: 0
try:
    torn = t.Trial(stored)
    t.cut_everywhere(torn, list(t._without_crcs(operations)), 7)
finally:
    t.spool_records.crc32 = real
print('["figures", %d, %d, %d, %d]' % (
    trial.cases, len(trial.bad), len(gullible.bad), len(torn.bad)))
"""


def run(command: list[str], stride: int) -> tuple[int, int, int, int, float]:
    """Return cases, bad ones, bad ones of both controls, and the seconds."""
    paths = [str(ROOT / part) for part in ("", "device_lib", "tests", "tests/core")]
    with tempfile.TemporaryDirectory() as place:
        program = Path(place) / "run.py"
        program.write_text(PROGRAM.format(paths=paths, stride=stride))
        began = time.monotonic()
        done = subprocess.run(
            [*command, str(program)], capture_output=True, text=True, timeout=_PATIENCE_S,
            check=True,
        )  # fmt: skip
    line = next(one for one in done.stdout.splitlines() if one.startswith('["figures"'))
    _, cases, bad, gullible, torn = json.loads(line)
    return cases, bad, gullible, torn, time.monotonic() - began


def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    options = arguments(__doc__).parse_args(words)
    stride = 31 if options.quick else 1
    runs = {"CPython": run([sys.executable], stride)}
    for each in interpreters()[-1:]:
        runs[f"MicroPython {each.name}"] = run([each.path, "-X", "heapsize=16M"], stride)
    figures = [
        f"{name}: {cases} cuts, {bad} bad, {seconds:.0f} s"
        for name, (cases, bad, _, _, seconds) in runs.items()
    ]
    if len(runs) == 1:
        figures.append("no MicroPython on this machine")
    most = max(one[0] for one in runs.values())
    row = Row(
        "17", "power cut at every byte of the spool, five kinds of tail",
        "what was whole is there, in order, once, and writing goes on", "; ".join(figures),
        not any(one[1] for one in runs.values())
        and (options.quick or (len(runs) > 1 and most >= ENOUGH)),
        "; ".join(f"{name}: without sequences {one[2]} bad, without checksums {one[3]}"
                  for name, one in runs.items()),
        all(one[2] and one[3] for one in runs.values()),
    )  # fmt: skip
    return finish([row], options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
