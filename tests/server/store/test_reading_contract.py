"""What is read of a store is the same whatever the store is (KINDS of two_stores.py)."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest

from fleetnet_server.errors import StoreError
from fleetnet_server.sim.comparing import compare
from fleetnet_server.store.blobs import find_blob, list_blobs
from fleetnet_server.store.logs import logs
from fleetnet_server.store.query import query
from fleetnet_server.store.selection import Selection, device_names, select
from fleetnet_server.store.summaries import has_sums, stored, summarize, summarize_all
from fleetnet_server.store.views import Views
from server.store.reading_world import HOUR, NOW, World, fill
from server.store.two_stores import KINDS, new_place

Ask = Callable[[World, Views], Any]


@pytest.fixture(scope="module")
def worlds(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[World, Views]]]:
    folder = tmp_path_factory.mktemp("fleet")
    made = {}
    for kind in KINDS:
        world = World(new_place(kind, request, folder), folder)
        fill(world)
        made[kind] = (world, Views(folder, world.store))
    yield made
    for world, views in made.values():
        views.close()
        world.close()


def exactly(value: Any) -> Any:
    """Tell 1 from 1.0 and from true, and 0.0 from -0.0."""
    return repr(value)


def everything(ask: Callable[..., Any], **more: Any) -> Ask:
    return lambda world, views: list(ask(world.place, **more))


def chosen(*parts: Any) -> Ask:
    return lambda world, views: list(select(world.place, Selection(*parts)))


def steps(selection: Selection, step_ms: int) -> Ask:
    def ask(world: World, views: Views) -> Any:
        # Of 0.0 and -0.0 either is the lowest.
        return [
            (*one[:4], one.low + 0.0, one.high + 0.0, float(f"{one.mean:.12g}") + 0.0)
            for one in summarize_all(world.place, selection, step_ms)
        ]

    return ask


def pages(ask: Callable[..., Any], limit: int) -> Ask:
    """Ask page after page, each behind the last; return all of them with their positions."""

    def all_pages(world: World, views: Views) -> Any:
        found, at = [], None
        for _page in range(1000):
            rows, at = ask(views, at, limit)
            found.append((rows, at))
            if at is None:
                break
        return found

    return all_pages


def readings(device: str | None, channel: str | None) -> Callable[..., Any]:
    return lambda views, at, limit: views.readings(
        device, channel, NOW - HOUR, NOW + 12 * HOUR, limit, None if at is None else tuple(at)
    )


def curves(start_ms: int, end_ms: int, points: int) -> Ask:
    def ask(world: World, views: Views) -> Any:
        found = views.history.curves("cam-1", start_ms, end_ms, points)
        for channel in found["channels"]:
            for point in channel["points"]:
                point[1:] = [float(f"{number:.12g}") + 0.0 for number in point[1:]]
        return found

    return ask


ASKED: dict[str, Ask] = {
    "all": everything(query),
    "device": everything(query, device="cam-1"),
    "channel": everything(query, channel="t"),
    "one series": everything(query, device="cam-1", channel="odd"),
    "no channel": everything(query, device="cam-1", channel="none"),
    "since": everything(query, start_ms=NOW + HOUR),
    "between": everything(query, start_ms=NOW + HOUR, end_ms=NOW + 5 * HOUR),
    "one series between": everything(
        query, device="cam-2", channel="h", start_ms=NOW + HOUR, end_ms=NOW + 9 * HOUR
    ),
    "an instant": everything(query, start_ms=NOW - 3000, end_ms=NOW - 3000),
    "limit": everything(query, limit=17),
    "limit of one series": everything(query, device="cam-1", channel="odd", limit=5),
    "pattern": chosen(("cam-*",), ("t", "d*")),
    "named devices": chosen(("cam-2", "cam-1", "hall"), ()),
    "quarantined": chosen(("hall",), ()),
    "range": chosen((), (), NOW + HOUR, NOW + 4 * HOUR),
    "no time": chosen((), (), NOW, NOW),
    "by the hour": steps(Selection(), HOUR),
    "by the minute": steps(Selection(("cam-1",), ("t",), NOW - HOUR, NOW + 3 * HOUR), 60_000),
    "by 7 s": steps(Selection((), (), NOW + 3_000, NOW + 2 * HOUR), 7_000),
    "by the day": steps(Selection((), ()), 24 * HOUR),
    "of one": lambda world, views: summarize(
        world.place, "cam-2", "kept", NOW - 9 * HOUR, NOW + HOUR, HOUR
    ),
    "stored": lambda world, views: list(stored(world.place, Selection())),
    "stored in a range": lambda world, views: list(
        stored(world.place, Selection(("cam-1",), (), NOW - 90 * 60_000, NOW + 90_000))
    ),
    "has sums": lambda world, views: [
        has_sums(world.place, each)
        for each in (
            Selection(), Selection(("cam-2",), ("h",)), Selection((), ("kept",)),
            Selection((), (), NOW + 9 * HOUR), Selection((), (), None, NOW - 9 * HOUR),
        )
    ],
    "names": lambda world, views: device_names(world.place, ("cam-*", "hall")),
    "compared": lambda world, views: compare(
        world.place, [["cam-1", 1, 7, [(6, 7)], 0, 0], ["nobody", 1, 3, [], 0, 0]], NOW
    ),
    "logs": everything(logs),
    "logs of one": everything(logs, device="cam-2"),
    "logs since": everything(logs, start_ms=NOW + 30),
    "logs, some": everything(logs, limit=3),
    "curves": curves(NOW, NOW + 10 * HOUR, 40),
    "curves with sums": curves(NOW - 4 * HOUR, NOW + HOUR, 7),
    "curves to a sum": curves(NOW - HOUR, NOW + 65_000, 9),
    "curves to within a sum": curves(NOW - HOUR, NOW + 100_000, 9),
    "curves of no time": curves(NOW, NOW, 7),
    "curves of nothing": curves(NOW - 900 * HOUR, NOW - 800 * HOUR, 7),
    "alarms": pages(lambda views, at, limit: views.history.alarms(None, at, limit), 3),
    "alarms of one": pages(lambda views, at, limit: views.history.alarms("cam-2", at, limit), 1),
    "what text cannot be": lambda world, views: [
        views.device("no\0body"), views.blobs("no\0body", "x\0", None, 3),
    ],
    "alarms of nobody": pages(lambda views, at, limit: views.history.alarms("no", at, limit), 1),
    "log lines": pages(lambda views, at, limit: views.history.log("cam-2", at, limit), 2),
    "readings, 7 a page": pages(readings(None, None), 7),
    "readings of one": pages(readings("cam-1", None), 50),
    "summaries": pages(
        lambda views, at, limit: views.summaries(
            "cam-1", "t", at[0] if at else NOW - HOUR, NOW + 9 * HOUR, 60_000, limit
        ), 100,
    ),
    "devices": lambda world, views: [
        [{key: value for key, value in row.items() if key != "created_ms"} for row in rows]
        for rows, _at in (views.devices(), views.devices("cam-1", 1), views.devices(state="x"))
    ],
    "listed": lambda world, views: [one._replace(created_ms=0) for one in views.overview.devices()],
    "last messages": lambda world, views: [views.overview.last_ms(number) for number in range(5)],
    "states": lambda world, views: sorted(views.device_states().items()),
    "audit": pages(
        lambda views, at, limit: (
            [
                {key: value for key, value in row.items() if key != "at_ms"}
                for row in views.audit(None, None, at[0] if at else None, limit)[0]
            ],
            views.audit(None, None, at[0] if at else None, limit)[1],
        ), 2,
    ),
}  # fmt: skip


EMPTY = ("what text cannot be", "no channel", "no time", "quarantined", "alarms of nobody")


@pytest.mark.parametrize("asked", ASKED)
def test_same_answer(worlds: dict[str, tuple[World, Views]], asked: str) -> None:
    first, *others = KINDS
    expected = exactly(ASKED[asked](*worlds[first]))
    for kind in others:
        assert exactly(ASKED[asked](*worlds[kind])) == expected, kind
    assert len(expected) > 20 or asked in EMPTY


def test_a_channel_in_pages(worlds: dict[str, tuple[World, Views]]) -> None:
    """Positions count other readings on SQLite alone; what is on the pages is the same."""
    found = {
        kind: [rows for rows, _at in pages(readings("cam-2", "h"), 3)(*world)]
        for kind, world in worlds.items()
    }
    first, *others = KINDS
    for kind in others:
        assert exactly(found[kind]) == exactly(found[first]), kind
    assert len(found[first]) > 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "ask",
    [
        lambda place: list(query(place, "nobody")),
        lambda place: list(query(place, "no\0body")),
        lambda place: list(logs(place, "no\0body")),
        lambda place: list(select(place, Selection(("nobody",)))),
        lambda place: list(select(place, Selection(("no-*",)))),
        lambda place: device_names(place, ("cam-1", "nobody")),
        lambda place: list(logs(place, "nobody")),
        lambda place: list(summarize_all(place, Selection(("nobody",)), 1000)),
        lambda place: find_blob(place, 1),
    ],
)
def test_what_is_not_there(
    worlds: dict[str, tuple[World, Views]], kind: str, ask: Callable[..., Any]
) -> None:
    with pytest.raises(StoreError, match=r"is not registered|no device fits|no blob 1"):
        ask(worlds[kind][0].place)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_nobody_reads_to_its_end(
    worlds: dict[str, tuple[World, Views]], kind: str
) -> None:
    world, _views = worlds[kind]
    found = query(world.place)
    assert len(list(islice(found, 3))) == 3
    found.close()  # type: ignore[attr-defined]
    assert list_blobs(world.place) == []

