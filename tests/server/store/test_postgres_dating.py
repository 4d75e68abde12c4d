"""Messages without a date: a commit dates some, housekeeping the rest, each once; a real server."""

import threading
from collections.abc import Iterator

import pytest

from fleetnet.frame import RAW
from fleetnet.raw import encode_raw
from fleetnet_server.errors import StoreError
from fleetnet_server.store.postgres import backlog, dating
from fleetnet_server.store.postgres.backlog import Backlog
from fleetnet_server.store.postgres.copy_side import PgSide
from fleetnet_server.store.postgres.selecting import query
from fleetnet_server.store_place import PostgresPlace
from server.store.postgres_server import PATIENCE_S
from server.store.postgres_world import NOW, Node, rows

WAITING = "SELECT count(*) FROM messages WHERE t0 IS NULL"
TIMES = "SELECT seq, t FROM readings ORDER BY 1"


@pytest.fixture
def node(place: PostgresPlace) -> Iterator[Node]:
    made = Node(place)
    made.store.add_device("cam-1")
    made.store.add_device("cam-2")
    made.begin()
    made.begin(2)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dating, "PAGE", 10)
    monkeypatch.setattr(backlog, "PAGE", 10)
    monkeypatch.setattr(dating, "MOST_DATED", 20)


def undated(node: Node, seq: int, boot: int = 7, device: int = 1) -> None:
    body = b'[%d,%d,["t"],[[0,0,%d]]]' % (seq, boot, seq)
    assert node.commit([node.make(seq, body, device=device)]) == [0]


def fill(node: Node, count: int, boot: int = 7) -> None:
    batch = [
        node.make(seq, b'[%d,%d,["t"],[[0,0,1]]]' % (seq, boot)) for seq in range(1, count + 1)
    ]
    assert len(node.commit(batch)) == count


def run(work: Backlog) -> int:
    steps = 0
    while work.step():
        steps += 1
        assert steps < 100
    work.close()
    return steps


def test_a_commit_dates_some_and_housekeeping_the_rest(node: Node, place: PostgresPlace) -> None:
    fill(node, 55)
    node.store.set_boot(1, 7, NOW)
    node.commit([])
    assert rows(place, WAITING) == [(35,)]
    shown = list(query(place, "cam-1", None, 0, 1 << 62, True, None))
    assert len(shown) == 55, "each is shown, dated or not"
    assert [one.unix_ms is None for one in shown].count(True) == 35
    with pytest.raises(StoreError, match="not written yet"):
        PgSide(place)  # a copy would never date them
    node.store.set_boot(1, 7, NOW + 999)  # refines what comes from now on
    node.commit([node.make(60, b'[60,7,["t"],[[0,0,1]]]')])
    assert run(Backlog(place)) == 4
    assert rows(place, WAITING) == [(0,)]
    expected = [(seq, NOW + seq) for seq in range(1, 56)] + [(60, NOW + 999 + 60)]
    assert rows(place, TIMES) == expected, "each once, with the boot's first offset"
    assert rows(place, "SELECT * FROM dating") == []
    assert run(Backlog(place)) == 0


def test_a_backlog_of_another_boot_is_not_read(node: Node, place: PostgresPlace) -> None:
    fill(node, 50)  # of a boot that never comes
    undated(node, 61, boot=8)
    undated(node, 62, boot=8)
    node.commit([node.make(63, encode_raw("cam", b"x", 5, 8), RAW)])
    node.store.set_boot(1, 8, NOW)
    node.store.set_boot(1, 9, NOW)
    node.commit([])
    assert rows(place, TIMES) == [(61, NOW + 61), (62, NOW + 62)]
    assert rows(place, "SELECT seq FROM messages WHERE t0 = %s", NOW + 5) == [(63,)]
    assert rows(place, "SELECT * FROM dating") == [], "nothing of these boots is left"


def test_two_leaders_date_each_message_once(node: Node, place: PostgresPlace) -> None:
    fill(node, 100)
    undated(node, 1, device=2)
    node.store.set_boot(1, 7, NOW)
    node.store.set_boot(2, 7, NOW)
    node.commit([])
    works = [threading.Thread(target=run, args=(Backlog(place),)) for _ in range(2)]
    for work in works:
        work.start()
    for work in works:
        work.join(PATIENCE_S)
    run(Backlog(place))  # whoever met the other's lock had nothing to do
    assert rows(place, WAITING) == [(0,)]
    assert rows(place, "SELECT count(*), count(DISTINCT (epoch, seq)) FROM readings") == [
        (101, 101)
    ]
