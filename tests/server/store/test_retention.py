"""Retention: what is kept as what, for how long, and that every number counts once."""

from pathlib import Path

import apsw
import pytest

from fleetnet_server.errors import ConfigError
from fleetnet_server.store.history import History
from fleetnet_server.store.lifetimes import BlobRule, Lifetimes, Rule, load_lifetimes
from fleetnet_server.store.query import query
from fleetnet_server.store.retention import HOUR_MS, MINUTE_MS, Retention
from fleetnet_server.store.schema import open_readable
from fleetnet_server.store.selection import Selection
from fleetnet_server.store.summaries import Summary, has_sums, stored, summarize, summarize_all
from interpreters import ROOT
from server.store.plain_store import NOW, PlainStore

DAY_MS = 24 * HOUR_MS
BASE = NOW - NOW % DAY_MS
RULES = """
[[rule]]
channel = "t"
raw = "1d"
minutes = "2d"
hours = "3d"
[messages]
keep = "2d"
"""


class World:
    def __init__(self, folder: Path, text: str = RULES):
        (folder / "retention.toml").write_text(text)
        self.plain = PlainStore(folder / "fleet.db")
        self.path = self.plain.store.path
        self.now = BASE
        self.retention = Retention(self.plain.store, folder, lambda: self.now)
        self._seq = 0

    def put(self, base: int, *values: str, channel: int = 0, apart: int = 1000) -> None:
        self._seq += 1
        items = [(channel, apart * index, value) for index, value in enumerate(values)]
        self.plain.put(1, self._seq, items, base=base)

    def run(self, now: int) -> None:
        self.put(BASE + 10 * DAY_MS, "0", channel=1)  # the newest row is never moved
        self.plain.compact()
        self.now = now
        self.retention._due = 0.0
        self.retention.step()
        while self.retention.step():
            pass

    def rollups(self) -> list[tuple[object, ...]]:
        connection = open_readable(self.path)
        try:
            return connection.execute(
                "SELECT step, t, n, other, low, high, total FROM rollups ORDER BY step, t"
            ).fetchall()
        finally:
            connection.close()

    def raw(self) -> list[object]:
        return [one.value for one in query(self.path, "cam-1", "t")]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_raw_becomes_minutes_then_hours_then_nothing(world: World) -> None:
    world.put(BASE + 100, "1", "2.5", "-3", '"text"', "true", apart=1)
    world.put(BASE + 70_000, "10")
    world.put(BASE + 70_000, "7", channel=1)  # no rule: for ever
    world.run(BASE + DAY_MS)
    assert len(world.raw()) == 6
    world.run(BASE + DAY_MS + 80_000)
    assert world.raw() == []
    minutes = [(MINUTE_MS, BASE, 3, 2, -3, 2.5, 0.5), (MINUTE_MS, BASE + 60_000, 1, 0, 10, 10, 10)]
    assert world.rollups() == minutes
    world.run(BASE + 2 * DAY_MS)
    assert world.rollups() == minutes
    world.run(BASE + 2 * DAY_MS + 3 * MINUTE_MS)
    assert world.rollups() == [(HOUR_MS, BASE, 4, 2, -3, 10, 10.5)]
    world.run(BASE + 3 * DAY_MS + HOUR_MS + 1)
    assert world.rollups() == []
    assert 7 in [one.value for one in query(world.path, "cam-1", "h")]
    world.plain.close()


def test_late_readings_are_added_to_their_minute(world: World) -> None:
    world.put(BASE, "1", "3")
    world.run(BASE + DAY_MS + 80_000)
    world.put(BASE + 5_000, "-8")
    world.put(BASE + 6_000, "null")
    world.run(BASE + DAY_MS + 80_000)
    assert world.rollups() == [(MINUTE_MS, BASE, 3, 1, -8, 3, -4)]
    world.plain.close()


