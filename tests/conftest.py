"""Shared fixtures, and what every run says at its end: which MicroPythons took part."""

import pytest

from interpreters import table
from pki import Pki, make_pki


@pytest.fixture(scope="session")
def pki() -> Pki:
    """Credentials of this run; no key is ever stored in the tree."""
    return make_pki()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("MicroPython")
    for line in table():
        terminalreporter.write_line(line)
