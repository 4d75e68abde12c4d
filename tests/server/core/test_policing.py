"""Buckets, forbidden messages, and two devices with one identity: decisions without a network."""

from fleetnet.frame import CONFIG_STATE, EVENT, LOG, OPTIONAL, RAW, READINGS
from fleetnet_server.core.bodies import POLICY
from fleetnet_server.core.duplicates import Duplicates
from fleetnet_server.core.policing import Bucket, inspect_restricted
from fleetnet_server.identity.policy import Names, Rules

NOW = 1_800_000_000_000
ONE = Rules(channels=Names(["temp*"]), max_message=200)


def inspect(kind: int, body: bytes, rules: Rules = ONE) -> str | None:
    return inspect_restricted(rules, kind, body, lambda boot: None, NOW).problem


def readings(*channels: str) -> bytes:
    names = ",".join(f'"{name}"' for name in channels)
    return f"[{NOW},0,[{names}],[[0,0,1]]]".encode()


def test_channels() -> None:
    raw = b"\x00\x05tempr\x01\x00data"
    assert inspect(READINGS, readings("temperature")) is None
    assert inspect(RAW, raw) is None
    assert inspect(EVENT, f'[{NOW},0,"temp_high",true]'.encode()) is None
    assert inspect(LOG, f'[{NOW},0,[[0,"info","door"]]]'.encode()) is None
    for kind, body, name in (
        (READINGS, readings("door"), "door"),
        (READINGS | OPTIONAL, readings("temp", "Temp"), "Temp"),
        (RAW, raw.replace(b"tempr", b"doors"), "doors"),
        (EVENT, f'[{NOW},0,"door",true]'.encode(), "door"),
    ):
        problem = inspect(kind, body)
        assert problem == f"{POLICY}channel {name!r} is not allowed to its group", (kind, body)
    found = inspect_restricted(ONE, READINGS, readings("door"), lambda boot: None, NOW)
    assert (found.t0, found.t1, found.body) == (NOW, NOW, readings("door"))


def test_sizes() -> None:
    body = readings(*["temp" + "x" * 50 for _ in range(4)])
    assert len(body) > 200
    problem = inspect(READINGS, body)
    assert problem is not None
    assert problem.startswith(POLICY)
    assert "200 B" in problem
    assert inspect(READINGS, body, Rules(max_message=len(body))) is None
    # What the server asked for is not what a device says by itself.
    state = b'[1,"applied","' + b"x" * 300 + b'"]'
    assert inspect(CONFIG_STATE, state) is None


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_holds_its_rate_over_any_longer_time() -> None:
    clock = Clock()
    bucket = Bucket(10.0, clock)
    sent = 0
    while clock.now < 100:
        if bucket.wait_s() <= 0:
            for _ in range(5):  # what is under way comes although the bucket is empty
                sent += 1
                if not bucket.take():
                    break
        clock.now += 0.01
    assert 990 <= sent <= 1010 + bucket.size


def test_a_slow_bucket_takes_one_and_waits() -> None:
    clock = Clock()
    bucket = Bucket(0.1, clock)
    assert not bucket.take()
    assert bucket.wait_s() == 10.0
    clock.now += 9.0
    assert 0 < bucket.wait_s() <= 1.001
    clock.now += 1.001
    assert bucket.wait_s() == 0.0
    assert bucket.refill() == 1.0


def test_a_boot_that_returns_gives_two_devices_away() -> None:
    duplicates = Duplicates()
    assert not duplicates.replaces(1, 11, 22)  # a device that was restarted, or another one
    assert duplicates.replaces(1, 22, 11)  # the first is back, and the second lived
    assert duplicates.replaces(1, 11, 22)
    assert not duplicates.replaces(2, 22, 11)


def test_restarts_and_reconnects_are_no_alarm() -> None:
    duplicates = Duplicates()
    assert not any(duplicates.replaces(1, boot, boot + 1) for boot in range(1, 100))
    assert not any(duplicates.replaces(1, 100, 100) for _ in range(10))  # another network
    assert not any(duplicates.replaces(1, 0, 7) or duplicates.replaces(1, 7, 0) for _ in range(3))
    assert not duplicates.replaces(1, 200, 201)
    duplicates.ended(1)  # the successor went before the first came back
    assert not duplicates.replaces(1, 201, 200)
    assert len(duplicates._replaced[1]) <= 8