def test_a_step_that_fails_sums_nothing_up_twice(world: World) -> None:
    for second in range(0, 600, 20):
        world.put(BASE + second * 1000, str(second))
    world.plain.compact()
    transact = world.plain.store.transact
    fails = iter([True, False, True, True] + [False] * 100)

    def failing(work):  # type: ignore[no-untyped-def]
        def broken(connection):  # type: ignore[no-untyped-def]
            work(connection)
            if next(fails):
                raise OSError("no")

        return transact(broken)

    world.plain.store.transact = failing  # type: ignore[method-assign]
    world.now = BASE + DAY_MS + 900_000
    for _step in range(40):
        try:
            world.retention.step()
        except OSError:
            continue
    assert sum(row[2] for row in world.rollups()) + len(world.raw()) == 30  # type: ignore[misc]
    assert len(world.raw()) <= 1
    world.plain.close()


def test_summaries_join_what_was_summed_up_and_what_was_not(world: World) -> None:
    for minute in range(120):
        world.put(BASE + minute * MINUTE_MS, str(minute), '"x"')
    world.run(BASE + DAY_MS + 20 * MINUTE_MS)
    assert 0 < len(world.raw()) < 240
    found = summarize(world.path, "cam-1", "t", BASE, BASE + 2 * HOUR_MS, HOUR_MS)
    assert found == [
        Summary(BASE, 60, 0, 59, 29.5),
        Summary(BASE + HOUR_MS, 60, 60, 119, 89.5),
    ]
    world.plain.close()


