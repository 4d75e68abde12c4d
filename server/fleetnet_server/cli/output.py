"""How commands print: tables on a terminal, tab-separated lines into pipes, JSON on request."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click


def print_json(value: Any) -> None:
    """Print one JSON document on one line (RFC 8259)."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if not text.isprintable():
        # JSON escapes controls up to U+001F; a terminal obeys some above it as well (U+009B).
        text = "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
    click.echo(text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: rich on a terminal (NO_COLOR is respected), tab-separated elsewhere."""
    if not sys.stdout.isatty():
        for row in rows:
            print_line(row)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        # Text: brackets in what a device sent are no markup, and control characters no
        # commands to the terminal.
        table.add_row(*(Text(flat(cell)) for cell in row))
    Console().print(table)


def print_line(cells: Iterable[str]) -> None:
    """Print cells separated by tabs, on one line whatever is in them."""
    click.echo("\t".join(flat(cell) for cell in cells))


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
    return "".join(character if character.isprintable() else " " for character in text)
