"""Rows of the bench, and how they are printed."""

import json
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

# In the table rows stand in this order, whatever was measured first.
ORDER = (
    *(f"P{number}" for number in range(1, 14)), "MQTT", "POSTGRES", "bound",
)  # fmt: skip

# What a run writes into a page stands between these two lines of it.
BEGIN = "<!-- bench: begin; written by `make bench`, see above -->"
END = "<!-- bench: end -->"


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        target, ratio_target: what TARGETS ask for; None: reported without target.
        at_most: neither the figure nor the ratio may be above its target (else not below).
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

    @property
    def ratio(self) -> float | None:
        return self.figure / self.peer if self.peer else None

    @property
    def reached(self) -> bool | None:
        """Both targets reached; None when there is none, or its peer was not measured."""
        results = []
        for figure, target in ((self.figure, self.target), (self.ratio, self.ratio_target)):
            if target is not None and figure is not None:
                results.append(figure <= target if self.at_most else figure >= target)
        return all(results) if results else None


class Table:
    """All rows, notes and details of one run."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.details: dict[str, Any] = {}
        self.failed = False

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(" ", _plain(row), flush=True)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            print("  note:", text, flush=True)

    def fail(self, text: str) -> None:
        """Note why a row is not there; the run ends with an error."""
        self.failed = True
        self.note(text)

    def text(self) -> str:
        """Return the table as Markdown, for the terminal and for docs/benchmarks.md."""
        lines = [
            "| row | what | figure | target | reached | peer | ratio |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in sorted(self.rows, key=_place):
            peer = f"{_number(row.peer)} {row.peer_name}" if row.peer else row.peer_name
            ratio = f"{row.ratio:.2f}" if row.ratio else ""
            if row.ratio_target and row.ratio:
                ratio += f" ({'<=' if row.at_most else '>='} {row.ratio_target:g})"
            reached = {True: "yes", False: "**no**", None: ""}[row.reached]
            lines.append(
                f"| {row.name} | {row.what} | {_number(row.figure)} {row.unit}".rstrip() + " | "
                f"{_target(row)} | {reached} | {peer} | {ratio} |"
            )
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines)

    def write_json(self, path: Path, about: dict[str, Any]) -> None:
        """Write rows, notes and details, and what the run was."""
        rows = [
            {**row._asdict(), "ratio": row.ratio, "reached": row.reached}
            for row in sorted(self.rows, key=_place)
        ]
        document = {**about, "rows": rows, "notes": self.notes, "details": self.details}
        path.write_text(json.dumps(document, indent=1) + "\n")


def write_markdown(path: Path, text: str) -> None:
    """Write ``text`` between the two marks of a page, or as a whole new file.

    Raises:
        ValueError: the file exists and has no such marks.
    """
    if not path.exists():
        path.write_text(text + "\n")
        return
    page = path.read_text()
    before, begin, rest = page.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {BEGIN!r} and {END!r} to write between")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


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
        "load": round(os.getloadavg()[0], 1),
    }


def sentence(about: dict[str, Any]) -> str:
    """Say what machine() found, for people."""
    return (
        f"{about['processor']}, {about['cores']} cores, Linux {about['kernel']}, CPython "
        f"{about['python']}; load average {about['load']} when the run began."
    )


def _place(row: Row) -> int:
    return ORDER.index(row.name)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    return f"{'<=' if row.at_most else '>='} {_number(row.target)}"


def _plain(row: Row) -> str:
    target = f" (target {_target(row)})" if row.target is not None else ""
    peer = f"; {row.peer_name} {_number(row.peer)}: ratio {row.ratio:.2f}" if row.ratio else ""
    return f"{row.name} {row.what}: {_number(row.figure)} {row.unit}{target}{peer}"
