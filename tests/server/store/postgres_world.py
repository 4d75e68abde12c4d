"""Stores in PostgreSQL for tests: messages, what is in the tables, and a way that breaks."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fleetnet.frame import READINGS
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.core.ports import Committed
from fleetnet_server.store.postgres.connect import connect
from fleetnet_server.store.postgres.database import PostgresDatabase
from fleetnet_server.store.postgres.store import PostgresStore
from fleetnet_server.store_place import PostgresPlace
from server.store.postgres_server import PostgresServer

# Making a database takes ten times as long as emptying one.
_EMPTY = """
DO $$
DECLARE
    names TEXT;
    name TEXT;
BEGIN
    SET LOCAL session_replication_role = replica;  -- no row of the audit log may go otherwise
    FOR name IN SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'
        AND relname ~ '_[0-9]+$' LOOP
        EXECUTE format('DROP TABLE %I', name);
    END LOOP;
    SELECT string_agg(quote_ident(relname), ', ') INTO names FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
        AND NOT relispartition AND relname NOT IN ('fleetnet_schema', 'dropped', 'feed');
    EXECUTE 'TRUNCATE ' || names || ' RESTART IDENTITY CASCADE';
    UPDATE dropped SET xid = '0', id = 0;
    UPDATE feed SET pruned = 0;
END $$
"""

NOW = 1_800_000_000_000
EPOCH = b"epoch-01"


class Node:
    """One node, and the sessions that it began."""

    def __init__(self, place: PostgresPlace, name: str = "one"):
        self.store = PostgresStore(place, node=name)
        self.epochs: dict[tuple[int, bytes], int] = {}

    def begin(self, device: int = 1, epoch: bytes = EPOCH) -> dict[int, int]:
        """Begin a session; return the marks."""
        start = self.store.begin_now(device, epoch)
        self.epochs[device, epoch] = start.epoch_id
        return start.marks

    def make(
        self, seq: int, body: bytes, kind: int = READINGS, stream: int = 3, device: int = 1,
        epoch: bytes = EPOCH,
    ) -> Message:  # fmt: skip
        """Make a message as the router does."""
        found = inspect_body(kind, body, lambda boot: self.store.boot_offset(device, boot), NOW)
        number = self.epochs[device, epoch]
        t0, t1, problem, kept = found
        return Message(device, number, stream, seq, kind, t0, t1, NOW, kept, problem)

    def reading(self, seq: int, stream: int = 3, device: int = 1) -> Message:
        """Make a message of one reading, whose value is its number."""
        return self.make(
            seq, b'[%d,0,["t"],[[0,0,%d]]]' % (NOW + seq, seq), stream=stream, device=device
        )

    def commit(self, batch: Sequence[Message]) -> list[int]:
        """Commit; return what was new. Nothing may be lost."""
        found = self.store.commit(batch)
        assert not isinstance(found, Committed), f"lost {found.lost}"
        return list(found)

    def close(self) -> None:
        self.store.close()


def empty(server: PostgresServer, place: PostgresPlace) -> PostgresPlace:
    """Make a database as it was when it was migrated."""
    with server.admin(place.database) as connection:
        connection.execute(_EMPTY)
    return place


def cut(database: PostgresDatabase, like: str) -> None:
    """End the other connections whose last statement was such a one, as a network does."""
    database.read(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE ?",
        (like,),
    )


def rows(place: PostgresPlace, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """Ask the database."""
    with contextlib.closing(connect(place)) as connection:
        found: list[tuple[Any, ...]] = connection.execute(sql, values or None).fetchall()
        return found


def stored(place: PostgresPlace) -> list[tuple[Any, ...]]:
    """Return (epoch, stream, seq) of each message, and see that its readings are there once."""
    readings = rows(place, "SELECT epoch, stream, seq FROM readings ORDER BY 1, 2, 3")
    dated = rows(
        place,
        "SELECT epoch, stream, seq FROM messages WHERE t0 IS NOT NULL AND kind = 16"
        " AND problem IS NULL ORDER BY 1, 2, 3",
    )
    assert sorted(set(readings)) == sorted(set(dated))
    return rows(place, "SELECT epoch, stream, seq FROM messages ORDER BY 1, 2, 3")


class Way:
    """A way to the server that breaks at a COMMIT, when it is told to.

    Attributes:
        cut: "before": the server never hears of the COMMIT; "behind": only its answer is lost;
            "held": nor does it hear that the client is gone.
    """

    def __init__(self, place: PostgresPlace, server: Path, folder: Path):
        self._target = str(server / ".s.PGSQL.5432")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / ".s.PGSQL.5432"))
        self._listening.listen()
        self.place = place._replace(url=place.url.replace(str(server), str(folder)))
        self.cut: str | None = None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if b"COMMIT" in data and self.cut is not None:
                    cut, self.cut = self.cut, None
                    self.cuts += 1
                    # The client sees its end first: it never reads an answer.
                    client.shutdown(socket.SHUT_RDWR)
                    if cut == "held":
                        return
                    if cut == "behind":
                        server.sendall(data)
                    break
                server.sendall(data)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        client.close()
        server.close()


@contextlib.contextmanager
def opened(*nodes: Node) -> Iterator[None]:
    """Close nodes in the end."""
    try:
        yield
    finally:
        for node in nodes:
            node.close()
