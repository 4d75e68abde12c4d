"""`fleetnet --help` with click alone; one sentence for what is missing; tables on terminals."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fleetnet_server.cli.main import _SECTIONS, COMMANDS

# Runs the command in an interpreter that cannot import what a bare install lacks.
BARE = """
import sys
BLOCKED = sys.argv[1].split(",")

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError("No module named %r" % name, name=name)

sys.meta_path.insert(0, Missing())
sys.argv = ["fleetnet", *sys.argv[2:]]
from fleetnet_server.cli.main import main
main()
"""
ALL = "apsw,msgspec,pydantic,pydantic_settings,pydantic_core,rich,structlog,uvloop"


def run(blocked: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BARE, blocked, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment(),
    )


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FLEETNET_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more}


def test_every_command_is_in_one_section_of_the_help() -> None:
    names = [name for section in _SECTIONS.values() for name in section]
    assert sorted(names) == sorted(COMMANDS)


def test_help_lists_every_command_with_click_alone() -> None:
    answer = run(ALL + ",cryptography,OpenSSL", "--help")
    assert answer.returncode == 0, answer.stderr
    for name, (_place, text) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", answer.stdout, re.MULTILINE)


@pytest.mark.parametrize("blocked", ["apsw", "msgspec", "pydantic", "pydantic_settings", ALL])
@pytest.mark.parametrize("command", [("device", "list"), ("query",), ("tail",), ("init",)])
def test_a_missing_extra_is_one_sentence(
    blocked: str, command: tuple[str, ...], tmp_path: Path
) -> None:
    answer = run(blocked, "-C", str(tmp_path / "fleet"), *command)
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    assert f"`fleetnet {command[0]}` needs" in answer.stderr
    assert "pip install 'fleetnet[server]'" in answer.stderr


def on_a_terminal(folder: Path, *arguments: str, **more: str) -> str:
    """Run a command with a pseudo terminal as its output, and return what it shows."""
    outer, inner = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "fleetnet_server.cli.main", "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=inner,
            env=environment(TERM="xterm-256color", COLUMNS="100", **more),
        )
        assert process.wait(60) == 0
        return os.read(outer, 65536).decode()
    finally:
        os.close(inner)
        os.close(outer)


def test_a_table_on_a_terminal_with_and_without_colour(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    for arguments in (("init",), ("device", "add", "cam-1")):
        on_a_terminal(folder, *arguments)
    coloured = on_a_terminal(folder, "device", "list")
    assert "\x1b[1m" in coloured
    plain = on_a_terminal(folder, "device", "list", NO_COLOR="1")
    assert "\x1b[3" not in plain
    for shown in (coloured, plain):
        assert "NAME" in shown and "cam-1" in shown
