"""tests/proof/cluster.py finds what must not be; its scenes themselves need root and a minute."""

from typing import Any, cast

import pytest

from proof.cluster import table
from proof.cluster_rig import Count, Rig
from proof.cluster_scenes import SCENES, Result, _count, _note_returns, shares

BEFORE = Count(100, 100, 100, 100)


def judged(after: Count) -> Result:
    result = Result("scene")
    _count(result, BEFORE, after)
    return result


def test_a_good_scene() -> None:
    result = judged(Count(150, 150, 150, 150))
    assert result.faults == [] and (result.sent, result.lost, result.twice) == (50, 0, 0)


@pytest.mark.parametrize(
    "after",
    [
        Count(150, 149, 150, 150),  # not acknowledged
        Count(150, 150, 149, 149),  # lost
        Count(150, 150, 151, 150),  # twice
        Count(100, 100, 100, 100),  # nothing happened
    ],
)
def test_a_bad_scene(after: Count) -> None:
    assert len(judged(after).faults) == 1


class _Events:
    """What a rig knows of sessions."""

    def __init__(self, *events: tuple[float, str, bool]):
        self._events = [(*one, "") for one in events]

    def events(self, since: float) -> list[tuple[float, str, bool, str]]:
        return [one for one in self._events if one[0] >= since]


def test_a_return_is_from_the_end_of_a_session_to_the_next_one() -> None:
    rig: Any = _Events(
        (5.0, "a", False),  # before the scene
        (10.0, "a", False), (10.5, "b", False), (11.0, "a", False),  # an attempt in vain
        (12.0, "a", True), (14.5, "b", True), (15.0, "c", True),
    )  # fmt: skip
    result = Result("scene")
    _note_returns(cast(Rig, rig), result, 9.0)
    assert result.hit == 2 and result.back_s == (2.0, 4.0, 4.0)


def test_shares_are_by_nearest_rank() -> None:
    assert shares([]) == (0.0, 0.0, 0.0)
    assert shares([float(one) for one in range(1, 201)]) == (100.0, 198.0, 200.0)


def test_the_table_has_every_scene() -> None:
    lines = table([Result(name, notes=["as it was"]) for name in SCENES]).splitlines()
    assert len(lines) == 1 + 2 * len(SCENES)
    assert list(SCENES)[-1] == "revocation"  # its devices do not come back
