"""Ports of tests: two that ask at the same time get two."""

import functools
import random

import pytest

from end_to_end.fleet import free_port


def test_a_port_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    same = functools.partial(random.Random, 7)
    monkeypatch.setattr(random, "Random", lambda _seed: same())
    assert free_port() != free_port()
