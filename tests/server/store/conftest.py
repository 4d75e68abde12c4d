"""Stores of the tests: of tables on SQLite and on PostgreSQL, and databases of PostgreSQL alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetnet_server.store.postgres.database import PostgresDatabase
from fleetnet_server.store_place import PostgresPlace
from server.store.postgres_server import PostgresServer
from server.store.postgres_world import empty
from server.store.two_stores import KINDS, fresh_store


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with fresh_store(request, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def module_place(postgres: PostgresServer) -> Iterator[PostgresPlace]:
    """A migrated database of all tests of a file."""
    made = postgres.database()
    yield made
    postgres.drop(made)


@pytest.fixture
def place(postgres: PostgresServer, module_place: PostgresPlace) -> PostgresPlace:
    """The file's database, as it was when it was migrated."""
    return empty(postgres, module_place)


@pytest.fixture
def own_place(postgres: PostgresServer) -> Iterator[PostgresPlace]:
    """A migrated database of one test, which may change its tables, roles and connections."""
    made = postgres.database()
    yield made
    postgres.drop(made)


@pytest.fixture
def database(own_place: PostgresPlace) -> Iterator[PostgresDatabase]:
    """The test's own database, open as a store has it."""
    with PostgresDatabase(own_place) as made:
        yield made
