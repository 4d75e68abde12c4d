"""A fleet whose store is PostgreSQL: from its tables to commands, checks and their remedies."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fleetnet_server.app_store import open_served
from fleetnet_server.cli.main import main
from fleetnet_server.config import load_settings
from fleetnet_server.errors import StoreError
from fleetnet_server.fleet_folder import create_fleet
from server.cli.test_json_members import members_of
from server.store.postgres_server import ADMIN, OWNER, PostgresServer


@pytest.fixture
def fleet(postgres: PostgresServer, tmp_path: Path) -> Iterator[Path]:
    """A fleet folder whose database is there and empty; the server's roles have passwords."""
    place = postgres.database(migrated=False)
    folder = tmp_path / "fleet"
    create_fleet(folder, ("localhost",))
    (folder / "fleetnet.toml").write_text(postgres.settings(place, folder))
    for user in (ADMIN, OWNER):
        path = folder / f"postgres.{user}.password"
        path.write_text(postgres.password)
        path.chmod(0o600)
    yield folder
    postgres.drop(place)


def fleetnet(*arguments: object, code: int = 0) -> Result:
    """Run a command in this process: there are many here."""
    done = CliRunner().invoke(main, [str(one) for one in arguments])
    assert done.exit_code == code, done.output
    return done


def check(folder: Path, code: int) -> dict[str, list[tuple[str, str, str]]]:
    """Return (level, text, remedy) of what `fleetnet check` found, by what it looked at."""
    done = json.loads(fleetnet("-C", folder, "check", "--json", code=code).stdout)
    found: dict[str, list[tuple[str, str, str]]] = {}
    for one in done["findings"]:
        found.setdefault(one["check"], []).append((one["level"], one["text"], one["remedy"]))
    return found


def test_from_an_empty_database_to_a_fleet(fleet: Path, tmp_path: Path) -> None:
    assert "fleetnet store migrate" in fleetnet("-C", fleet, "device", "list", code=1).stderr
    with pytest.raises(StoreError, match="fleetnet store migrate"):
        open_served(load_settings(fleet), fleet)
    ((level, text, remedy),) = check(fleet, 1)["store"]
    assert (level, "no tables" in text, "store migrate" in remedy) == ("bad", True, True)
    made = json.loads(fleetnet("-C", fleet, "store", "migrate", "--json").stdout)
    assert (made["before"], set(made)) == (0, members_of("store migrate"))
    assert "nothing to do" in fleetnet("-C", fleet, "store", "migrate").stdout
    fleetnet("-C", fleet, "device", "add", "cam-1")
    fleetnet("-C", fleet, "psk", "add", "probe")
    fleetnet("-C", fleet, "hub", "assign", "probe", "cam-1")
    (tmp_path / "config.json").write_text('{"rate": 5}')
    fleetnet("-C", fleet, "config", "set", "cam-1", tmp_path / "config.json")
    fleetnet("-C", fleet, "call", "cam-1", "blink", "--expires", "1h")
    names = [
        row["name"] for row in json.loads(fleetnet("-C", fleet, "device", "list", "--json").stdout)
    ]
    assert names == ["cam-1", "probe"]
    actions = fleetnet("-C", fleet, "audit").stdout
    assert all(one in actions for one in ("device-add", "psk-add", "device-assign", "command"))
    fleetnet("-C", fleet, "device", "remove", "cam-1")
    found = check(fleet, 0)
    assert found["store"][0][0] == "ok"
    assert found["database"][0][:2] == (
        "ok", "fleetnet_server has the rights of a server, and no more",
    )  # fmt: skip
    assert any("fsync is off" in text for _level, text, _remedy in found["database"])
    assert "database: fleetnet_server has the rights" in fleetnet("-C", fleet, "doctor").stdout


def test_checks_name_what_is_wrong(postgres: PostgresServer, fleet: Path) -> None:
    toml = (fleet / "fleetnet.toml").read_text()
    fleetnet("-C", fleet, "store", "migrate")
    (fleet / "fleetnet.toml").write_text(toml.replace("fleetnet_server@", f"{OWNER}@"))
    level, text, remedy = check(fleet, 0)["database"][0]
    assert (level, "owns the tables" in text, "store roles" in remedy) == ("warn", True, True)
    (fleet / "fleetnet.toml").write_text(toml)
    database = toml.partition("@/")[2].partition("?")[0]
    with postgres.admin(database) as connection:
        connection.execute("REVOKE INSERT ON commands FROM fleetnet_server")
    level, text, remedy = check(fleet, 1)["database"][0]
    assert (level, "commands" in text, "store roles" in remedy) == ("bad", True, True)
    with postgres.admin(database) as connection:
        connection.execute("INSERT INTO fleetnet_schema VALUES(99)")
    level, text, remedy = check(fleet, 1)["store"][0]
    assert (level, "newer fleetnet" in text) == ("bad", True)
    (fleet / "postgres.password").write_text("wrong")
    level, text, remedy = check(fleet, 1)["store"][0]
    assert (level, "password" in text, "postgres.password" in remedy) == ("bad", True, True)
    assert "pg_dump" in fleetnet("-C", fleet, "store", "backup", "x", code=1).stderr


def test_a_database_that_is_away(postgres: PostgresServer, fleet: Path) -> None:
    fleetnet("-C", fleet, "store", "migrate")
    postgres.kill()
    try:
        level, _text, remedy = check(fleet, 1)["store"][0]
        assert (level, "is the database server up" in remedy) == ("bad", True)
        for command in (("device", "list"), ("device", "add", "cam-1"), ("audit",)):
            said = fleetnet("-C", fleet, *command, code=1).stderr
            assert "is the database server up" in said, said
            assert "Traceback" not in said
    finally:
        postgres.start()
    assert not (fleet / "devices" / "cam-1").exists()
    fleetnet("-C", fleet, "device", "add", "cam-1")


def test_roles(postgres: PostgresServer, fleet: Path) -> None:
    printed = fleetnet("-C", fleet, "store", "roles").stdout
    with postgres.admin() as connection:  # what is printed is what psql takes
        for statement in printed.split(";\n"):
            if not statement.startswith("--"):
                connection.execute(statement)
    listed = json.loads(fleetnet("-C", fleet, "store", "roles", "--json").stdout)
    assert {"statements"} <= set(listed) <= members_of("store roles")
    done = fleetnet("-C", fleet, "store", "roles", "--apply", "--user", ADMIN, "--json").stdout
    assert set(json.loads(done)) <= members_of("store roles")
    assert json.loads(done)["password_files"] == [], "they have passwords"
    said = fleetnet("-C", fleet, "store", "roles", "--apply", code=1).stderr
    assert "permission denied" in said or "must be" in said
    (fleet / "fleetnet.toml").write_text("")
    assert "is the file" in fleetnet("-C", fleet, "store", "roles", code=1).stderr
    assert "layout" in fleetnet("-C", fleet, "store", "migrate").stdout


def test_other_users_cannot_read_its_passwords(fleet: Path) -> None:
    fleetnet("-C", fleet, "store", "migrate")
    os.chmod(fleet, 0o755)
    os.chmod(fleet / "postgres.password", 0o644)
    assert "chmod 600" in fleetnet("-C", fleet, "device", "list", code=1).stderr
    assert "postgres.password" in fleetnet("-C", fleet, "check", code=1).stdout
    assert stat.S_IMODE(os.stat(fleet / "postgres.fleetnet_owner.password").st_mode) == 0o600
