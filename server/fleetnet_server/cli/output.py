"""How commands print, and with which code they exit; docs/cli.md says the same to users.

Standard output has the answer: a table on a terminal, tab-separated lines in a pipe, JSON with
``--json``. Standard error has errors, notes and progress. NO_COLOR (no-color.org) takes the
colours away.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any

import click

DONE, FAILURE, USAGE, PARTLY = 0, 1, 2, 3  # exit codes; click itself exits with 2

# So many rows make the columns of a table; a longer one is printed as it comes.
_MEASURED_ROWS = 200

Advance = Callable[[float, str], None]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def json_lines_option(what: str) -> Callable[[Any], Any]:
    """Make the --json of a command whose answer may be long: one object a line."""
    text = f"Print JSON lines: one object {what}."
    return click.option("--json", "as_json", is_flag=True, help=text)


def json_text(value: Any) -> str:
    """Return one JSON document on one line (RFC 8259) that no terminal obeys."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if not text.isprintable():
        # JSON escapes controls up to U+001F; a terminal obeys some above it as well (U+009B).
        text = "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
    return text


def print_json(value: Any) -> None:
    """Print one JSON document on one line (RFC 8259)."""
    click.echo(json_text(value))


def print_json_lines(values: Iterable[Any]) -> None:
    """Print one document a line, through a buffer: a long answer is not a flush for each."""
    _write_lines(json_text(value) for value in values)


def print_result(as_json: bool, document: dict[str, Any], text: str) -> None:
    """Say that a change was made: the document with --json, else a sentence."""
    if as_json:
        print_json(document)
    else:
        click.echo(text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: aligned on a terminal, tab-separated lines elsewhere.

    Memory holds the first 200 rows, whatever follows.
    """
    if not sys.stdout.isatty():
        _write_lines(line_text(row) for row in rows)
        return
    from rich.cells import cell_len, set_cell_size

    rest = iter(rows)
    first = [[flat(cell) for cell in row] for row in islice(rest, _MEASURED_ROWS)]
    widths = [
        max(cell_len(cell) for cell in cells) for cells in zip(columns, *first, strict=True)
    ]
    heading = _aligned(columns, widths, cell_len, set_cell_size)
    click.echo(heading if no_color() else click.style(heading, bold=True))
    for row in chain(first, ([flat(cell) for cell in row] for row in rest)):
        click.echo(_aligned(row, widths, cell_len, set_cell_size))


def _aligned(
    cells: Sequence[str],
    widths: Sequence[int],
    cell_len: Callable[[str], int],
    set_cell_size: Callable[[str, int], str],
) -> str:
    """Set cells side by side; one that is wider than its column moves the rest of its row."""
    padded = [
        cell if cell_len(cell) > width else set_cell_size(cell, width)
        for cell, width in zip(cells, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()


def print_line(cells: Iterable[str]) -> None:
    """Print cells separated by tabs, on one line whatever is in them."""
    click.echo(line_text(cells))


def line_text(cells: Iterable[str]) -> str:
    """Return cells separated by tabs, on one line whatever is in them."""
    return "\t".join(flat(cell) for cell in cells)


def _write_lines(lines: Iterable[str]) -> None:
    out = sys.stdout
    for line in lines:
        out.write(line + "\n")
    out.flush()  # here a closed pipe is an error that click knows; at exit it is a traceback


def no_color() -> bool:
    """Say whether colours are not wanted: NO_COLOR is not empty, or the terminal knows none."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


@contextmanager
def progress(text: str) -> Iterator[Advance]:
    """Give a function (share done, 0 to 1; text) that moves a bar on standard error.

    Only a terminal shows it; elsewhere the function does nothing.
    """
    if not sys.stderr.isatty():
        yield lambda share, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
        Remaining(), TextColumn("{task.fields[note]}", markup=False),
    )  # fmt: skip
    console = Console(stderr=True)
    if not console.is_interactive:  # TERM=dumb: rich shows no bar, and an empty line for it
        yield lambda share, note: None
        return
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=1.0, note="")
        yield lambda share, note: bar.update(task, completed=min(1.0, share), note=note)


def format_time(unix_ms: int | None) -> str:
    """Return ISO 8601 in UTC with milliseconds, `undated` for None."""
    if unix_ms is None:
        return "undated"
    try:
        moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{unix_ms} ms"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_value(value: Any) -> str:
    """Return a value as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def plain(text: str) -> str:
    """Return text with what a terminal would obey escaped, and further lines set in."""
    shown = (c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    return "".join(shown).replace("\n", "\n  ")


def flat(text: str) -> str:
    """Return text of a device without what a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)
