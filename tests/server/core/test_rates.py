"""Token buckets: exact over any time, and bounded whatever comes."""

import random

from fleetnet_server.core.rates import RateTable


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_then_the_rate() -> None:
    clock = Clock()
    table = RateTable(2.0, 5, clock=clock)
    assert [table.take("a") for _ in range(7)] == [True] * 5 + [False] * 2
    assert table.wait_s("a") == 0.5 and table.refused == 2
    clock.now += 0.5
    assert table.wait_s("a") == 0.0
    assert [table.take("a") for _ in range(2)] == [True, False]
    clock.now += 100.0
    assert [table.take("a") for _ in range(6)] == [True] * 5 + [False]


def test_keys_do_not_feel_each_other() -> None:
    table = RateTable(1.0, 1, clock=Clock())
    assert table.take("a") and not table.take("a")
    assert table.take("b")


def test_over_a_long_time_nobody_gets_more_than_the_rate() -> None:
    clock, dice = Clock(), random.Random(5)
    table = RateTable(3.0, 10, clock=clock)
    taken = 0
    for _ in range(20_000):
        clock.now += dice.expovariate(20.0)
        taken += table.take("a")
    assert 0.99 < taken / (10 + 3.0 * (clock.now - 1000.0)) <= 1.0


def test_a_flood_of_keys_stays_in_the_table_and_buys_nothing() -> None:
    clock = Clock()
    table = RateTable(1.0, 2, most=100, clock=clock)
    assert sum(table.take(number) for number in range(5_000)) == 100 + 2
    assert len(table) == 101 and table.crowded == 4_900
    # Whoever was there before keeps a bucket of its own.
    assert table.take(0)
    clock.now += 3.0
    assert table.take("new") and len(table) <= 101


def test_another_rate_holds_from_now_on() -> None:
    clock = Clock()
    table = RateTable(1.0, 1, clock=clock)
    table.take("a")
    table.use(10.0, 1)
    clock.now += 1.0
    assert table.take("a") and not table.take("a")
    clock.now += 0.1
    assert table.take("a")
