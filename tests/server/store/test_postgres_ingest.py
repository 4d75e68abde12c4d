"""PostgresStore: exactly once, gaps, dating, answers, as SqliteStore; on a real server."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetnet.frame import CONFIG_STATE, EVENT, RAW, RESULT
from fleetnet.raw import encode_raw
from fleetnet.readings import encode_event
from fleetnet_server.core.relay_ports import Relayed
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.postgres.expanding import expand
from fleetnet_server.store.query import decode_value
from fleetnet_server.store_place import PostgresPlace
from server.store.postgres_server import PATIENCE_S, PostgresServer
from server.store.postgres_world import EPOCH, NOW, Node, Way, rows, stored


@pytest.fixture
def node(place: PostgresPlace) -> Iterator[Node]:
    made = Node(place)
    made.store.add_device("cam-1")
    made.store.add_device("hub-1")
    made.begin()
    yield made
    made.close()


def assign(place: PostgresPlace) -> None:
    """Let cam-1 come by hub-1: what is at a hub may come late."""
    rows(place, "INSERT INTO hubs(hub, device, assigned_ms) VALUES(2, 1, 0) RETURNING 1")


def numbers(place: PostgresPlace) -> list[int]:
    return [seq for _epoch, _stream, seq in stored(place)]


def test_commit_tells_new_from_known(node: Node, place: PostgresPlace) -> None:
    assert node.commit([node.reading(seq) for seq in (1, 2, 3)]) == [0, 1, 2]
    mixed = [node.reading(seq) for seq in (3, 4, 2, 5, 4)]
    assert node.commit(mixed) == [1, 3]
    assert node.commit(mixed) == []
    assert numbers(place) == [1, 2, 3, 4, 5]
    assert len(rows(place, "SELECT 1 FROM readings")) == 5


def test_a_restarted_node_knows_what_is_stored(node: Node, place: PostgresPlace) -> None:
    node.commit([node.reading(seq) for seq in (1, 2)])
    node.close()
    again = Node(place, "two")
    assert again.begin() == {3: 2}
    assert again.commit([again.reading(2), again.reading(3)]) == [1]
    again.close()
    assert numbers(place) == [1, 2, 3]


def test_what_comes_late_below_the_watermark_is_stored_once(
    node: Node, place: PostgresPlace
) -> None:
    """A sensor left its hub, which still holds messages of it (docs/hub.md)."""
    assign(place)
    for seq in (1, 2, 3, 6, 7, 8):
        assert node.commit([node.reading(seq)]) == [0]
    assert node.begin() == {3: 8}
    assert node.commit([node.reading(seq) for seq in (4, 4, 3, 8)]) == [0]
    assert rows(place, "SELECT first, last FROM holes") == [(5, 5)]
    assert node.commit([node.reading(seq) for seq in (5, 4, 5)]) == [0]
    assert node.commit([node.reading(seq) for seq in range(1, 9)]) == []
    assert numbers(place) == list(range(1, 9))
    assert rows(place, "SELECT * FROM holes") == []


def test_a_gap_counts_as_stored_and_hides_no_message_on_its_way(
    node: Node, place: PostgresPlace
) -> None:
    epoch = node.epochs[1, EPOCH]
    node.commit([node.reading(1)])
    node.store.note_gap(1, epoch, 3, 4, 6)  # while 2 and 3 wait for a later commit
    assert node.store.has_deferred
    node.commit([])
    assert not node.store.has_deferred
    assert node.begin() == {3: 6}
    assert node.commit([node.reading(seq) for seq in (2, 3, 5, 7)]) == [0, 1, 3]
    assert rows(place, "SELECT device, stream, first, last FROM gaps") == [(1, 3, 4, 6)]
    assert rows(place, "SELECT * FROM holes") == []


def test_a_gap_over_a_hole_gives_its_messages_up(node: Node, place: PostgresPlace) -> None:
    assign(place)
    node.commit([node.reading(1), node.reading(9)])
    node.store.note_gap(1, node.epochs[1, EPOCH], 3, 3, 6)
    node.commit([])
    assert rows(place, "SELECT first, last FROM holes ORDER BY 1") == [(2, 2), (7, 8)]


def test_numbers_of_fragments_leave_no_rows(node: Node, place: PostgresPlace) -> None:
    """A message in fragments has one number that is stored; nothing comes late without a hub."""
    for seq in (4, 8, 12):
        assert node.commit([node.reading(seq)]) == [0]
    assert node.commit([node.reading(seq) for seq in (15, 18, 18, 4, 9)]) == [0, 1]
    assert rows(place, "SELECT * FROM holes") == []
    assert node.begin() == {3: 18}
    node.store.note_gap(1, node.epochs[1, EPOCH], 3, 21, 22)  # 19 and 20 are on their way
    node.commit([])
    assert rows(place, "SELECT first, last FROM holes") == [(19, 20)]
    assert node.commit([node.reading(seq) for seq in (19, 20, 25)]) == [0, 1, 2]
    assert rows(place, "SELECT * FROM holes") == []
    assign(place)
    assert node.commit([node.reading(27)]) == [0]
    assert rows(place, "SELECT first, last FROM holes") == [(26, 26)]


def test_bodies_are_kept_as_received(node: Node, place: PostgresPlace) -> None:
    text = b'[1700000000000, 0, ["t"], [[0, 0, 1.50]]]'
    raw = encode_raw("cam", b"\x00\xff\x00", NOW)
    bad = b'[1,0,["t"],[[5,0,"\xff"]]]'
    node.commit([node.make(1, text), node.make(2, raw, RAW), node.make(3, bad)])
    kept = rows(place, "SELECT body, problem IS NULL FROM messages ORDER BY seq")
    assert kept == [(text, True), (raw, True), (bad, False)]
    assert rows(place, "SELECT number, value FROM readings") == [(1.5, None)]


VALUES = (
    "1", "-3", "1.5", "21.0", "-0.0", "1e2", "9007199254740993", "18446744073709551616",
    "1e300", "1e999", '"text"', '"a\\u0000b"', "true", "null", "[1,[2.0]]",
    '{"a":"\\ud83d\\ude00"}', "9" * 400,
)  # fmt: skip


def as_read(number: float | None, value: str | None) -> Any:
    """What a row means (schema_readings.py)."""
    if value is not None:
        return decode_value(value)
    assert number is not None
    return int(number) if number.is_integer() else number


def test_every_value_comes_back_as_the_same_json(node: Node, place: PostgresPlace) -> None:
    bodies = [f'[{NOW},0,["t"],[[0,0,{value}]]]'.encode() for value in VALUES]
    every = list(range(len(VALUES)))
    assert node.commit([node.make(seq, body) for seq, body in enumerate(bodies, 1)]) == every
    read = rows(place, "SELECT number, value FROM readings ORDER BY seq")
    found = [as_read(*row) for row in read]
    wanted = [decode_value(value) for value in VALUES]
    assert list(map(repr, found)) == list(map(repr, wanted))


def test_no_text_of_a_device_stops_the_others(node: Node, place: PostgresPlace) -> None:
    """PostgreSQL's text has no NUL; a commit that fails for ever would stop the fleet."""
    channel = node.make(1, b'[%d,0,["a\\u0000b"],[[0,0,1]]]' % NOW)
    answer = node.make(2, b'["a\\u0000b","ok",1]', RESULT)
    event = node.make(3, b'[%d,0,"a\\u0000b",1]' % NOW, EVENT)
    assert channel.problem is answer.problem is event.problem is None
    strange = node.reading(4)._replace(problem="a\0b\udcff", t0=NOW, t1=NOW)
    assert node.commit([channel, answer, event, strange, node.reading(5)]) == [0, 1, 2, 3, 4]
    assert rows(place, "SELECT channel FROM series ORDER BY 1") == [("a\u2400b",), ("t",)]


