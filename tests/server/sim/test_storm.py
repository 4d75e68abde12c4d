"""How a return is judged: from the moment when the server is back, by the rate that is set."""

from collections import Counter
from typing import Any

import pytest

from fleetnet_server.sim.storm import judge
from proof.storm import RUNS, faults_of, verdict

# 1,000 devices at 100 a second, a second's worth of them at once.
EVENLY = Counter({second: 100 for second in range(4, 13)} | {3: 200})


def test_a_fleet_that_keeps_to_the_rate() -> None:
    came = judge(1000, 13_500.0, 3.0, EVENLY, 100.0)
    assert came.took_s == pytest.approx(10.5)
    assert came.limit_s == pytest.approx(11.0)
    assert came.is_within
    assert came.pace == pytest.approx(120)  # the first five seconds


def test_a_fleet_that_comes_too_late() -> None:
    assert judge(1000, 14_001.0, 3.0, EVENLY, 100.0).is_within is False


def test_the_rate_of_a_server_that_is_elsewhere_is_not_known() -> None:
    came = judge(10, 2_000.0, 0.0, Counter({1: 10}), None)
    assert came.limit_s is None and came.is_within is None
    assert came.pace == 2.0


def test_nobody_came_back() -> None:
    came = judge(10, 0.0, 3.0, Counter(), 100.0)
    assert came.took_s == 0 and came.pace == 0


def report(complete: bool = True, **storm: Any) -> dict[str, Any]:
    """What tests/proof/storm.py reads of a report: a good one, but for what is given."""
    good = {
        "hit": 1000, "back": 1000, "took_s": 10.5, "limit_s": 11.0, "within_limit": True,
        "attempts_per_device": 2.5, "handshakes_per_device": 1.5, "most_per_s": 120.0,
        "sessions_per_s": 100.0,
    }  # fmt: skip
    return {"devices": 1000, "complete": complete, "storm": {**good, **storm}}


BAD = [
    report(hit=999, back=999), report(back=999), report(within_limit=False),
    report(handshakes_per_device=1.51), report(complete=False),
]  # fmt: skip


@pytest.mark.parametrize("found", BAD)
def test_the_proof_finds_what_must_not_be(found: dict[str, Any]) -> None:
    assert len(faults_of(found)) == 1


def test_the_proof_wants_the_good_fleets_good_and_the_bad_one_bad() -> None:
    for run in RUNS:
        assert verdict(run, report())[0] is not run.is_bad
        assert verdict(run, report(handshakes_per_device=4.3))[0] is run.is_bad
    assert sum(run.is_bad for run in RUNS) == 1
