"""Arithmetic on millisecond ticks that wrap.

A tick is an int in 0 .. 2**30-1, the smallest period of any MicroPython port
(MicroPython docs, ``time.ticks_ms``). Differences are right up to 2**29 ms (6.2 days)
apart, so no timer may be set further ahead.
"""

PERIOD = 1 << 30
_MASK = PERIOD - 1
_HALF = PERIOD >> 1


def ticks_add(ticks: int, delta_ms: int) -> int:
    """Return the tick ``delta_ms`` after ``ticks`` (before, when negative)."""
    return (ticks + delta_ms) & _MASK


def ticks_diff(later: int, earlier: int) -> int:
    """Return ``later - earlier`` in ms, from -2**29 to 2**29-1."""
    return ((later - earlier + _HALF) & _MASK) - _HALF
