"""A store of either kind, as its tables see it: what they do has to be the same on both."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from fleetnet_server.core.ports import SessionAbout
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store_place import StorePlace

KINDS = ("sqlite", "postgres")


def new_place(kind: str, request: pytest.FixtureRequest, folder: Path) -> StorePlace:
    """Make a store of one of KINDS; return where it is."""
    if kind == "sqlite":
        path = folder / "fleet.db"
        SqliteStore(path).close()
        return path
    place: StorePlace = request.getfixturevalue("postgres").database()
    return place


@contextmanager
def fresh_store(request: pytest.FixtureRequest, folder: Path) -> Iterator[Any]:
    """Open a store without anything in it, of the kind that ``request.param`` says."""
    place = new_place(request.param, request, folder)
    if isinstance(place, Path):
        with SqliteStore(place) as store:
            yield store
        return
    from fleetnet_server.store.postgres.store import PostgresStore

    try:
        with PostgresStore(place, node="test", replica=False) as store:
            yield store
    finally:
        request.getfixturevalue("postgres").drop(place)


def begin(store: Any, device_id: int, epoch: bytes) -> int:
    """Begin a session of a device; return the number of its epoch."""
    about = SessionAbout("tls", "", "")
    if isinstance(store, SqliteStore):
        return store.begin(device_id, epoch, about).epoch_id
    number: int = store.begin_now(device_id, epoch, about).epoch_id
    return number


@contextmanager
def unavailable(store: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """Meanwhile nothing can be written: the file is locked, the server is dead."""
    if isinstance(store, SqliteStore):
        blocker = apsw.Connection(str(store.path))
        blocker.execute("BEGIN IMMEDIATE")
        yield
        blocker.execute("ROLLBACK")
        blocker.close()
        return
    server = request.getfixturevalue("postgres")
    server.kill()
    try:
        yield
    finally:
        server.start()
