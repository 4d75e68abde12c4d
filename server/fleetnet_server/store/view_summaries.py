"""A channel's lowest, mean and highest number by the minute, hour or day, in pages."""

import time
from typing import Any

from fleetnet_server.store.summaries import summarize
from fleetnet_server.store_place import StorePlace

Row = dict[str, Any]
Page = tuple[list[Row], list[Any] | None]

# A page that takes longer ends early, with its position: three threads serve everybody.
_PAGE_S = 1.0

# Summed up between two looks at the clock: a day of a channel at 1 Hz takes 0.1 s. Slices that
# take less than _QUICK_S double, so that a year without readings is a few slices.
_SLICE_MS = 86_400_000
_QUICK_S = 0.02


def summary_page(
    place: StorePlace, device: str, channel: str, start_ms: int, end_ms: int, step_ms: int,
    limit: int,
) -> Page:  # fmt: skip
    """Return the steps that have numbers, in order of time.

    Args:
        start_ms, end_ms: unix ms; the end is not included. step_ms: length of a step.
        limit: steps looked at, at most; a page may be short, or empty, with a position.

    Returns the position as [unix ms at which the next page begins].

    Raises StoreUnavailable, StoreError: as summarize.
    """
    at = start_ms - start_ms % step_ms
    last = min(end_ms, at + limit * step_ms)
    least = width = max(step_ms, _SLICE_MS - _SLICE_MS % step_ms)
    began = time.monotonic()
    deadline = began + _PAGE_S
    rows: list[Row] = []
    while at < last and began <= deadline:
        until = min(at + width, last)
        found = summarize(place, device, channel, max(at, start_ms), until - 1, step_ms)
        rows += [one._asdict() for one in found]
        at = until
        now = time.monotonic()
        width = 2 * width if now - began < _QUICK_S else least
        began = now
    return rows, [at] if at < end_ms else None