def test_set_boot_dates_what_waits(node: Node, place: PostgresPlace) -> None:
    waiting = node.make(1, b'[100,7,["t"],[[0,30,1],[0,20,2]]]')
    picture = node.make(2, encode_raw("cam", b"x", 50, boot=7), RAW)
    other = node.make(3, b'[100,8,["t"],[[0,30,1]]]')
    assert waiting.t0 is None and expand(waiting) is None
    node.commit([waiting, picture])
    node.store.set_boot(1, 7, 1_000)
    assert node.store.boot_offset(1, 7) == 1_000 and node.store.boot_offset(1, 8) is None
    node.commit([other])
    dated = "SELECT t0, t1 FROM messages ORDER BY seq"
    assert rows(place, dated) == [(1_120, 1_130), (1_050, 1_050), (None, None)]
    # Inspected before the offset was known, committed behind it; and an offset that is refined.
    node.store.set_boot(1, 7, 5_000)
    node.commit([waiting._replace(seq=4)])
    assert rows(place, dated)[0] == (1_120, 1_130)
    assert rows(place, dated)[3] == (5_120, 5_130)
    readings = rows(place, "SELECT seq, place, t, number FROM readings ORDER BY 1, 2")
    assert readings[:2] == [(1, 0, 1_130, 1.0), (1, 1, 1_120, 2.0)]
    assert len(readings) == 4


