"""The model of the reconnect storm: against real storms, as figures, and against itself."""

import math
from collections import Counter
from typing import Any

import pytest
from click.testing import CliRunner

from fleetnet_server.cli.main import main as cli
from fleetnet_server.cli.plan import plot
from fleetnet_server.errors import ConfigError
from fleetnet_server.sim.storm_model import Case, Outcome, run
from proof.storm_model import RUNS, Real, faults_of, modelled

# What tests/proof/storm_model.py and tests/proof/storm.py printed of real devices and servers:
# (which of RUNS, sessions_per_s, readings a second and device, what came). Of the bad fleet of
# 5,000 only the attempts were kept.
REAL = [
    (0, 40.0, 0.5, Real(300, 300, 1.5, 8.1, 1.00)),
    (1, 40.0, 0.5, Real(300, 300, 2.3, 6.5, 2.07)),
    (1, 40.0, 0.5, Real(300, 300, 1.2, 8.4, 1.40)),
    (2, 40.0, 0.5, Real(300, 300, 0.0, 7.4, 1.00)),
    (3, 40.0, 0.5, Real(300, 300, 1.4, 6.7, 3.00)),
    (0, 200.0, 0.1, Real(5000, 5000, 3.5, 27.1, 1.0)),
    (3, 200.0, 0.1, Real(5000, 5000, 3.5, 0.0, 4.3)),
]  # fmt: skip


@pytest.mark.parametrize(("number", "sessions", "rate", "real"), REAL)
def test_it_says_what_real_storms_were(
    number: int, sessions: float, rate: float, real: Real
) -> None:
    storm = RUNS[number]
    model = modelled(storm, real, sessions, rate)
    assert faults_of(storm, real, model) == [], model


def test_the_comparison_finds_a_model_that_is_wrong() -> None:
    storm, real = RUNS[0], REAL[0][3]
    good = modelled(storm, real, 40.0, 0.5)
    for wrong in (
        good._replace(took_s=real.took_s * 1.5 + 1), good._replace(attempts_per_device=1.5),
        good._replace(back=299),
    ):  # fmt: skip
        assert len(faults_of(storm, real, wrong)) == 1
    # A server that lets in half as many a second is noticed.
    assert faults_of(storm, real, modelled(storm, real, 20.0, 0.5))
    bad = modelled(RUNS[3], REAL[4][3], 40.0, 0.5)
    assert faults_of(RUNS[3], REAL[4][3], bad._replace(attempts_per_device=1.0))


def test_everybody_comes_back_once_and_no_faster_than_the_turns() -> None:
    for kind in ("restart", "kill", "power", "outage"):
        away_s = 0.0 if kind == "power" else 20.0
        found = run(Case(devices=2000, nodes=2, lost=2, kind=kind, away_s=away_s))
        assert found.hit == found.back == sum(found.back_at.values()) == 2000
        assert found.attempts_per_device >= 1
        assert 0 < found.p50_s <= found.p99_s <= found.max_s
        # Two nodes, 200 a second each, and a second's worth of turns that nobody had taken.
        assert found.took_s >= 0.9 * (2000 / 400 - 1), kind
        assert found.most_per_s <= 2 * 400 * 1.1, kind


def test_the_same_seed_is_the_same_storm() -> None:
    case = Case(devices=3000, kind="kill", away_s=5.0)
    assert run(case) == run(case)
    assert run(case) != run(Case(devices=3000, kind="kill", away_s=5.0, seed=2))


def test_a_lost_node_of_many_hits_its_own_devices() -> None:
    found = run(Case(devices=8000, nodes=4, kind="kill", away_s=math.inf))
    assert found.hit == found.back == 2000
    # Three others, 200 a second each.
    assert 2000 / 600 - 1 <= found.took_s < 20


def test_a_machine_that_is_gone_is_noticed_later_than_a_process() -> None:
    case = dict(devices=4000, nodes=4, kind="kill", away_s=math.inf)
    loud, silent = run(Case(**case)), run(Case(**case, is_silent=True))
    assert silent.p50_s > loud.p50_s + 3


def test_without_room_to_spare_some_wait_for_minutes() -> None:
    """As many devices as sessions on the nodes that are left: the last ones knock at full ones."""
    common = dict(devices=3000, nodes=3, kind="kill", away_s=math.inf)
    tight = run(Case(**common, max_sessions=1500))
    roomy = run(Case(**common, max_sessions=2000))
    assert tight.back == roomy.back == 1000
    assert tight.took_s > 60 > roomy.took_s


def test_a_slow_handshake_bounds_the_return() -> None:
    quick = run(Case(devices=2000, kind="power", away_s=0.0))
    slow = run(Case(devices=2000, kind="power", away_s=0.0, handshake_s=0.01))
    assert slow.took_s > 2000 * 0.01 > quick.took_s
    assert slow.busy > 0.8 > quick.busy


def test_impatient_devices_cost_more() -> None:
    common = dict(devices=3000, away_s=2.0)
    assert run(Case(**common)).attempts_per_device < 1.2
    assert run(Case(**common, is_patient=False)).attempts_per_device > 2


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ({"kind": "rain"}, "no storm is called 'rain'"),
        ({"nodes": 2, "lost": 3}, "3 of 2 nodes"),
        ({"devices": 50_000}, "too few for"),
        ({"devices": 41_000, "nodes": 3, "away_s": math.inf}, "too few for"),
    ],
)
def test_what_cannot_be(case: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Case(**{"devices": 100, **case})


def test_the_plot_shows_every_device() -> None:
    found = run(Case(devices=2000, kind="kill", away_s=5.0))
    lines = plot(found)
    assert 5 <= len(lines) <= 25 and all(len(line) <= 80 for line in lines)
    assert max(line.count("#") for line in lines) == 54
    none = found._replace(back_at=Counter())
    assert plot(none) == []


def test_the_command() -> None:
    done = CliRunner().invoke(cli, ["plan", "storm", "2000", "--nodes", "2"])
    assert done.exit_code == 0 and "1,000 of 1,000 devices are back" in done.output
    done = CliRunner().invoke(cli, ["plan", "storm", "10", "--lost", "2"])
    assert done.exit_code == 1 and "2 of 1 nodes" in done.output


def test_an_outcome_has_a_place_for_nobody() -> None:
    assert isinstance(run(Case(devices=1, nodes=2, kind="kill", away_s=1.0)), Outcome)
