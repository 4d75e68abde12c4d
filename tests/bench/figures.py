"""Rows of the bench, and how they are printed."""

import json
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        target, ratio_target: what TARGETS ask for; None: reported without target.
        at_most: the figure must not be above the target (else not below).
        peer: figure of the peer in the same unit; ratio: ours by the peer's.
    """

    name: str
    what: str
    figure: float
    unit: str
    target: float | None = None
    at_most: bool = False
    peer_name: str = ""
    peer: float | None = None
    ratio_target: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.figure / self.peer if self.peer else None

    @property
    def reached(self) -> bool | None:
        """Both targets reached; None when there is none."""
        results = []
        if self.target is not None:
            results.append(
                self.figure <= self.target if self.at_most else self.figure >= self.target
            )
        if self.ratio_target is not None and self.ratio is not None:
            results.append(self.ratio >= self.ratio_target)
        return all(results) if results else None


class Table:
    """All rows, notes and bounds of one run."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.details: dict[str, Any] = {}

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(" ", _plain(row), flush=True)

    def note(self, text: str) -> None:
        self.notes.append(text)
        print("  note:", text, flush=True)

    def text(self) -> str:
        """Return the table as Markdown, for the terminal and for docs/benchmarks.md."""
        lines = [
            "| row | what | figure | target | reached | peer | ratio |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            peer = f"{_number(row.peer)} {row.peer_name}" if row.peer else row.peer_name
            ratio = f"{row.ratio:.2f}" if row.ratio else ""
            if row.ratio_target and row.ratio:
                ratio += f" (>= {row.ratio_target:g})"
            reached = {True: "yes", False: "**no**", None: ""}[row.reached]
            lines.append(
                f"| {row.name} | {row.what} | {_number(row.figure)} {row.unit} | "
                f"{_target(row)} | {reached} | {peer} | {ratio} |"
            )
        return "\n".join(lines + [f"\n- {note}" for note in self.notes])

    def write_json(self, path: Path) -> None:
        """Write rows, notes and details."""
        rows = [{**row._asdict(), "ratio": row.ratio, "reached": row.reached} for row in self.rows]
        document = {
            "machine": machine(), "rows": rows, "notes": self.notes, "details": self.details,
        }  # fmt: skip
        path.write_text(json.dumps(document, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Describe this machine, without its name."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    return f"{'<=' if row.at_most else '>='} {_number(row.target)}"


def _plain(row: Row) -> str:
    peer = f"; {row.peer_name} {_number(row.peer)}: ratio {row.ratio:.2f}" if row.ratio else ""
    return f"{row.name} {row.what}: {_number(row.figure)} {row.unit} (target {_target(row)}){peer}"