def test_a_new_session_knows_the_boots(node: Node, place: PostgresPlace) -> None:
    node.store.set_boot(1, 7, 1_000)
    node.close()  # writes what is deferred
    again = Node(place, "two")
    again.begin()
    assert again.store.boot_offset(1, 7) == 1_000
    again.close()


def test_many_that_wait_are_dated_page_by_page(node: Node, place: PostgresPlace) -> None:
    bodies = [b'[%d,7,["t"],[[0,0,1]]]' % seq for seq in range(1, 1203)]
    node.commit([node.make(seq, body) for seq, body in enumerate(bodies, 1)])
    assert rows(place, "SELECT count(*) FROM readings") == [(0,)]
    node.store.set_boot(1, 7, 1_000)
    node.commit([])
    found = rows(place, "SELECT count(*), min(t), max(t) FROM readings")
    assert found == [(1202, 1_001, 2_202)]
    assert rows(place, "SELECT count(*) FROM messages WHERE t0 IS NULL") == [(0,)]


def test_answers_end_commands_and_configurations(node: Node, place: PostgresPlace) -> None:
    def work(connection: Any) -> None:
        connection.execute(
            "INSERT INTO commands(id, device, name, args, created_ms, expires_ms)"
            " VALUES('c1', 1, 'blink', '[]', 1, 2)"
        )
        connection.execute(
            "INSERT INTO configs(device, edit, version, document, set_ms) VALUES(1, 1, 1, '{}', 1)"
        )

    node.store.transact(work)
    answers = [
        node.make(1, b'["c1","ok",{"n":1}]', RESULT),
        node.make(2, b'[1,"applied",{"rate":5}]', CONFIG_STATE),
    ]
    assert node.commit(answers) == [0, 1]
    assert node.commit(answers) == []
    assert node.store.read("SELECT state, result, ended_ms FROM commands") == [
        ("ok", '{"n":1}', NOW)
    ]
    assert node.store.read("SELECT state, reported FROM configs") == [("applied", '{"rate":5}')]


def test_a_hubs_number_moves_with_what_it_carried(node: Node, place: PostgresPlace) -> None:
    node.begin(2, b"hub-boot")
    hub = node.epochs[2, b"hub-boot"]
    batch = []
    for seq in (1, 2):
        message = Relayed(*node.reading(seq))
        message.carrier, message.hub = (hub, 4, 10 + seq), 2
        batch.append(message)
    assert node.commit(batch) == [0, 1]
    assert node.begin(2, b"hub-boot") == {4: 12}
    assert node.commit([*batch, node.reading(2), node.reading(3)]) == [3]


