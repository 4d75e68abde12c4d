"""The device's clock: own time, the server's, or the uptime of a numbered boot."""

from fleetnet.ticks import PERIOD
from fleetnet_device.clock import Clock


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
    clock.learn(1_700_000_000_000)
    runtime.now = 5_250
    assert clock.stamp() == (1_700_000_000_250, 0)
    clock.learn(0)  # a server without a clock
    assert clock.stamp() == (1_700_000_000_250, 0)


def test_a_good_clock_is_kept_and_a_bad_one_corrected():
    runtime = Runtime(wall_ms=1_700_000_000_000)
    clock = Clock(runtime)
    clock.learn(1_700_000_001_500)
    assert clock.stamp() == (1_700_000_000_000, 0)
    clock.learn(1_700_000_009_000)
    assert clock.stamp() == (1_700_000_009_000, 0)
