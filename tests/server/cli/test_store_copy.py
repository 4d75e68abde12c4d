"""`fleetnet store copy`: what it says, and when it refuses."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from fleetnet_server.cli.main import main
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.served import take_lock
from fleetnet_server.store_place import PostgresPlace
from server.cli.running import fleetnet, on_a_terminal, put

if TYPE_CHECKING:
    from server.store.postgres_server import PostgresServer

OWNER = "fleetnet_owner"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "fleet"
    create_fleet(folder, ("localhost",))
    put(folder, "cam-1", *[("temp", second * 1000, second % 10) for second in range(600)])
    return folder


@pytest.fixture
def place(postgres: "PostgresServer", folder: Path) -> PostgresPlace:
    """A database, for the owner, whose password is where `store roles` writes it."""
    place = postgres.database(OWNER)
    password = folder / "postgres.fleetnet_owner.password"
    password.touch(0o600)
    password.write_text(postgres.password)
    return place


def test_there_and_back(folder: Path, place: PostgresPlace, postgres: "PostgresServer") -> None:
    # Written as the server's `store`: the owner's password says who copies.
    served = postgres.place(place.database).url
    done = fleetnet("-C", folder, "store", "copy", "fleet.db", served)
    rows = dict(line.split("\t") for line in done.stdout.splitlines())
    assert rows["devices"] == "1" and rows["readings"] == "600 in 1 series"
    assert "compared in" in done.stderr and f'Next: store = "{served}"' in done.stderr
    again = fleetnet("-C", folder, "store", "copy", "fleet.db", served)
    assert "has the whole copy since before; nothing was changed" in again.stdout

    done = fleetnet("-C", folder, "store", "copy", served, "back.db", "--json")
    found = json.loads(done.stdout)
    assert found["to"] == str(folder / "back.db") and found["from"].endswith(place.url[-20:])
    assert found["resumed"] is False and found["copied"] > 500 and found["seconds"] > 0
    assert found["verified"]["readings"] == 600 and found["verified"]["rows"]["messages"] == 6
    (folder / "fleetnet.toml").write_text('host = "localhost"\nstore = "back.db"\n')
    shown = fleetnet("-C", folder, "query", "--every", "1h", "--json")
    assert json.loads(shown.stdout)["count"] == 600


def test_a_terminal_has_a_bar(folder: Path, place: PostgresPlace) -> None:
    shown = on_a_terminal("-C", folder, "store", "copy", "fleet.db", place.url)
    assert "copying" in shown and "THE SAME IN BOTH" in shown


def test_no_server_runs_meanwhile(folder: Path, place: PostgresPlace) -> None:
    with take_lock(folder):
        done = CliRunner().invoke(main, ["-C", str(folder), "store", "copy", "fleet.db", place.url])
    assert "another `fleetnet serve`" in done.stderr and "stop it" in done.stderr, done.output


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("fleet.db", "other.db"), "store backup"),
        (("nothing.db", "{url}"), "no store at"),
        (("fleet.db", "postgresql://nobody:secret@/fleet"), "a password must not stand"),
        (("fleet.db", "postgresql://fleetnet_owner@127.0.0.1:1/fleet"), "is the database server"),
    ],
)
def test_refusals(folder: Path, place: PostgresPlace, words: tuple[str, str], text: str) -> None:
    arguments = [one.format(url=place.url) for one in words]
    done = CliRunner().invoke(main, ["-C", str(folder), "store", "copy", *arguments])
    assert done.exit_code == 1 and text in done.stderr, done.output
    assert "secret" not in done.output


def test_a_database_without_tables(folder: Path, postgres: "PostgresServer") -> None:
    place = postgres.database(OWNER, migrated=False)
    password = folder / "postgres.fleetnet_owner.password"
    password.touch(0o600)
    password.write_text(postgres.password)
    done = CliRunner().invoke(main, ["-C", str(folder), "store", "copy", "fleet.db", place.url])
    assert "has no tables of fleetnet: run `fleetnet store migrate`" in done.stderr, done.output


def test_no_fleet(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["-C", str(tmp_path / "none"), "store", "copy", "a", "b"])
    assert done.exit_code == 1 and "no fleet at" in done.stderr


def test_the_servers_role_may_not(folder: Path, postgres: "PostgresServer") -> None:
    place = postgres.database()
    postgres.settings(place, folder)
    done = CliRunner().invoke(main, ["-C", str(folder), "store", "copy", "fleet.db", place.url])
    assert "permission denied" in done.stderr, done.output
