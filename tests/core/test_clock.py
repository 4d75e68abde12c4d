"""The device's clock: own time, the server's, or the uptime of a numbered boot."""

import sys

from virtual_port import run

from fleetnet.ticks import PERIOD
from fleetnet_device.clock import Clock
from fleetnet_device.unset_clock import assume_floor, is_pinned


class Runtime:
    """What Clock asks of ports: a tick counter that wraps, a wall clock, chance."""

    def __init__(self, ticks=0, wall_ms=0, chance=b"\0\0\0\7"):
        self.now = ticks
        self.wall_ms = wall_ms
        self._chance = chance

    def ticks(self):
        return self.now & (PERIOD - 1)

    def unix_ms(self):
        return self.wall_ms

    def random_bytes(self, n):
        assert n == len(self._chance)
        return self._chance


def test_without_a_clock_readings_carry_uptime_and_boot():
    runtime = Runtime()
    clock = Clock(runtime)
    runtime.now = 1234
    assert clock.stamp() == (1234, 7)


def test_a_boot_number_is_never_zero_and_stays_small():
    assert Clock(Runtime(chance=b"\0\0\0\0")).boot == 1
    assert Clock(Runtime(chance=b"\xff\xff\xff\xff")).boot == 0x3FFFFFFF


def test_uptime_survives_the_wrap_of_ticks():
    runtime = Runtime(PERIOD - 100)
    clock = Clock(runtime)
    for _ in range(5):
        runtime.now += PERIOD // 2 - 1
        clock.unix_ms()
    assert clock.uptime_ms() == 5 * (PERIOD // 2 - 1)


def test_the_server_tells_the_time():
    runtime = Runtime()
    clock = Clock(runtime)
    runtime.now = 5_000
    clock.learn(1_700_000_000_000, 0)
    runtime.now = 5_250
    assert clock.stamp() == (1_700_000_000_250, 0)
    clock.learn(0, 0)  # a server without a clock
    assert clock.stamp() == (1_700_000_000_250, 0)


def test_a_good_clock_is_kept_and_a_bad_one_corrected():
    runtime = Runtime(wall_ms=1_700_000_000_000)
    clock = Clock(runtime)
    clock.learn(1_700_000_001_500, 0)
    assert clock.stamp() == (1_700_000_000_000, 0)
    clock.learn(1_700_000_009_000, 0)
    assert clock.stamp() == (1_700_000_009_000, 0)


def test_a_word_that_was_long_on_its_way_does_not_set_a_good_clock_back():
    for wall_ms in (1_700_000_000_000, 0):
        runtime = Runtime(wall_ms=wall_ms)
        clock = Clock(runtime)
        clock.learn(1_700_000_000_000, 0)
        for moment, is_right in ((-2_001, False), (-2_000, True), (7_000, True), (7_001, False)):
            before = clock.stamp()
            clock.learn(before[0] - moment, 5_000)
            assert (clock.stamp() == before) is is_right, moment


def test_a_clock_that_jumps_by_years_is_not_believed():
    for jump_ms in (10 * 365 * 86_400_000, -3 * 365 * 86_400_000):
        port = Runtime(wall_ms=1_800_000_000_000)
        clock = Clock(port, 1_600_000_000_000)
        clock.learn(1_800_000_000_500, 0)
        assert clock.stamp() == (1_800_000_000_000, 0)
        port.wall_ms += jump_ms
        port.now += 1000
        assert clock.own_ms() == 0, "certificates are not judged by it"
        assert clock.stamp() == (1000, 7), "the back-end dates the reading"
        port.wall_ms -= jump_ms  # somebody set it right
        assert clock.stamp() == (1_800_000_000_000, 0)


def test_a_board_whose_clock_jumped_connects_by_what_the_server_said():
    class Board:
        pass

    sys.modules["machine"] = Machine
    try:
        Rtc.sets = []
        port = Runtime(wall_ms=1_800_000_000_000)
        board = Board()
        board.clock = Clock(port, 1_790_000_000_000)
        board.clock.learn(1_800_000_000_500, 0)
        port.wall_ms = 2_100_000_000_000
        run(is_pinned(board))
        assert [fields[0] for fields in Rtc.sets] == [2027], "not the bundle's date, nor pins"
    finally:
        del sys.modules["machine"]


def test_a_clock_before_its_bundle_is_not_believed():
    floor = 1_790_000_000_000
    port = Runtime(wall_ms=floor - 1)
    clock = Clock(port, floor)
    assert clock.own_ms() == 0 and clock.unix_ms() == 0
    assert clock.stamp()[1] == clock.boot
    port.wall_ms = floor
    assert clock.own_ms() == floor and clock.stamp() == (floor, 0)


def test_server_time_is_known_apart_from_the_own():
    port = Runtime(wall_ms=1_800_000_000_000)
    clock = Clock(port)
    assert clock.server_ms() == 0
    clock.learn(1_800_000_001_500, 0)  # within 2 s: our clock stays, the server's is known
    assert clock.unix_ms() == 1_800_000_000_000
    assert clock.server_ms() == 1_800_000_001_500
    port.now += 250
    assert clock.server_ms() == 1_800_000_001_750


class Rtc:
    """In place of machine.RTC, which no unix port has."""

    sets = []

    def datetime(self, fields):
        Rtc.sets.append(fields)


class Machine:
    RTC = Rtc


def test_the_board_clock_is_set_once_the_server_has_spoken():
    sys.modules["machine"] = Machine
    try:
        Rtc.sets = []
        port = Runtime()
        clock = Clock(port, 1_790_000_000_000)
        assert assume_floor(clock) and len(Rtc.sets) == 1
        clock.learn(1_800_000_000_000, 0)
        assert Rtc.sets[-1][:7] == (2027, 1, 15, 4, 8, 0, 0), Rtc.sets
        port.wall_ms = 1_800_000_000_000
        clock.learn(1_800_000_000_900, 0)
        assert len(Rtc.sets) == 2, "a clock that is right is left alone"
        assert not assume_floor(clock)
    finally:
        del sys.modules["machine"]
