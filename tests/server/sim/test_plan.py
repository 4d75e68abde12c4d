"""The schedule: repeatable by its seed, evenly shaped, no fault moves another's draws."""

import json
import random
from itertools import takewhile

import pytest

from fleetnet_server.sim.faults import FAULTS
from fleetnet_server.sim.plan import Plan, Schedule, schedule, steps
from fleetnet_server.sim.shapes import SHAPES, Step

EVERYTHING = Plan(seconds=120, shapes=tuple(SHAPES), faults=tuple(FAULTS), seed=7)


def drawn(plan: Plan, devices: int = 20) -> list[tuple[Schedule, list[Step]]]:
    return [(schedule(plan, number), list(steps(plan, number))) for number in range(devices)]


def test_the_same_seed_has_the_same_schedule() -> None:
    again = Plan.from_json(json.loads(json.dumps(EVERYTHING.to_json())))
    assert again == EVERYTHING
    assert drawn(EVERYTHING) == drawn(again)


def test_another_seed_has_another_one() -> None:
    other = Plan.from_json({**EVERYTHING.to_json(), "seed": 8})
    for (one, traffic), (two, others) in zip(drawn(EVERYTHING), drawn(other), strict=True):
        assert (one.shape, one.transport) == (two.shape, two.transport)
        assert one.strikes != two.strikes and traffic != others


def test_a_schedule_depends_on_the_seed_in_a_known_way() -> None:
    """Another version of the program repeats a run that somebody reported."""
    plan = Plan(seconds=60, rate=1, shapes=("bursty",), faults=("reboot",), seed=3)
    first = next(steps(plan, 5))
    dice = random.Random("3/5/traffic")
    assert first.readings == dice.randint(5, 40)
    assert first.at_s == first.readings * dice.uniform(0.2, 1.8)
    times = random.Random("3/5/reboot")
    expected = sorted(60 * times.uniform(0.15, 0.8) for _ in range(2))
    assert [strike.at_s for strike in schedule(plan, 5).strikes] == expected


def test_devices_differ() -> None:
    found = [traffic[0].at_s for _, traffic in drawn(Plan(seconds=60), 50)]
    assert len(set(found)) == 50


def test_one_fault_more_does_not_move_the_others() -> None:
    alone = schedule(Plan(faults=("cut",)), 4).strikes
    both = schedule(Plan(faults=("cut", "reboot")), 4).strikes
    assert alone and set(alone) < set(both)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_sends_at_its_rate(name: str) -> None:
    sent = [
        sum(step.readings for step in traffic)
        for _, traffic in drawn(Plan(seconds=1000, rate=2, shapes=(name,)))
    ]
    assert sum(sent) / len(sent) == pytest.approx(2000, rel=0.03)


@pytest.mark.parametrize("name", SHAPES)
def test_steps_are_in_order_of_time_and_end(name: str) -> None:
    for _, traffic in drawn(Plan(seconds=30, shapes=(name,))):
        times = [step.at_s for step in traffic]
        assert times == sorted(times)
        assert all(0 <= at_s < 30 for at_s in times)


def test_only_cameras_send_frames() -> None:
    for name in SHAPES:
        traffic = list(steps(Plan(seconds=60, shapes=(name,)), 0))
        frames = [step.frame_bytes for step in traffic if step.frame_bytes]
        assert (len(frames) == 12) == (name == "camera"), frames


@pytest.mark.parametrize("name", sorted(set(FAULTS) - {"loss"}))
def test_a_fault_strikes_early_enough_to_be_survived(name: str) -> None:
    for number in range(20):
        strikes = schedule(Plan(seconds=150, faults=(name,)), number).strikes
        assert len(strikes) == 3
        assert all(0.15 * 150 <= strike.at_s <= 0.8 * 150 for strike in strikes)


def test_a_flaky_radio_brings_its_own_faults() -> None:
    made = schedule(Plan(shapes=("flaky-radio",)), 0)
    assert made.needs_wire
    assert {strike.fault for strike in made.strikes} == {"loss", "cut"}
    assert not schedule(Plan(shapes=("steady",), faults=("reboot",)), 0).needs_wire


def test_links_and_shapes_take_turns() -> None:
    made = [schedule(Plan(shapes=("steady", "sleepy")), number) for number in range(8)]
    pairs = {(each.transport, each.shape) for each in made}
    assert len(pairs) == 4


def test_the_ramp_spreads_the_start() -> None:
    assert [schedule(Plan(ramp=50), number).start_s for number in (0, 50, 100)] == [0, 1, 2]
    assert schedule(Plan(ramp=0), 100).start_s == 0


def test_all_end_together() -> None:
    plan = Plan(seconds=30, devices=100, ramp=50, rate=1)
    for number in (0, 50, 99):
        made = schedule(plan, number)
        assert made.start_s + made.seconds == pytest.approx(32)
    assert len(list(steps(plan, 0))) == 32


def test_the_past_spans_its_days() -> None:
    plan = Plan(history_ms=1, days=2, rate=1 / 3600)
    assert len(list(steps(plan, 0))) == 48
    early = takewhile(lambda step: step.at_s < 3600, steps(plan, 0))
    assert len(list(early)) == 1
