"""Compaction changes no answer: before, between any two steps, and after."""

import json
import os
import random
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetnet.frame import EVENT
from fleetnet_server.store import ordering
from fleetnet_server.store.chunks import MAX_READINGS, Place, decode_untrusted, make_chunks
from fleetnet_server.store.compaction import Compactor
from fleetnet_server.store.following import follow
from fleetnet_server.store.query import query
from fleetnet_server.store.schema import open_readable
from fleetnet_server.store.sqlite import SqliteStore
from server.store.plain_store import NOW, SMALL, PlainStore, flat

VALUES = ("1", "21.50", "-0.0", '"text"', "null", '{"a":[1,"]"]}', '"\\u0007"', "[1, 2]")


def fill(plain: PlainStore, count: int, seed: int = 1) -> None:
    """Messages that overlap, come late, lack a date, or are no readings."""
    draw = random.Random(seed)
    for seq in range(1, count + 1):
        device = draw.choice((1, 2))
        span = draw.choice((1, 1, 5_000, 70_000, 700_000, 20_000_000))
        items = [
            (draw.randrange(2), draw.randint(0, span), draw.choice(VALUES))
            for _item in range(draw.randint(0, 6))
        ]
        boot = draw.choice((0, 0, 0, 7, 8))
        base = 1_000 * seq if boot else NOW + draw.randrange(4_000_000)
        kind = EVENT if draw.random() < 0.1 else 16
        epoch = draw.choice((b"epoch-01", b"epoch-02"))
        plain.put(device, seq, items, base=base, boot=boot, epoch=epoch, kind=kind)