def test_audit_rows_are_written_once(node: Node, place: PostgresPlace) -> None:
    assert node.store.defer_audit((NOW, "server", "device-seen", "cam-1", '{"a": 1}'))
    node.commit([node.reading(1)])
    node.commit([node.reading(2)])
    found = rows(place, "SELECT at_ms, actor, device FROM audit WHERE action = 'device-seen'")
    assert found == [(NOW, "server", "cam-1")]


def test_a_commit_that_fails_stores_nothing_and_keeps_what_waited(
    node: Node, place: PostgresPlace, postgres: PostgresServer
) -> None:
    node.store.set_boot(1, 7, 1_000)
    with postgres.admin(place.database) as admin:
        admin.execute("ALTER TABLE readings RENAME TO hidden")
        with pytest.raises(Exception, match="readings"):
            node.store.commit([node.reading(1)])
        assert admin.execute("SELECT count(*) FROM messages").fetchone() == (0,)
        admin.execute("ALTER TABLE hidden RENAME TO readings")
    assert node.store.has_deferred
    assert node.commit([node.reading(1)]) == [0]
    assert numbers(place) == [1]
    assert rows(place, "SELECT offset_ms FROM boots") == [(1_000,)]


@pytest.mark.parametrize("cut", ["before", "behind", "held"])
def test_a_commit_whose_answer_is_lost_is_stored_once(
    cut: str, node: Node, place: PostgresPlace, postgres: PostgresServer, tmp_path: Path
) -> None:
    node.close()
    way = Way(place, postgres.folder, tmp_path)
    far = Node(way.place, "far")
    far.begin()
    far.commit([far.reading(1)])
    far.store.defer_audit((NOW, "server", "device-seen", "cam-1", "{}"))
    batch = [far.reading(2), far.reading(3)]
    way.cut = cut
    with pytest.raises(StoreUnavailable):
        far.store.commit(batch)
    assert way.cuts == 1
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:  # the server's side of the old connection has to end first
        try:
            assert far.commit(batch) == [0, 1], "what came of it has to be handed on"
            break
        except StoreUnavailable:
            time.sleep(0.01)
    far.close()
    way.close()
    assert numbers(place) == [1, 2, 3]
    assert rows(place, "SELECT count(*) FROM audit WHERE action = 'device-seen'") == [(1,)]


def test_what_waited_is_written_once_when_its_batch_is_given_up(
    node: Node, place: PostgresPlace, postgres: PostgresServer, tmp_path: Path
) -> None:
    node.close()
    way = Way(place, postgres.folder, tmp_path)
    far = Node(way.place, "far")
    far.begin()
    epoch = far.epochs[1, EPOCH]
    assert far.store.defer_audit((NOW, "server", "device-seen", "cam-1", "{}"))
    far.store.note_gap(1, epoch, 9, 1, 4)
    way.cut = "behind"
    with pytest.raises(StoreUnavailable):
        far.store.commit([far.reading(1)])
    assert far.store.defer_audit((NOW + 1, "server", "device-seen", "cam-1", "{}"))
    far.store.note_gap(1, epoch, 9, 5, 7)  # of one with the gap that is stored by now
    until = time.monotonic() + PATIENCE_S
    while far.store.has_deferred and time.monotonic() < until:
        try:
            far.commit([])
        except StoreUnavailable:
            time.sleep(0.01)
    far.close()
    way.close()
    found = rows(place, "SELECT at_ms FROM audit WHERE action = 'device-seen' ORDER BY 1")
    assert found == [(NOW,), (NOW + 1,)]
    assert rows(place, "SELECT max(last) FROM gaps WHERE stream = 9") == [(7,)]


def test_an_event_is_no_reading(node: Node, place: PostgresPlace) -> None:
    node.commit([node.make(1, encode_event("door", True, NOW), EVENT)])
    assert rows(place, "SELECT kind, t0 FROM messages") == [(EVENT, NOW)]
    assert rows(place, "SELECT count(*) FROM readings") == [(0,)]
