"""What a rig of tests/proof has found: rows for its own screen and for scoreboard.py.

A rig is a program with ``--json FILE`` and ``--quick``. It writes

    {"rows": [{"row": "27", "fault": ..., "expected": ..., "figure": ..., "passed": true,
               "control": ..., "control_red": true}]}

and ends with 1 when a row failed, or when a control, a variant that is known to be bad, was not
noticed: a rig that cannot see the fault proves nothing by seeing none.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """One fault and what came of it.

    Attributes:
        row: its number in the scoreboard, or a word where it has none.
        expected: what has to happen. figure: what did, with its unit.
        control: what the bad variant did; control_red: the rig noticed it.
    """

    row: str
    fault: str
    expected: str
    figure: str
    passed: bool
    control: str
    control_red: bool


@dataclass(frozen=True)
class Skipped:
    """A row that cannot run here, and why: it is never green."""

    row: str
    fault: str
    skipped: str


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that has what every rig understands."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--quick", action="store_true", help="scaled down; says what it was not")
    return parser


def noticed(faults: Sequence[str], sign: str) -> bool:
    """Whether a control's faults name the one that it was made with, by a regular expression.

    Any other fault says that the rig broke, and not that it can see.
    """
    return any(re.search(sign, fault) for fault in faults)


def finish(found: Sequence[Row | Skipped], file: Path | None) -> int:
    """Print the rows, write them to ``file``, and return the exit code.

    0: each row that ran passed, with its control red. 1: one did not. 2: nothing ran.
    """
    rows = [row for row in found if isinstance(row, Row)]
    for left_out in found:
        if isinstance(left_out, Skipped):
            print(f"not run  {left_out.row}  {left_out.fault}: {left_out.skipped}")
    for row in rows:
        print(f"{'pass' if row.passed else 'FAIL'}  {row.row}  {row.fault}: {row.figure}")
        print(f"      expected: {row.expected}")
        print(f"      control {'red' if row.control_red else 'STAYED GREEN'}: {row.control}")
    if found and not rows:
        print("nothing ran")
    sys.stdout.flush()
    if file is not None:
        file.write_text(json.dumps({"rows": [asdict(row) for row in found]}, indent=1) + "\n")
    if found and not rows:
        return 2
    return 0 if found and all(row.passed and row.control_red for row in rows) else 1