def test_curves_join_what_was_summed_up_and_what_was_not(world: World) -> None:
    for minute in range(120):
        world.put(BASE + minute * MINUTE_MS, str(minute), '"x"')
    world.run(BASE + DAY_MS + 20 * MINUTE_MS)
    history = History(world.plain.store, world.path)
    found = history.curves("cam-1", BASE, BASE + 2 * HOUR_MS, 2)
    (curve,) = found["channels"]
    assert curve["points"] == [
        [BASE + HOUR_MS // 2, 0, 29.5, 59], [BASE + 3 * HOUR_MS // 2, 60, 89.5, 119],
    ]  # fmt: skip
    assert curve["value"] == "x"
    world.run(BASE + 2 * DAY_MS + 3 * HOUR_MS)
    assert world.raw() == []
    (curve,) = history.curves("cam-1", BASE + HOUR_MS, BASE + 3 * HOUR_MS, 300)["channels"]
    assert [point[1:] for point in curve["points"]] == [[60, 89.5, 119]]
    assert (curve["count"], curve["value"]) == (60, 89.5)
    world.plain.close()


def test_a_sum_that_reaches_into_the_range_is_stored_there(world: World) -> None:
    world.put(BASE, "1", '"x"')
    world.put(BASE + HOUR_MS, "3")
    inside = Selection(("cam-1",), ("t",), BASE + HOUR_MS + 30_000, BASE + 2 * HOUR_MS)
    assert not has_sums(world.path, inside)
    world.run(BASE + 2 * DAY_MS + 3 * HOUR_MS)
    found = [one.unix_ms for one in stored(world.path, inside)]
    assert found == [BASE + HOUR_MS] and has_sums(world.path, inside)
    assert not has_sums(world.path, Selection(("cam-1",), ("t",), BASE + 2 * HOUR_MS))
    assert not has_sums(world.path, Selection(("cam-1",), ("h",)))
    world.plain.close()


def test_summaries_of_many_series_stream_in_order_of_time(world: World) -> None:
    for minute in range(180):
        world.put(BASE + minute * MINUTE_MS, str(minute))
        world.put(BASE + minute * MINUTE_MS, "5", "null", channel=1)
        world.plain.put(2, minute + 1, [(0, 0, "7")], base=BASE + minute * MINUTE_MS)
    world.run(BASE + DAY_MS + 65 * MINUTE_MS)
    found = [
        (one.unix_ms - BASE, one.device, one.channel, one.count, one.low, one.high)
        for one in summarize_all(world.path, Selection(("cam-*",), end_ms=BASE + DAY_MS), HOUR_MS)
    ]
    assert found == [
        (hour * HOUR_MS, device, channel, 60, *((low + 60 * hour, low + 60 * hour + 59)
         if (device, channel) == ("cam-1", "t") else (low, low)))
        for hour in range(3)
        for device, channel, low in (("cam-1", "h", 5), ("cam-1", "t", 0), ("cam-2", "t", 7))
    ]  # fmt: skip
    assert len(world.raw()) < 180, "some of it was summed up"
    world.plain.close()


def test_old_messages_of_other_kinds_go_and_stay_known(world: World) -> None:
    world.put(BASE, "1")
    world.plain.put(1, 900, [], kind=0x12, base=BASE, stream=4)
    sent = list(world.plain.sent)
    world.run(NOW + 2 * DAY_MS)
    kinds = "SELECT count(*) FROM messages WHERE kind != 16"
    assert next(world.plain.store._connection().execute(kinds))[0] == 1
    world.run(NOW + 2 * DAY_MS + 1)
    assert next(world.plain.store._connection().execute(kinds))[0] == 0
    assert list(world.plain.store.commit(sent)) == []
    world.plain.close()


def test_without_a_file_everything_stays(tmp_path: Path) -> None:
    assert load_lifetimes(tmp_path) == Lifetimes()
    world = World(tmp_path, "")
    world.put(1, "1")
    world.run(BASE + 10_000 * DAY_MS)
    assert world.raw() == [1]
    world.plain.close()


def test_a_broken_file_ends_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, '[[rule]]\nraw = "1d"\nminute = "2d"\n')
    world.put(1, "1")
    world.run(BASE + 10_000 * DAY_MS)
    assert world.raw() == [1]
    assert "minute" in str(world.retention.error)
    world.plain.close()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[[rules]]", "unknown key 'rules'"),
        ('[[rule]]\nraw = "1w"', "write 45m"),
        ('[[rule]]\nraw = 5', "write 45m"),
        ('[[rule]]\nminutes = "1d"', "raw is missing"),
        ('[[rule]]\nraw = "2d"\nhours = "1d"', "each beyond the last"),
        ('[[rule]]\nraw = "2d"\nchannel = 5', "pattern"),
        ("rule = 5", r"\[\[rule\]\]"),
        ("rule = [5]", r"\[\[rule\]\]"),
        ("[messages]\nkept = 1", "unknown key 'kept'"),
        ("[blobs]\nal = 1", "unknown key 'al'"),
        ('[blobs]\nall = "5"', "write 500M"),
        ('[blobs]\nall = "0G"', "write 500M"),
        ("[blobs]\nrule = 5", r"\[\[blobs.rule\]\]"),
        ("[blobs]\nrule = [5]", r"\[\[blobs.rule\]\]"),
        ("[[blobs.rule]]", "device = "),
        ('[[blobs.rule]]\nkeep = "1w"', "write 45m"),
        ('[[blobs.rule]]\nkeep = "1d"\ngroup = 5', "pattern"),
        ("blobs = 5", r"\[blobs\]"),
        ("=", "cannot be read"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "retention.toml").write_text(text)
    with pytest.raises(ConfigError, match=match):
        load_lifetimes(tmp_path)


def test_the_file_in_the_documentation_is_one(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "store.md").read_text(encoding="utf-8")
    (tmp_path / "retention.toml").write_text(text.partition("```toml\n")[2].partition("```")[0])
    assert load_lifetimes(tmp_path) == Lifetimes(
        (Rule(30 * DAY_MS, 365 * DAY_MS, 1825 * DAY_MS, "sensors", "temp*"),),
        90 * DAY_MS,
        (BlobRule(2 << 30, 30 * DAY_MS, "cam*"),),
        200 << 30,
    )


