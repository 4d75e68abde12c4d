"""Stores of the tests: of tables on SQLite and on PostgreSQL, and databases of PostgreSQL alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetnet_server.store.places import PostgresPlace
from server.store.postgres_server import PostgresServer
from server.store.postgres_world import empty
from server.store.two_stores import KINDS, fresh_store


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with fresh_store(request, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[PostgresPlace]:
    found = postgres.database()
    yield found
    postgres.drop(found)


@pytest.fixture
def place(postgres: PostgresServer, database: PostgresPlace) -> PostgresPlace:
    return empty(postgres, database)
