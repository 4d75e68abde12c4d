"""Shared fixtures, and what every run says at its end: which MicroPythons took part."""

import gc
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from interpreters import table
from pki import Pki, make_pki

if TYPE_CHECKING:
    from server.store.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def pki() -> Pki:
    """Credentials of this run; no key is ever stored in the tree."""
    return make_pki()


@pytest.fixture(scope="session")
def postgres() -> "Iterator[PostgresServer]":
    """A PostgreSQL of this worker's own; without the package its tests are skipped by name."""
    from server.store.postgres_server import PostgresServer, skip_without_postgres

    server = PostgresServer(skip_without_postgres())
    yield server
    server.close()


def pytest_configure() -> None:
    """Ctrl-C reaches the commands under test, also where a shell runs all this behind itself.

    Such a shell has SIGINT ignored, which every process below it would inherit.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """A device collects before each connection: not over and over all that pytest holds."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("MicroPython")
    for line in table():
        terminalreporter.write_line(line)
