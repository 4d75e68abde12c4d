"""The pauses between a device's connections: within limits, growing, paid back, obeyed."""

import random

from fleetnet_device.backoff import Backoff

BASE_MS, CAP_MS = 500, 60_000


def seeded() -> Backoff:
    return Backoff(random.Random(7).randbytes)


def mean_of_last_pauses(lasted_ms: int) -> float:
    """The 100 pauses behind the first 50 of a device whose every session lasts so long."""
    backoff = seeded()
    return sum([backoff.after(lasted_ms) for _ in range(150)][50:]) / 100


def test_pauses_stay_within_their_limits() -> None:
    backoff = seeded()
    pauses = [backoff.after(0) for _ in range(2_000)]
    assert pauses[0] < 3 * BASE_MS
    assert min(pauses) >= BASE_MS
    assert max(pauses) == CAP_MS
    assert len(set(pauses)) > 100


def test_kicked_device_stays_away_longer_than_one_that_worked() -> None:
    assert mean_of_last_pauses(lasted_ms=0) > 10_000
    assert mean_of_last_pauses(lasted_ms=50) > 10_000
    assert mean_of_last_pauses(lasted_ms=10_000) < 3 * BASE_MS
    assert mean_of_last_pauses(lasted_ms=30_000) < 3 * BASE_MS


def test_longest_pause_is_forgotten_after_half_a_minute_online() -> None:
    backoff = seeded()
    while backoff.after(0) < CAP_MS:
        pass
    assert backoff.after(30_000) < 3 * BASE_MS


def test_wish_of_the_server_is_obeyed_and_spread() -> None:
    backoff = seeded()
    pauses = [backoff.after(60_000, retry_after_ms=20_000) for _ in range(200)]
    assert min(pauses) >= 20_000
    assert max(pauses) <= 25_000
    assert max(pauses) - min(pauses) > 4_000


def test_refused_device_looks_rarely() -> None:
    backoff = seeded()
    assert backoff.after(0, refused=2) >= CAP_MS
    assert backoff.after(0) < CAP_MS


def test_the_first_alert_in_a_row_is_forgiven() -> None:
    backoff = seeded()
    assert backoff.after(0, refused=1) < CAP_MS
    assert backoff.after(0, refused=1) >= CAP_MS
    assert backoff.after(0, refused=1) >= CAP_MS
    backoff.after(0)
    assert backoff.after(0, refused=1) < CAP_MS
