"""A standby takes the place of the database, without what was committed last."""

import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed")

from fleetnet_server.store.postgres import replica as replica_module
from fleetnet_server.store.postgres.connect import connect
from fleetnet_server.store.postgres.database import PostgresDatabase
from fleetnet_server.store.postgres.replica import Replica
from fleetnet_server.store.postgres.store import PostgresStore
from fleetnet_server.store_place import PostgresPlace
from server.store.postgres_server import (
    PATIENCE_S,
    PostgresServer,
    skip_without_postgres,
    wait_until,
)


def test_a_standby_that_lacked_the_last_changes_is_loaded_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The numbers of changes went on meanwhile: only the history of the log says it."""
    server = PostgresServer(skip_without_postgres())
    try:
        place = server.database()
        data, standby = server.folder / "data", server.folder / "standby"
        _add(place, "cam-1")
        server.stop()
        subprocess.run(["cp", "-a", data, standby], check=True)
        server.start()
        may_connect = threading.Event()
        may_connect.set()

        def later(*args: Any) -> Any:
            assert may_connect.wait(PATIENCE_S)
            return connect(*args)

        monkeypatch.setattr(replica_module, "connect", later)
        replica = Replica(place)
        replica.start()
        try:
            _add(place, "lost")
            wait_until(lambda: len(replica.read("SELECT 1 FROM devices")) == 2, "both")
            may_connect.clear()
            server.kill()
            _promote(data, standby)
            server.start()
            wait_until(lambda: _is_primary(server), "the standby is promoted")
            number = 0
            while _add(place, f"new-{number}") < replica.applied:
                number += 1
            may_connect.set()
            wait_until(lambda: replica.loads >= 2, "a load")
            with PostgresDatabase(place) as database:
                names = "SELECT id, name FROM devices ORDER BY id"
                assert replica.read(names) == database.read(names)
            assert replica.read("SELECT 1 FROM devices WHERE name = 'lost'") == []
        finally:
            may_connect.set()
            replica.close()
    finally:
        server.close()


def _add(place: PostgresPlace, name: str) -> int:
    """Add a device; return the number of the newest change."""
    with PostgresStore(place) as store:
        store.add_device(name)
        return int(store.read("SELECT max(id) FROM changes")[0][0])


def _is_primary(server: PostgresServer) -> bool:
    with server.admin() as connection:
        found: tuple[bool] = connection.execute("SELECT NOT pg_is_in_recovery()").fetchone()
        return found[0]


def _promote(data: Path, standby: Path) -> None:
    data.rename(data.with_name("old primary"))
    standby.rename(data)
    with (data / "postgresql.conf").open("a") as file:
        file.write("\nrestore_command = 'false'\n")
    subprocess.run(["cp", "-a", data / "PG_VERSION", data / "recovery.signal"], check=True)
