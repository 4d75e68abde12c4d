"""The comparison with the store finds what is lost and what is twice."""

from pathlib import Path

import pytest

from fleetnet.frame import READINGS
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.sim.comparing import Comparison, compare
from fleetnet_server.store.sqlite import SqliteStore

NOW = 1_800_000_000_000
BASE = NOW * 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store where sim-00001 sent 0 to 9 of this run, and 5 of an earlier one."""
    found = tmp_path / "fleet.db"
    with SqliteStore(found) as store:
        store.add_device("sim-00001")
        for seq, number in enumerate([BASE - 5000, *range(BASE, BASE + 10)], 1):
            put(store, seq, number)
    return found


def put(store: SqliteStore, seq: int, number: int) -> None:
    body = f'[{NOW},0,["count"],[[0,{seq},{number}]]]'.encode()
    t0, t1, problem, kept = inspect_body(READINGS, body, lambda boot: None, NOW)
    epoch = store.epoch_id(1, b"epoch-01")
    store.commit([Message(1, epoch, 3, seq, READINGS, t0, t1, NOW, kept, problem)])


def account(
    behind: int = 10, erased: object = (), dropped: int = 0, waiting: int = 0
) -> list[list[object]]:
    left = list(erased)  # type: ignore[call-overload]
    return [["sim-00001", BASE, BASE + behind, left, dropped, waiting]]


def test_a_whole_run(path: Path) -> None:
    assert compare(path, account(), NOW) == Comparison(10, 0, 0, 0)


def test_what_is_missing_is_lost(path: Path) -> None:
    assert compare(path, account(behind=13), NOW).lost == 3


def test_what_the_device_gave_up_is_not_lost(path: Path) -> None:
    assert compare(path, account(behind=13, dropped=2), NOW).lost == 1


def test_what_the_device_still_has_is_not_lost(path: Path) -> None:
    assert compare(path, account(behind=13, waiting=2), NOW).lost == 1
    never = [["sim-00002", BASE, BASE + 4, [], 0, 4]]
    assert compare(path, never, NOW) == Comparison(0, 0, 0, 0)


def test_what_a_loss_of_power_erased_may_be_there_or_not(path: Path) -> None:
    erased = [(BASE + 8, BASE + 12)]
    assert compare(path, account(behind=12, erased=erased), NOW) == Comparison(10, 0, 0, 2)


def test_what_is_there_twice_is_counted(path: Path) -> None:
    with SqliteStore(path) as store:
        put(store, 100, BASE + 3)
        put(store, 101, BASE + 3)
    assert compare(path, account(), NOW).twice == 2


def test_a_device_that_never_came_has_nothing(path: Path) -> None:
    assert compare(path, [["sim-00002", BASE, BASE + 4, [], 0, 0]], NOW) == Comparison(0, 4, 0, 0)
