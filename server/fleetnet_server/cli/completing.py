"""What a shell is offered behind a command besides options: names of devices and channels.

Called once for each press of TAB, in a process of its own: nothing is imported before it is
needed, and whatever fails offers nothing.
"""

import json
import sqlite3
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from fleetnet.errors import FleetError
from fleetnet.frame import READINGS

# More would fill the screen.
_MOST = 200

# Channels of readings that are not compacted yet are looked for in so many messages: 1 ms.
_LOOKED_AT = 200

_DEVICES = (
    "SELECT name FROM devices WHERE substr(name, 1, length(?1)) = ?1 ORDER BY name LIMIT ?2"
)
_SERIES = (
    "SELECT DISTINCT channel FROM series AS s JOIN devices AS d ON d.id = s.device"
    " WHERE substr(channel, 1, length(?1)) = ?1 AND (?2 = '' OR d.name = ?2)"
    " ORDER BY channel LIMIT ?3"
)
_NEWEST = (  # constants of this module only
    "SELECT m.body FROM messages AS m JOIN devices AS d ON d.id = m.device"  # noqa: S608
    f" WHERE m.kind & 127 = {READINGS} AND (?1 = '' OR d.name = ?1)"
    " ORDER BY m.id DESC LIMIT ?2"
)


def complete_device(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the devices of the fleet whose names begin so."""
    try:
        place = _place(ctx)
        if isinstance(place, str):
            rows = _ask(ctx, place, _DEVICES, (incomplete, _MOST))
        else:
            with closing(_open(place)) as store:
                rows = store.execute(_DEVICES, (incomplete, _MOST)).fetchall()
    except (OSError, ValueError, sqlite3.Error, FleetError):
        return []
    return [CompletionItem(str(name)) for (name,) in rows]


def complete_channel(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the channels that begin so, of the one device that the command names, or of all."""
    named = ctx.params.get("device") or ctx.params.get("devices")
    if isinstance(named, tuple):
        named = named[0] if len(named) == 1 else None
    if named and any(mark in named for mark in "*?["):
        named = None
    values = (incomplete, named or "", _MOST)
    try:
        place = _place(ctx)
        if isinstance(place, str):
            found = {str(channel) for (channel,) in _ask(ctx, place, _SERIES, values)}
        else:
            found = _channels_in(place, values)
    except (OSError, ValueError, sqlite3.Error, FleetError):
        return []
    # One that a terminal obeys is not for a command line.
    return [CompletionItem(one) for one in sorted(found)[:_MOST] if one.isprintable()]


def _channels(body: bytes | str) -> Iterator[str]:
    """Yield the channels of a message of readings: [time, boot, [channels], [readings]]."""
    try:
        document = json.loads(body)
    except ValueError:
        return
    if isinstance(document, list) and len(document) > 2 and isinstance(document[2], list):
        yield from (one for one in document[2] if isinstance(one, str))


def _channels_in(path: Path, values: tuple[str, str, int]) -> set[str]:
    with closing(_open(path)) as store:
        found = {str(channel) for (channel,) in store.execute(_SERIES, values)}
        for (body,) in store.execute(_NEWEST, (values[1], _LOOKED_AT)):
            found.update(one for one in _channels(body) if one.startswith(values[0]))
    return found


def _folder(ctx: click.Context) -> Path:
    return Path(ctx.find_root().params.get("folder") or "fleet")


def _place(ctx: click.Context) -> Path | str:
    """Return the fleet's store: a file, or the URL of PostgreSQL. Raises OSError, ValueError."""
    folder = _folder(ctx)
    settings = tomllib.loads((folder / "fleetnet.toml").read_text(encoding="utf-8"))
    store = str(settings.get("store", "fleet.db"))
    return store if "://" in store else (folder / store).absolute()


def _open(path: Path) -> sqlite3.Connection:
    """Open a store file to read. Raises sqlite3.Error."""
    # Not apsw: it takes 60 ms to import. This process opens the file in no other way.
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)


def _ask(
    ctx: click.Context, url: str, sql: str, values: tuple[str | int, ...]
) -> list[tuple[Any, ...]]:
    """Read rows of PostgreSQL. Raises FleetError."""
    from fleetnet_server.store.postgres.reading import Reader
    from fleetnet_server.store_place import postgres_place

    with Reader(postgres_place(url, _folder(ctx))) as reader:
        return reader.read(sql, values)
