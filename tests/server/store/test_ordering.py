"""Readings leave in order of time, however their groups overlap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetnet_server.store import ordering
from fleetnet_server.store.ordering import Reading, Timed, in_order


@pytest.mark.parametrize("long", [0, 3, 1000])
@given(groups=st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=9), max_size=30))
def test_groups_are_merged(long: int, groups: list[list[int]]) -> None:
    groups.sort(key=min)
    made: list[tuple[int, list[Timed]]] = [
        (min(times), [(at, (1, 1, seq, place), _reading(at)) for place, at in enumerate(times)])
        for seq, times in enumerate(groups)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "_LONG", long)
        found = [item[:2] for item in in_order(made, 5, 50)]
    every = [item[:2] for _first, group in made for item in group]
    assert found == sorted(item for item in every if 5 <= item[0] <= 50)


def _reading(at: int) -> Reading:
    return Reading("a", "t", at, None, 1, "00", 1)
