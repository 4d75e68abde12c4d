"""The setting `store`: a file, or a database whose password stands elsewhere."""

import subprocess
import sys
from pathlib import Path

import pytest

from fleetnet_server.config import load_settings
from fleetnet_server.errors import ConfigError
from fleetnet_server.store_place import PostgresPlace, postgres_place
from server.cli.running import environment


def url(store: str) -> str:
    return postgres_place(store, Path("/nowhere")).url


def test_a_file_stays_a_file(tmp_path: Path) -> None:
    (tmp_path / "fleetnet.toml").write_text("")
    settings = load_settings(tmp_path)
    assert settings.has_store_file
    assert settings.store_place(tmp_path) == settings.store_path(tmp_path) == tmp_path / "fleet.db"


def test_a_database_and_where_its_password_is(tmp_path: Path) -> None:
    (tmp_path / "fleetnet.toml").write_text('store = "postgresql://srv@localhost:5433/fleet"\n')
    settings = load_settings(tmp_path)
    assert not settings.has_store_file
    place = settings.store_place(tmp_path)
    assert isinstance(place, PostgresPlace)
    assert (place.user, place.database, place.password_file) == ("srv", "fleet", None)
    (tmp_path / "postgres.password").write_text("x")
    place = settings.store_place(tmp_path)
    assert isinstance(place, PostgresPlace)
    assert place.password_file == tmp_path / "postgres.password"
    other = place.as_user("an owner", tmp_path)
    assert other == ("postgresql://an%20owner@localhost:5433/fleet", None)
    with pytest.raises(ConfigError, match=r"a backup is for a store file.*pg_dump"):
        settings.store_path(tmp_path, "a backup is")


@pytest.mark.parametrize(
    "store, wanted",
    [
        ("postgresql://db.example/fleet", "postgresql://db.example/fleet?sslmode=verify-full"),
        ("postgres://u@10.0.0.7/fleet", "postgresql://u@10.0.0.7/fleet?sslmode=verify-full"),
        ("postgresql://a,127.0.0.1/f", "postgresql://a,127.0.0.1/f?sslmode=verify-full"),
        ("postgresql:///f?host=db.example", "postgresql:///f?host=db.example&sslmode=verify-full"),
        ("postgresql://db/fleet?sslmode=require", "postgresql://db/fleet?sslmode=require"),
        ("postgresql://localhost/fleet", "postgresql://localhost/fleet"),
        ("postgresql://[::1]:5433/fleet", "postgresql://[::1]:5433/fleet"),
        ("postgresql://u@/f?host=/run/postgresql", "postgresql://u@/f?host=/run/postgresql"),
        ("postgresql:///fleet", "postgresql:///fleet"),
    ],
)
def test_the_way_to_another_machine_is_protected(store: str, wanted: str) -> None:
    assert url(store) == wanted


@pytest.mark.parametrize(
    "store, words",
    [
        ("postgresql://u:secret@db/fleet", r"postgres\.password"),
        ("postgresql://db", "no database"),
        ("postgresql://db/fleet?password=secret", "unknown option 'password'"),
        ("postgresql://[::1/fleet", "postgresql://"),
        ("mysql://db/fleet", "'mysql://db/fleet' is no kind of store: .*postgresql://"),
    ],
)
def test_what_no_setting_may_say(tmp_path: Path, store: str, words: str) -> None:
    (tmp_path / "fleetnet.toml").write_text(f'store = "{store}"\n')
    with pytest.raises(ConfigError, match=words) as caught:
        load_settings(tmp_path)
    assert "secret" not in str(caught.value)


def test_who_has_a_file_never_loads_the_package(tmp_path: Path) -> None:
    """And who has a database without the package learns how to get it."""
    script = f"""
import sys
from pathlib import Path
from fleetnet_server.cli import main, store
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.sqlite import SqliteStore
SqliteStore(Path({str(tmp_path / "fleet.db")!r})).close()
open_store(Path({str(tmp_path / "fleet.db")!r})).close()
assert "psycopg" not in sys.modules
sys.modules["psycopg"] = None
from fleetnet_server.errors import ConfigError
from fleetnet_server.store_place import PostgresPlace
try:
    open_store(PostgresPlace("postgresql://localhost/fleet"))
except ConfigError as error:
    assert "pip install 'fleetnet[postgres]'" in str(error), error
else:
    raise AssertionError
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
