"""The sampler's grid: no drift, no bursts, no end by a bad sample."""

from virtual_port import VirtualPort, run

from fleetnet_device import sampler

PERIOD_MS = 100
REAL = sampler.port


class Recording:
    """What a sampler needs of a device."""

    def __init__(self, port):
        self.port = port
        self.times = []
        self.reports = []

    async def send(self, channel, value):
        self.times.append(self.port.now)

    def report(self, error, where):
        self.reports.append((where, str(error)))


def sampled(read, end_ms, start=0):
    """Run a sampler for ``end_ms``; return (device, sampler)."""
    port = sampler.port = VirtualPort(end_ms, start)
    device = Recording(port)
    made = sampler.Sampler(device, PERIOD_MS, lambda: read(port))
    try:
        run(made.run())
    finally:
        sampler.port = REAL
    return device, made


def test_samples_that_take_time_do_not_drift():
    def read(port):
        port.pass_ms(37)
        return {"a": 1}

    device, made = sampled(read, 2_000)
    assert device.times == [37 + PERIOD_MS * i for i in range(len(device.times))]
    assert made.taken == len(device.times) == 20 and made.missed == 0


def test_grid_crosses_the_wrap_of_ticks():
    start = (1 << 30) - 450
    device, _ = sampled(lambda port: {"a": 1}, 1_000, start)
    assert device.times == [start + PERIOD_MS * i for i in range(10)]


def test_late_samples_are_left_out_and_counted():
    def read(port):
        port.pass_ms(350 if port.now == 300 else 0)
        return {"a": 1}

    device, made = sampled(read, 1_000)
    # 300 took until 650: 400, 500 and 600 have passed; 700 is the next one.
    assert device.times == [0, 100, 200, 650, 650, 700, 800, 900]
    assert (made.taken, made.missed) == (8, 2)


def test_a_sample_that_fails_costs_one_sample():
    def read(port):
        if port.now == 200:
            raise ValueError("sensor is gone")
        return None if port.now == 300 else {"a": 1, "b": 2}

    device, made = sampled(read, 500)
    assert device.reports == [("sampler", "sensor is gone")]
    assert device.times == [0, 0, 100, 100, 400, 400] and made.taken == 3


def test_a_coroutine_is_awaited():
    async def read(port):
        return {"a": port.now}

    device, made = sampled(read, 300)
    assert device.times == [0, 100, 200] and made.taken == 3


def test_period_is_checked():
    for wrong in (0, -5, 86_400_001):
        try:
            sampler.Sampler(None, wrong, None)
        except ValueError as error:
            assert str(wrong) in str(error)
        else:
            raise AssertionError(wrong)
