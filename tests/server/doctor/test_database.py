"""What a database's state is worth, and the remedy; tests/server/cli has a real one."""

import pytest

from fleetnet_server.doctor import database
from fleetnet_server.doctor.findings import BAD, OK, WARN, Finding, document, lines, worst
from fleetnet_server.store.postgres.health import Health
from fleetnet_server.store.postgres.migrations import LEAST_SERVER, VERSION
from fleetnet_server.store_place import PostgresPlace

PLACE = PostgresPlace("postgresql://fleet@db.example/fleet")
GOOD = Health(150_018, VERSION, "fleetnet_server", False, False, [], True, "on", "on", 12, 100,
              5 << 20, 1.25)  # fmt: skip


def test_a_good_database_says_what_it_is() -> None:
    found = database._of_layout(PLACE, GOOD)
    assert found.level == OK
    assert f"PostgreSQL 15.18, layout {VERSION}, 5 MiB, 1.2 ms a round trip" in found.text
    assert [one.level for one in database._of_rights(GOOD)] == [OK]
    assert database._of_server(GOOD) == []


@pytest.mark.parametrize(
    ("changed", "said", "remedy"),
    [
        ({"server": LEAST_SERVER - 1}, "is PostgreSQL", "upgrade it"),
        ({"layout": 0}, "has no tables", "fleetnet store migrate"),
        ({"layout": VERSION + 1}, "of a newer fleetnet", "install the newer"),
    ],
)
def test_tables_that_no_server_can_use(changed: dict[str, int], said: str, remedy: str) -> None:
    found = database._of_layout(PLACE, GOOD._replace(**changed))
    assert found.level == BAD and said in found.text and remedy in found.remedy


@pytest.mark.parametrize(
    ("changed", "level", "said"),
    [
        ({"lacks": ["audit", "nodes"]}, BAD, "lacks rights on audit, nodes"),
        ({"is_super": True}, WARN, "is a superuser"),
        ({"owns": True}, WARN, "owns the tables"),
    ],
)
def test_rights(changed: dict[str, object], level: str, said: str) -> None:
    (found,) = database._of_rights(GOOD._replace(**changed))  # type: ignore[arg-type]
    assert found.level == level and said in found.text and "store roles" in found.remedy


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"fsync": "off"}, "fsync is off"),
        ({"synchronous_commit": "off"}, "synchronous_commit is off"),
        ({"is_encrypted": False}, "not encrypted"),
        ({"round_trip_ms": 25.5}, "takes 26 ms"),
        ({"connections": 93}, "93 of 100 connections"),
    ],
)
def test_what_a_server_works_with_all_the_same(changed: dict[str, object], said: str) -> None:
    (found,) = database._of_server(GOOD._replace(**changed))  # type: ignore[arg-type]
    assert found.level == WARN and said in found.text and found.remedy
    kept = {"synchronous_commit": "local", "round_trip_ms": 25.0, "connections": 92}
    assert database._of_server(GOOD._replace(**kept)) == []  # type: ignore[arg-type]


def test_findings_for_programs_and_for_people() -> None:
    fine, bad = Finding("disk", OK, "5 GiB free"), Finding("ports", BAD, "8883 is taken", "free it")
    assert (worst([]), worst([fine]), worst([fine, bad])) == (OK, OK, BAD)
    assert document([fine])["ok"] is True
    assert document([fine, bad]) == {
        "ok": False, "level": BAD, "findings": [fine._asdict(), bad._asdict()],
    }  # fmt: skip
    assert lines([fine, bad]).splitlines() == [
        "ok    disk: 5 GiB free", "BAD   ports: 8883 is taken", "      -> free it",
    ]  # fmt: skip
