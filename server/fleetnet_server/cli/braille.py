"""A curve in a terminal: Unicode's braille patterns have 2 by 4 dots in a character.

Source: The Unicode Standard, block U+2800: bit n of the character is dot n + 1.
"""

from datetime import UTC, datetime

from fleetnet_server.cli.curve import Bucket

_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BLANK = 0x2800
_DAY_MS = 86_400_000

# More has no double.
_DIGITS = 17

# Neighbours so many usual distances apart are not joined: nothing is known in between.
_GAP = 4


def draw(buckets: list[Bucket], width: int, height: int, can_braille: bool = True) -> list[str]:
    """Return the lines of a plot, the axes with it.

    Args:
        buckets: at least one. width: characters of a line; height: lines, the axis with them.
        can_braille: False: only ASCII may be used.
    """
    low = min(one.low for one in buckets)
    high = max(one.high for one in buckets)
    if low == high:
        low, high = low - 0.5, high + 0.5
    rows = max(2, height - 2)
    labels = _labels(low, high, rows)
    edge = max(map(len, labels))
    columns = max(8, width - edge - 2)
    grid = _fill(buckets, low, high, columns, rows)
    axis = ("\u2524", "\u2514", "\u2500") if can_braille else ("|", "+", "-")
    lines = []
    for label, cells in zip(labels, grid, strict=True):
        shown = "".join(_character(cell, can_braille) for cell in cells).rstrip()
        lines.append(f"{label:>{edge}} {axis[0]}{shown}")
    lines.append(f"{'':{edge}} {axis[1]}{axis[2] * columns}")
    lines.append(f"{'':{edge}}  {_times(buckets, columns)}")
    return lines


def _fill(
    buckets: list[Bucket], low: float, high: float, columns: int, rows: int
) -> list[list[int]]:
    """Return the dots of each character, the topmost row first."""
    grid = [[0] * columns for _ in range(rows)]
    first, last = buckets[0].unix_ms, buckets[-1].unix_ms
    span = max(1, last - first)

    def across(unix_ms: int) -> int:
        return round((unix_ms - first) * (2 * columns - 1) / span)

    def down(value: float) -> int:
        return round((high - value) * (4 * rows - 1) / (high - low))

    def dot(x: int, y: int) -> None:
        grid[y // 4][x // 2] |= _BITS[y % 4][x % 2]

    most = _GAP * max(1, 2 * columns // len(buckets))
    before: tuple[int, int] | None = None
    for one in buckets:
        x = across(one.unix_ms)
        for y in range(down(one.high), down(one.low) + 1):
            dot(x, y)
        here = (x, down(one.mean))
        if before is not None and x - before[0] <= most:
            for at in _line(before, here):
                dot(*at)
        before = here
    return grid


def _line(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [
        (
            round(start[0] + (end[0] - start[0]) * step / steps),
            round(start[1] + (end[1] - start[1]) * step / steps),
        )
        for step in range(steps + 1)
    ]


def _character(dots: int, can_braille: bool) -> str:
    if not dots:
        return " "
    return chr(_BLANK | dots) if can_braille else "*"


def _labels(low: float, high: float, rows: int) -> list[str]:
    """A number at the top, in the middle and at the bottom; with digits that tell them apart."""
    shown = {0: high, rows // 2: high - (high - low) * (rows // 2) / (rows - 1), rows - 1: low}
    digits = 6
    while digits < _DIGITS and len({f"{one:.{digits}g}" for one in shown.values()}) < len(shown):
        digits += 1
    return [f"{shown[row]:.{digits}g}" if row in shown else "" for row in range(rows)]


def _times(buckets: list[Bucket], columns: int) -> str:
    first, last = buckets[0].unix_ms, buckets[-1].unix_ms
    form = "%Y-%m-%d %H:%M" if last - first > _DAY_MS else "%H:%M:%S"
    begin = _moment(first).strftime("%Y-%m-%d %H:%M:%S")
    end = _moment(last).strftime(form) + " UTC"
    return begin + end.rjust(max(len(end) + 2, columns - len(begin)))


def _moment(unix_ms: int) -> datetime:
    try:
        return datetime.fromtimestamp(unix_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
