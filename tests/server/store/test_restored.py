"""A dump that is restored into another cluster: nothing is missed behind its messages."""

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed")

from fleetnet.frame import READINGS
from fleetnet_server.core.bodies import Message
from fleetnet_server.errors import StoreError
from fleetnet_server.store.outbox import open_outbox
from fleetnet_server.store.postgres.migrations import migrate
from fleetnet_server.store.postgres.store import PostgresStore

if TYPE_CHECKING:
    from server.store.postgres_server import PostgresServer

NOW = 1_800_000_000_000
# What a cluster that had counted for longer leaves in a dump.
_OLDER = """
UPDATE messages SET xid = (xid::text::BIGINT + 4000000000)::text::xid8;
UPDATE bridges SET xid = xid + 4000000000;
UPDATE dropped SET xid = (xid::text::BIGINT + 4000000000)::text::xid8;
"""


def send(store: PostgresStore, *seqs: int) -> None:
    device = store.lookup("cam-1") or store.add_device("cam-1")
    ((epoch,),) = store.read(
        "INSERT INTO epochs(device, epoch) VALUES(?, ?) ON CONFLICT(device, epoch)"
        " DO UPDATE SET epoch = excluded.epoch RETURNING id", (device.id, b"epoch-01"),
    )  # fmt: skip
    body = f'[{NOW},0,["t"],[[0,0,1.5]]]'
    for seq in seqs:
        message = Message(device.id, epoch, 1, seq, READINGS, NOW, NOW, NOW, body)
        assert list(store.commit([message])) == [0]


def test_a_bridge_goes_on_in_another_cluster(postgres: "PostgresServer") -> None:
    place = postgres.database()
    with PostgresStore(place) as store:
        outbox = open_outbox(store, "mqtt")
        at, _gone = outbox.start(1 << 50)
        send(store, 1, 2, 3, 4, 5)
        at, found = outbox.read(at, 3)
        assert [one.seq for one in found] == [1, 2, 3]
        outbox.move(at, 1 << 50, 3, 0)
        outbox.close()
    with postgres.admin(place.database) as connection:
        connection.execute(_OLDER)
    with pytest.raises(StoreError, match="another cluster of PostgreSQL: run `fleetnet store migr"):
        PostgresStore(place)
    migrate(postgres.place(place.database, "fleetnet_owner"))
    with PostgresStore(place) as store:
        send(store, 6)
        outbox = open_outbox(store, "mqtt")
        at, gone = outbox.start(1 << 50)
        at, found = outbox.read(at, 10)
        outbox.close()
    assert [one.seq for one in found] == [4, 5, 6] and not gone
