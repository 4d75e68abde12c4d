"""What every test run says at its end: which MicroPythons took part, and what each can do."""

import pytest

from interpreters import table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("MicroPython")
    for line in table():
        terminalreporter.write_line(line)
