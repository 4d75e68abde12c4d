"""Percentiles out of buckets against a sort of everything."""

import json
import random

import pytest

from fleetnet_server.sim.histogram import Histogram


def filled(values: list[float]) -> Histogram:
    made = Histogram()
    for value in values:
        made.add(value)
    return made


def test_percentiles_are_at_most_a_twentieth_above_the_true_ones() -> None:
    dice = random.Random(1)
    values = sorted(dice.lognormvariate(3, 2) for _ in range(5000))
    found = filled(values)
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        true = values[max(1, round(share * 5000)) - 1]
        percentile = found.percentile(share)
        assert percentile is not None
        assert true <= percentile * 1.000001 <= true * 1.0501
    assert found.most_ms == values[-1] == found.percentile(1.0)


def test_processes_add_up() -> None:
    dice = random.Random(2)
    values = [dice.uniform(0, 9000) for _ in range(600)]
    total = Histogram()
    for part in (values[:100], values[100:]):
        total.merge(Histogram.from_json(json.loads(json.dumps(filled(part).to_json()))))
    assert total.summary() == {**filled(values).summary(), "mean": pytest.approx(4500, rel=0.1)}
    assert total.count == 600


def test_nothing_seen_has_no_percentiles() -> None:
    assert Histogram.from_json({}).summary() == {
        "count": 0, "mean": None, "p50": None, "p90": None, "p95": None, "p99": None, "max": None,
    }  # fmt: skip


def test_times_without_bounds_take_bounded_memory() -> None:
    found = filled([0.0, 1e-9, 1e15])
    found.add(5.0, 7)
    assert found.count == 10
    assert found.percentile(0.5) == pytest.approx(5.0, rel=0.05)
    assert all(int(place) <= 404 for place in found.to_json()["buckets"])  # type: ignore[attr-defined]
