"""Names of groups, labels and scopes, at their bounds."""

import pytest

from fleetnet_server.errors import ConfigError, StoreError
from fleetnet_server.identity.labels import MAX_LABELS, check_group, check_labels
from fleetnet_server.identity.scopes import ADMIN, COMMAND, CONFIG, READ, allows, check_scopes


@pytest.mark.parametrize("name", [None, "a", "9", "roof.east_2-b", "a" * 32])
def test_groups(name: str | None) -> None:
    check_group(name)


@pytest.mark.parametrize("name", ["", "A", ".a", "a b", "a\n", "é", "a" * 33])
def test_what_is_no_group(name: str) -> None:
    with pytest.raises(StoreError, match="is no group"):
        check_group(name)


def test_labels() -> None:
    check_labels({})
    check_labels({"a" * 63: "x" * 128, "Site/roof-1._": "größer, 3 m"})
    check_labels({f"label{number}": "" for number in range(MAX_LABELS)})


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({f"label{number}": "" for number in range(MAX_LABELS + 1)}, "at most 32"),
        ({"": "x"}, "is no label"),
        ({"a" * 64: "x"}, "is no label"),
        ({"/a": "x"}, "is no label"),
        ({"a b": "x"}, "is no label"),
        ({"a": "x" * 129}, "label a: at most 128"),
        ({"a": "\x1b[2J"}, "printable"),
    ],
)
def test_what_is_no_label(labels: dict[str, str], said: str) -> None:
    with pytest.raises(StoreError, match=said):
        check_labels(labels)


def test_scopes() -> None:
    assert check_scopes([READ, READ, CONFIG]) == {READ, CONFIG}
    with pytest.raises(ConfigError, match="'write' is no scope: use read, command, config, admin"):
        check_scopes([READ, "write"])
    with pytest.raises(ConfigError, match="a token needs a scope"):
        check_scopes([])


def test_admin_includes_the_others_and_nothing_else_does() -> None:
    for wanted in (READ, COMMAND, CONFIG, ADMIN):
        assert allows(frozenset([ADMIN]), wanted)
        assert allows(frozenset([COMMAND]), wanted) == (wanted == COMMAND)
        assert not allows(frozenset(), wanted)
