"""Every fault of the scoreboard in one table: what was done, what came of it, and its control.

    python tests/proof/scoreboard.py                  everything, for four to five hours
    python tests/proof/scoreboard.py --quick          scaled down, within five minutes
    python tests/proof/scoreboard.py --rows 4,9       these rows
    python tests/proof/scoreboard.py --list           which rig shows which row; runs nothing

Rigs run one after the other, in a quick run three at once, each a program with processes of its
own (rigs.py). A row counts
when it passed and its control, a variant that is known to be bad, was noticed. What cannot run
here is listed with the reason, and is no green row.

Exit code 0: every row that ran passed, with its control red. 1: one did not. 2: nothing ran.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_PATH = [str(ROOT / part) for part in ("", "server", "device_lib", "tests", "tests/core")]
if __name__ == "__main__":
    sys.path[:0] = _PATH

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from proof.rigs import NOT_HERE, RIGS, Rig, lacking  # noqa: E402

_GRACE_S = 20.0
# Of a quick run: most rigs wait most of their time. In a whole one nobody disturbs a figure.
_AT_ONCE = 3
# What runs now: whoever ends the scoreboard ends it as well.
_running: "set[subprocess.Popen[bytes]]" = set()
_is_over = threading.Event()
_FIELDS = ("row", "fault", "expected", "figure", "passed", "control", "control_red")
Found = dict[str, Any]


def order(row: str) -> tuple[float, str]:
    """Sort rows by their number; those without one come last."""
    number = re.match(r"\d+", row)
    return (float(number[0]) if number else 1e9, row)


def failed(rig: Rig, row: str, why: str) -> Found:
    """Return the row of a rig that ended without one."""
    return {"row": row, "fault": rig.rows.get(row, rig.program), "expected": "a verdict",
            "figure": why, "passed": False, "control": "-", "control_red": False}  # fmt: skip


def run_rig(rig: Rig, is_quick: bool, rows: set[str], place: Path) -> list[Found]:
    """Run one program; return its rows, failed ones for those that it does not tell."""
    file = place / f"{rig.program}.json"
    log = place / f"{rig.program}.log"
    command = [sys.executable, str(rig.path), "--json", str(file)]
    command += ["--quick", *rig.quick] if is_quick else rig.arguments
    wanted = rows & set(rig.rows) if rows else set(rig.rows)
    if rig.has_rows and rows:
        command += ["--rows", ",".join(sorted(wanted, key=order))]
    limit_s = 600 + 4 * (rig.quick_s if is_quick else 60 * rig.minutes)
    code = _run(command, log, limit_s)
    found = _read(file)
    told = {one["row"] for one in found}
    words = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    missing = [] if wanted & told == wanted else sorted(wanted - told, key=order)
    found += [failed(rig, row, f"exit code {code}: {words[0][:200]}") for row in missing]
    ran = [one for one in found if "skipped" not in one]
    is_told = code == 2 and found and not ran  # verdict.finish(): nothing ran
    if code and not is_told and not any(is_bad(one) for one in found):
        found.append(failed(rig, rig.program, f"exit code {code}: {words[0][:200]}"))
    return found


def _run(command: list[str], log: Path, limit_s: float) -> int | str:
    """Run a program to its end, or end it; its children are in its session."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_PATH)}
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            env=environment, cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        _running.add(process)
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"none, it hung for {limit_s:.0f} s"
        finally:
            _end(process)
            _running.discard(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM lets a rig take its namespaces away; what is left of its session is killed."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _read(file: Path) -> list[Found]:
    """Return the rows that a rig wrote; one that lacks a field is no row."""
    try:
        rows = json.loads(file.read_text())["rows"]
        return [one for one in rows if "skipped" in one or all(name in one for name in _FIELDS)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def is_bad(row: Found) -> bool:
    """It ran, and does not count: it failed, or its control stayed green."""
    return "skipped" not in row and not (row["passed"] is True and row["control_red"] is True)


def table(rows: list[Found]) -> Table:
    """The rows that ran."""
    made = Table(show_lines=True, expand=True)
    for name, ratio in (("row", None), ("fault", 4), ("expected", 4), ("figure", 6),
                        ("", None), ("control", 5)):  # fmt: skip
        made.add_column(name, ratio=ratio, no_wrap=ratio is None)
    for row in rows:
        verdict = "[green]pass[/]" if row["passed"] else "[bold red]FAIL[/]"
        mark = "[green]red[/]" if row["control_red"] else "[bold red]STAYED GREEN[/]"
        cells = [str(row[name]).replace("[", r"\[") for name in _FIELDS]
        made.add_row(*cells[:4], verdict, f"{mark}: {cells[5]}")
    return made


def chosen(rows: set[str], is_quick: bool) -> tuple[list[Rig], dict[str, str]]:
    """Return the rigs that run, and {row: why not} of those that do not."""
    run: list[Rig] = []
    absent: dict[str, str] = {}
    for rig in RIGS:
        if rows and not rows & set(rig.rows):
            continue
        why = lacking(rig)
        if is_quick and not rig.in_quick and not why:
            why = f"too long for --quick: {rig.minutes:g} minutes"
        if why:
            absent |= {row: why for row in rig.rows if not rows or row in rows}
        else:
            run.append(rig)
    return run, absent


def report(rows: list[Found], absent: dict[str, str], console: Console, with_limits: bool) -> int:
    """Print the table and what is not in it; return the exit code."""
    rows = sorted(rows, key=lambda row: order(row["row"]))
    ran = [row for row in rows if "skipped" not in row]
    absent = absent | {row["row"]: row["skipped"] for row in rows if "skipped" in row}
    if ran:
        console.print(table(ran))
    if absent:
        console.print("\nNot run, and not counted:")
        for row, why in sorted(absent.items(), key=lambda item: order(item[0])):
            console.print(f"  {row:>8}  {why}", markup=False, highlight=False)
    if with_limits:
        console.print("\nNot shown here by anything:")
        for row, why in NOT_HERE.items():
            console.print(f"  {row:>8}  {why}", markup=False, highlight=False)
    bad = [row["row"] for row in ran if is_bad(row)]
    good = len(ran) - len(bad)
    console.print(f"\n{good} rows passed, {len(bad)} failed, {len(absent)} not run", style="bold")
    if bad:
        console.print(f"failed: {', '.join(bad)}", style="red")
    return (1 if bad else 0) if ran else 2


def timed(rig: Rig, is_quick: bool, names: set[str], place: Path) -> list[Found]:
    """Run a rig, and say on standard error what came of it."""
    if _is_over.is_set():
        return [failed(rig, row, "ended from outside") for row in rig.rows]
    began = time.monotonic()
    found = run_rig(rig, is_quick, names, place)
    said = ", ".join(
        f"{one['row']} {'not run' if 'skipped' in one else 'FAIL' if is_bad(one) else 'ok'}"
        for one in found
    )
    took = time.monotonic() - began
    print(f"{rig.program:<14} {took:6.0f} s  {said}", file=sys.stderr, flush=True)
    return found


def _stop(*_: object) -> None:
    """Let rigs take their namespaces away, then tell what there is."""
    _is_over.set()
    for process in list(_running):
        process.terminate()


def play(options: argparse.Namespace, console: Console) -> int:
    """Run the rigs that were chosen."""
    names = set(filter(None, (options.rows or "").split(",")))
    unknown = names - {row for rig in RIGS for row in rig.rows}
    if unknown:
        console.print(f"no such row: {', '.join(sorted(unknown))}; see --list")
        return 2
    rigs, absent = chosen(names, options.quick)
    if options.list:
        for rig in RIGS:
            why = lacking(rig)
            for row, fault in rig.rows.items():
                text = f"{row:>8}  {rig.program:<14} {rig.minutes:>4g} min  {fault}"
                console.print(text + (f"  (not here: {why})" if why else ""), markup=False)
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    rows: list[Found] = []
    with tempfile.TemporaryDirectory(prefix="proof-") as made:
        place = options.logs or Path(made)
        place.mkdir(parents=True, exist_ok=True)

        def run(rig: Rig) -> list[Found]:
            return timed(rig, options.quick, names, place)

        together = [rig for rig in rigs if options.quick and not rig.is_alone]
        # The longest first, so that none is left over at the end.
        together.sort(key=lambda rig: -rig.quick_s)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for found in pool.map(run, together):
                rows += found
        for rig in rigs:
            if rig not in together:
                rows += run(rig)
    code = report(rows, absent, console, not names)
    if options.json:
        document = {"rows": rows, "not_run": absent, "quick": options.quick}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return code


def main(arguments: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", help="of the first column, separated by commas")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it there too")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep what the rigs print")
    width = None if sys.stdout.isatty() else 150
    return play(parser.parse_args(arguments), Console(width=width))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