def test_the_first_rule_that_fits_counts(tmp_path: Path) -> None:
    (tmp_path / "retention.toml").write_text(
        '[[rule]]\ngroup = "cam*"\nraw = "90m"\n[[rule]]\nchannel = "t*"\nraw = "2h"\nhours="5d"\n'
    )
    lifetimes = load_lifetimes(tmp_path)
    assert lifetimes.rule("cams", "t") == Rule(90 * MINUTE_MS, group="cam*")
    assert lifetimes.rule("x", "temp") == Rule(
        2 * HOUR_MS, hours_ms=5 * DAY_MS, channel="t*"
    )
    assert lifetimes.rule("x", "hum") is None


def test_sums_beyond_every_number_end_nothing_but_themselves(world: World) -> None:
    """Infinity less infinity is no number: such a sum ended retention of the whole fleet."""
    world.put(BASE, "1e308", "1e308")
    world.put(BASE + MINUTE_MS, "-1e308", "-1e308")
    ((_at, count, low, high, mean),) = summarize(
        world.path, "cam-1", "t", BASE, BASE + HOUR_MS, HOUR_MS
    )
    assert (count, low, high) == (4, -1e308, 1e308)
    assert abs(mean) < 1e308
    world.run(BASE + DAY_MS + HOUR_MS)
    assert all(abs(row[-1]) < 1.8e308 for row in world.rollups())  # type: ignore[arg-type]
    world.run(BASE + 2 * DAY_MS + 2 * HOUR_MS)
    assert [row[:4] for row in world.rollups()] == [(HOUR_MS, BASE, 4, 0)]
    ((_at, count, _low, _high, mean),) = summarize(
        world.path, "cam-1", "t", BASE, BASE + HOUR_MS, HOUR_MS
    )
    assert count == 4
    assert abs(mean) < 1e308


def test_one_damaged_series_does_not_keep_the_others(world: World) -> None:
    world.put(BASE, "1")
    world.put(BASE, "2", channel=1)
    world.plain.put(2, 1, [(0, 0, "3")], base=BASE)
    world.run(BASE)
    world.plain.store.transact(
        lambda connection: connection.execute("UPDATE chunks SET runs = '[]' WHERE series = 1")
    )
    world.now = BASE + DAY_MS + MINUTE_MS
    world.retention._due = 0.0
    steps = 0
    for _step in range(20):
        try:
            steps += bool(world.retention.step())
        except ValueError:
            pass
    assert [one.value for one in query(world.path, "cam-2", "t")] == []


def test_what_came_while_the_clock_was_ahead_does_not_keep_what_came_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleetnet_server.store.retention._ROWS_A_STEP", 1)
    for seq in (1, 2, 3):
        world.plain.put(2, seq, [], kind=0x12, stream=4)
    ahead = (NOW + 100 * DAY_MS,)
    world.plain.store.transact(
        lambda connection: connection.execute(
            "UPDATE messages SET received = ? WHERE seq = 1", ahead
        )
    )
    world.run(NOW + 3 * DAY_MS)
    left = world.plain.store.read("SELECT received FROM messages WHERE kind != 16")
    assert left == [ahead]
    world.plain.close()


def test_summaries_of_many_series_keep_no_statement_for_each(world: World) -> None:
    """Each open statement pins pages: of 6,000 series it took 35 s, quadratically more of more."""

    def fill(connection: apsw.Connection) -> None:
        numbers = range(100, 2100)
        connection.executemany(
            "INSERT INTO series VALUES(?, 1, ?, 0)", [(one, f"c{one}") for one in numbers]
        )
        connection.executemany(
            "INSERT INTO rollups VALUES(?, 60000, ?, 1, 0, 1, 1, 1)",
            [(one, BASE + at * MINUTE_MS) for one in numbers for at in range(20)],
        )

    world.plain.store.transact(fill)
    before = apsw.status(apsw.SQLITE_STATUS_MEMORY_USED)[0]
    found = summarize_all(world.path, Selection(), HOUR_MS)
    first = next(found)
    used = apsw.status(apsw.SQLITE_STATUS_MEMORY_USED)[0] - before
    assert (first.count, first.mean) == (20, 1)
    assert sum(one.count for one in found) == 1999 * 20
    assert used < 20 << 20, "memory of SQLite"
    world.plain.close()