def rows(plain: PlainStore, sql: str) -> list[tuple[object, ...]]:
    connection = open_readable(plain.store.path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


@pytest.fixture
def plain(tmp_path: Path) -> PlainStore:
    return PlainStore(tmp_path / "fleet.db")


def test_every_answer_is_the_same_after_every_step(plain: PlainStore) -> None:
    fill(plain, 60)
    plain.check()
    steps = 0
    while plain.compact(1):
        plain.check()
        steps += 1
    assert steps > 20
    (chunks,) = rows(plain, "SELECT count(*), sum(n) FROM chunks")
    assert chunks[0] and chunks[1]
    # What is left is undated, no reading, or the newest.
    left = rows(plain, "SELECT id FROM messages WHERE kind = 16 AND t0 IS NOT NULL")
    assert left in ([], [(60,)])
    plain.close()


def test_messages_dated_later_are_compacted_then(plain: PlainStore) -> None:
    fill(plain, 60)
    plain.compact()
    held = rows(plain, "SELECT count(*) FROM held")[0][0]
    assert isinstance(held, int) and held > 5
    plain.date(1, 7, 5_000_000)
    plain.check()
    while plain.compact(1):
        plain.check()
    plain.date(2, 7, 9_000_000)
    plain.date(1, 7, 1)  # refined: dates stay
    plain.compact()
    plain.check()
    assert rows(plain, "SELECT count(*) FROM held")[0][0] < held
    plain.close()


def test_duplicates_are_known_without_their_rows(plain: PlainStore) -> None:
    fill(plain, 60)
    marks = [plain.store.watermarks(device, b"epoch-01" + bytes([device])) for device in (1, 2)]
    seen = plain.store.registry.last_message_ms(1)
    sent = list(plain.sent)
    while plain.compact(1):
        assert list(plain.store.commit(sent)) == []
    assert marks == [
        plain.store.watermarks(device, b"epoch-01" + bytes([device])) for device in (1, 2)
    ]
    assert plain.store.registry.last_message_ms(1) == seen == NOW
    plain.check()
    # One that was left out is not a duplicate, although later ones were compacted.
    holes = set(range(1, 61)) - {m.seq for m in sent if m.device_id == 1}
    assert plain.put(1, max(holes), [(0, 0, 1)], epoch=b"epoch-02")
    assert not plain.put(1, max(holes), [(0, 0, 1)], epoch=b"epoch-02")
    plain.compact()
    plain.check()
    plain.close()


def test_ranges_of_known_messages_merge(plain: PlainStore) -> None:
    for seq in range(1, 101):
        plain.put(1, seq, [(0, seq, 1)], kind=EVENT if seq % 5 == 0 else 16)
    plain.compact()
    assert rows(plain, "SELECT first, last FROM known") == [(1, 99)]
    plain.close()


def test_a_quarantined_device_is_kept_back(plain: PlainStore) -> None:
    fill(plain, 30)
    plain.compact()
    plain.store.transact(
        lambda connection: connection.execute("UPDATE devices SET state='quarantined' WHERE id=1")
    )
    assert {one.device for one in query(plain.store.path)} == {"cam-2"}
    assert {row[1] for row in plain.view()} == {"cam-2"}
    plain.close()


def test_a_device_that_was_removed_keeps_its_readings(plain: PlainStore) -> None:
    fill(plain, 40)
    plain.compact(5)
    plain.store.registry.remove("cam-1")
    while plain.compact(1):
        plain.check()
    plain.store.add_device("cam-1")
    assert plain.put(1, 1_000, [(0, 0, 1)])
    plain.compact()
    plain.check()
    plain.close()


def test_a_query_under_way_sees_one_moment(plain: PlainStore) -> None:
    fill(plain, 60)
    expected = [flat(one) for one in query(plain.store.path)]
    found = query(plain.store.path)
    part = [flat(next(found)) for _reading in range(20)]
    plain.compact()
    assert part + [flat(one) for one in found] == expected
    plain.close()


def test_who_follows_meets_what_is_younger_than_the_delay(tmp_path: Path) -> None:
    plain = PlainStore(tmp_path / "fleet.db", SMALL._replace(delay_ms=60_000))
    fill(plain, 30)
    assert plain.compact() == 0
    assert next(follow(plain.store.path, 0)) is not None
    plain.close()


ACTIONS = ("put", "put", "put", "compact", "compact", "date", "resend", "fail", "restart")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_order_of_steps(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain = PlainStore(Path(folder) / "fleet.db")
        places = st.lists(
            st.tuples(
                st.sampled_from((0, 1)),
                st.sampled_from((0, 1, 1, 1000, 5000, 70_000, 800_000, 30_000_000)),
                st.sampled_from(VALUES),
            ),
            max_size=8,
        )
        for _turn in range(data.draw(st.integers(1, 40))):
            action = data.draw(st.sampled_from(ACTIONS))
            if action == "put":
                plain.put(
                    data.draw(st.sampled_from((1, 2))), data.draw(st.integers(1, 30)),
                    data.draw(places), boot=data.draw(st.sampled_from((0, 0, 5))),
                    base=data.draw(st.sampled_from((NOW, NOW + 1000, NOW - 9_000_000))),
                    stream=data.draw(st.sampled_from((3, 4))),
                )  # fmt: skip
            elif action == "compact":
                plain.compact(data.draw(st.integers(1, 6)))
            elif action == "date":
                plain.date(data.draw(st.sampled_from((1, 2))), 5, 3_000)
            elif action == "resend" and plain.sent:
                again = data.draw(st.lists(st.sampled_from(plain.sent), min_size=1, max_size=9))
                assert list(plain.store.commit(again)) == [], "a message was stored twice"
            elif action == "fail":
                plain.fail(data.draw(st.booleans()))
            elif action == "restart":
                plain.compactor.close()
                plain.compactor = Compactor(plain.store, SMALL, lambda: NOW + 1)
        plain.check()
        plain.compact()
        plain.check()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ordering, "_LONG", data.draw(st.integers(0, 9)))
            plain.check()
        plain.close()


def kill_at(path: Path, commit: int, *, is_committed: bool) -> bool:
    """Compact in a child that dies by kill -9 at one commit; False: it was done before that."""
    child = os.fork()
    if child == 0:
        try:
            plain = PlainStore(path)
            left = commit
            transact = plain.store.transact

            def dying(work):  # type: ignore[no-untyped-def]
                nonlocal left
                left -= 1
                if left:
                    return transact(work)
                if is_committed:
                    transact(work)
                else:
                    connection = plain.store._connection()
                    connection.execute("BEGIN IMMEDIATE")
                    work(connection)
                os.kill(os.getpid(), signal.SIGKILL)

            plain.store.transact = dying  # type: ignore[method-assign]
            plain.compact()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("is_committed", [False, True])
def test_kill_at_every_step(tmp_path: Path, is_committed: bool) -> None:
    path = tmp_path / "fleet.db"
    plain = PlainStore(path)
    fill(plain, 40)
    sent, remembered, offsets = plain.sent, plain.rows, plain.offsets
    plain.close()
    kills = 0
    while kill_at(path, 1 if is_committed else 2, is_committed=is_committed):
        kills += 1
        plain = PlainStore(path)
        plain.sent, plain.rows, plain.offsets = sent, remembered, offsets
        plain.check()
        assert list(plain.store.commit(sent)) == []
        assert plain.store._connection().pragma("integrity_check") == "ok"
        plain.close()
        assert kills < 200
    assert kills > 10


def test_store_that_fails_a_step_goes_on_later(plain: PlainStore) -> None:
    fill(plain, 40)
    transact = plain.store.transact
    draw = random.Random(3)

    def failing(work):  # type: ignore[no-untyped-def]
        if draw.random() < 0.5:
            raise OSError("no")
        return transact(work)

    plain.store.transact = failing  # type: ignore[method-assign]
    failed = 0
    for _step in range(300):
        try:
            if not plain.compact(1):
                break
        except OSError:
            failed += 1
    assert failed > 5
    plain.check()
    plain.close()


places_of = st.lists(
    st.tuples(
        st.integers(1, 40), st.integers(0, 9), st.integers(0, 1 << 50), st.sampled_from(VALUES)
    ),
    unique_by=lambda one: one[:2],
    max_size=300,
)


@given(places_of, st.booleans())
def test_chunks_give_back_what_went_in(items: list[tuple[int, int, int, str]], even: bool) -> None:
    readings = [
        Place(seq, place, 1000 * index if even else at, raw.encode())
        for index, (seq, place, at, raw) in enumerate(sorted(items))
    ]
    found = []
    for chunk in make_chunks(readings):
        assert chunk.n <= MAX_READINGS
        decoded = decode_untrusted(
            chunk.t0, chunk.n, chunk.step, chunk.times, chunk.vals, chunk.runs
        )
        assert (min(decoded.times), max(decoded.times)) == (chunk.t0, chunk.t1)
        found += zip(decoded.keys, decoded.times, decoded.values, strict=True)
    assert found == [
        ((one.seq, one.place), one.unix_ms, json.loads(one.raw)) for one in readings
    ]


def test_regular_readings_are_one_run_and_a_step() -> None:
    readings = [Place(9 + index // 4, index % 4 * 3, 50 * index, b"1") for index in range(100)]
    (chunk,) = make_chunks(readings)
    assert (chunk.step, chunk.times, chunk.runs) == (50, None, "[[0,9,4,0,3]]")


def test_numbers_beyond_64_bits_survive(plain: PlainStore, tmp_path: Path) -> None:
    plain.put(1, 1, [(0, 0, "1e999"), (0, 1, "9" * 400), (0, 2, "1")])
    plain.put(1, 2, [(0, 3, "1")])
    before = list(query(plain.store.path))
    plain.compact()
    assert rows(plain, "SELECT sum(n) FROM chunks") == [(3,)]
    assert list(query(plain.store.path)) == before
    plain.close()


def test_a_restarted_server_goes_on_with_the_window(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "fleet.db"):
        pass
    plain = PlainStore(tmp_path / "fleet.db")
    fill(plain, 30)
    plain.compact(2)
    plain.compactor.close()
    plain.compactor = Compactor(plain.store, SMALL, lambda: NOW + 1)
    plain.compact()
    plain.check()
    plain.close()
