"""Pages: how many rows, and an opaque cursor to where the next page begins."""

import base64
import binascii
import json
from typing import Annotated, Any

from fastapi import Query

from fleetnet_server.web.ports import Row
from fleetnet_server.web.problems import Json, ProblemError

# A page of devices costs two seeks a row, one of readings some 10 us a row.
MOST_ROWS = 1000
_MOST_CURSOR = 300
_MOST_NUMBER = 1 << 53

Limit = Annotated[int, Query(ge=1, le=MOST_ROWS, description="rows of a page, at most")]
Cursor = Annotated[
    str | None, Query(max_length=_MOST_CURSOR, description="`next` of the page before")
]


def write_cursor(kind: str, position: list[Any] | None) -> str | None:
    """Return what a client hands back for the next page; None: there is none."""
    if position is None:
        return None
    text = json.dumps([kind, *position], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(kind: str, cursor: str | None, *types: type) -> tuple[Any, ...] | None:
    """Return the position of a cursor; None: there is none.

    Raises:
        ProblemError: it is none of ours, or of another route.
    """
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        found = json.loads(text)
    except (binascii.Error, ValueError, RecursionError):
        found = None
    if isinstance(found, list) and len(found) == 1 + len(types) and found[0] == kind:
        values: list[Any] = found[1:]
        if all(_is(value, wanted) for value, wanted in zip(values, types, strict=True)):
            return tuple(values)
    raise ProblemError(400, "no cursor of this list: pass `next` of the page before, or none")


def _is(value: Any, wanted: type) -> bool:
    """Say whether a value has a type, and fits the store."""
    if isinstance(value, bool) or not isinstance(value, wanted):
        return False
    return not isinstance(value, int) or 0 <= value <= _MOST_NUMBER


def page(kind: str, rows: list[Row], position: list[Any] | None) -> Json:
    """Return a page as JSON."""
    return Json({"items": rows, "next": write_cursor(kind, position)})


def slice_by_name(
    rows: list[Row], key: str, position: tuple[Any, ...] | None, limit: int
) -> tuple[list[Row], list[Any] | None]:
    """Return a page of a short list that is ordered by ``key``, and the position behind it."""
    after = position[0] if position else ""
    left = [row for row in rows if row[key] > after]
    shown = left[:limit]
    return shown, [shown[-1][key]] if len(left) > limit else None
