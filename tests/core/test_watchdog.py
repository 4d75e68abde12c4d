"""The watchdog: fed while the connection lives, starved when nothing comes of it."""

from virtual_port import VirtualPort, run

from fleetnet.errors import LinkError
from fleetnet_device import watchdog


class Wdt:
    def __init__(self):
        self.fed = 0

    def feed(self):
        self.fed += 1


class Spawning:
    """What the part needs of a device: it keeps the task for the test to run."""

    def __init__(self):
        self.work = None

    def spawn(self, work):
        self.work = work


def started(end_ms, start=0):
    port = watchdog.port = VirtualPort(end_ms, start)
    device = Spawning()
    part = watchdog.Part(device)
    wdt = Wdt()
    part.start(30_000, wdt)
    return port, device, part, wdt


def starves(device):
    try:
        run(device.work)
    except LinkError as error:
        return str(error)
    return ""


def test_a_connection_without_progress_starves_it():
    for start in (0, (1 << 30) - 60_000):
        port, device, _, wdt = started(1_000_000, start)
        assert "180 s" in starves(device)
        assert port.now - start == 180_000
        assert wdt.fed == 181


def test_progress_goes_on_feeding():
    port, device, part, wdt = started(400_000)
    sleep = port.sleep_ms

    async def living(ms):
        if port.now % 100_000 == 0:
            part.progress()
        await sleep(ms)

    port.sleep_ms = living
    assert starves(device) == ""
    assert wdt.fed >= 400


def test_a_pause_on_purpose_is_no_fault():
    port, device, part, _ = started(1_000_000)
    part.progress(600_000)
    assert "780 s" in starves(device)
    assert port.now == 780_000


def test_it_is_fed_right_before_the_cryptography():
    _, device, part, wdt = started(1_000)
    before = wdt.fed
    part.progress()
    assert wdt.fed == before + 1
    device.work.close()


def test_a_timeout_below_the_cryptography_is_refused():
    part = watchdog.Part(Spawning())
    try:
        part.start(3_000, Wdt())
    except ValueError as error:
        assert "5000" in str(error)
    else:
        raise AssertionError("a watchdog that bites in every handshake")
