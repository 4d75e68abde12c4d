"""Every command prints, fails and completes by the same rules (docs/cli.md)."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fleetnet_server.cli.main import COMMANDS, main
from fleetnet_server.store.compaction import Compactor
from fleetnet_server.store.sqlite import SqliteStore
from interpreters import ROOT
from server.cli.running import COMMAND, NOW, environment, fleetnet, on_a_terminal, put
from server.cli.test_json_members import RUN, WITHOUT_FLEET

# Commands whose answer is no data.
_NO_JSON = {"completion": "it prints a script for a shell"}


def every_command() -> Iterator[tuple[str, click.Command]]:
    """All commands by their full names, in order."""

    def below(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=name)
            for part in command.list_commands(context):
                found = command.get_command(context, part)
                assert found is not None
                yield from below(f"{name} {part}".strip(), found)
        else:
            yield name, command

    yield from below("", main)


EVERY = dict(every_command())


@pytest.mark.parametrize("name", EVERY)
def test_each_command_has_json_help_and_described_options(name: str) -> None:
    command = EVERY[name]
    options = {one for each in command.params for one in each.opts}
    assert ("--json" in options) == (name not in _NO_JSON)
    assert command.help and command.help.strip().endswith((".", ")", "`"))
    for each in command.params:
        if isinstance(each, click.Option) and not each.hidden and each.opts != ["--help"]:
            assert each.help or each.show_default or each.type.name == "choice", (name, each.opts)


@pytest.mark.parametrize("name", EVERY)
def test_options_of_one_meaning_have_one_name(name: str) -> None:
    options = {one for each in EVERY[name].params for one in each.opts}
    for unwanted, wanted in {
        "--start": "--since", "--end": "--until", "--from": "--since", "--to-time": "--until",
        "--output": "--out", "--format-json": "--json", "--max": "--limit",
    }.items():  # fmt: skip
        assert unwanted not in options, f"{name}: {unwanted} is called {wanted}"


def test_exit_codes(empty: Path, tmp_path: Path) -> None:
    fleetnet("-C", empty, "device", "list", code=0)
    failed = fleetnet("-C", empty, "device", "show", "nobody", "--json", code=1)
    assert failed.stdout == "" and failed.stderr.startswith("Error: device 'nobody'")
    wrong = fleetnet("-C", empty, "device", "show", code=2)
    assert wrong.stdout == "" and wrong.stderr.startswith("Usage: ")
    fleetnet("-C", empty, "device", "add", "cam-1")
    (empty / "ca").rename(tmp_path / "away")
    partly = fleetnet("-C", empty, "device", "revoke", "cam-1", "--json", code=3)
    assert json.loads(partly.stdout)["revoked"] and "was not written" in partly.stderr


def test_a_misspelt_command_is_told_what_it_resembles() -> None:
    assert "Did you mean 'device'" in fleetnet("devices", code=2).stderr
    assert "Did you mean 'add'" in fleetnet("device", "ad", code=2).stderr


def test_an_error_of_the_system_is_a_sentence(empty: Path, tmp_path: Path) -> None:
    fleetnet("-C", empty, "device", "add", "cam-1")
    put(empty, "cam-1", ("temp", 0, 1))
    document = tmp_path / "folder"
    document.mkdir()
    said = fleetnet("-C", empty, "config", "set", "cam-1", document, code=2).stderr
    assert "Traceback" not in said
    said = fleetnet(
        "-C", empty, "ca", "import", "--cert", "/proc/self/mem", code=1
    ).stderr
    assert said.startswith("Error: ") and said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [("device", "list"), ("query",), ("audit",), ("commands",), ("logs",), ("cert", "list"),
     ("psk", "list"), ("blob", "list")],
    ids=" ".join,
)  # fmt: skip
def test_tables(empty: Path, arguments: tuple[str, ...]) -> None:
    """Nothing in a pipe but rows; a heading on a terminal; no colours with NO_COLOR."""
    fleetnet("-C", empty, "device", "add", "cam-1")
    put(empty, "cam-1", ("temp", 0, 1))
    fleetnet("-C", empty, "call", "cam-1", "blink", "--expires", "1h")
    fleetnet("-C", empty, "psk", "add", "cam-2")
    rows = fleetnet("-C", empty, *arguments).stdout.splitlines()
    documents = fleetnet("-C", empty, *arguments, "--json").stdout.splitlines()
    found = [one for line in documents for one in [json.loads(line)]]
    if len(found) == 1 and isinstance(found[0], list):
        found = found[0]
    assert len(found) == len(rows)
    assert not any(re.match(r"[A-Z]{2}[A-Z ]*\t", row) for row in rows)
    assert "\x1b" not in "".join(rows)
    shown = on_a_terminal("-C", empty, *arguments)
    assert shown.startswith("\x1b[1m") and shown[4:6].isupper()
    assert "\x1b" not in on_a_terminal("-C", empty, *arguments, NO_COLOR="1")
    assert "\t" not in shown


@pytest.mark.parametrize("name", EVERY)
def test_wrong_usage_is_2_and_says_nothing_on_standard_output(name: str) -> None:
    done = CliRunner().invoke(main, [*name.split(), "--no-such-option"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "No such option" in done.stderr and "--help" in done.stderr


@pytest.mark.parametrize("name", [name for name in RUN if name not in WITHOUT_FLEET])
def test_without_a_fleet_it_is_1_and_says_what_to_do(name: str, tmp_path: Path) -> None:
    for file in ("config.json", "theirs.pem"):
        (tmp_path / file).write_text('{"rate": 5}')
    arguments = [one.format(tmp=tmp_path, fleet=tmp_path) for one in RUN[name]]
    nowhere = tmp_path / "nowhere"
    done = CliRunner().invoke(main, ["-C", str(nowhere), *name.split(), *arguments])
    assert done.exit_code == 1, done.output
    said = done.stdout if name == "check" else done.stderr
    assert str(nowhere) in said and "fleetnet init" in said
    assert name == "check" or (done.stdout == "" and said.startswith("Error: "))
    assert not nowhere.exists()


def test_codes_that_the_page_names_are_told_by_the_help() -> None:
    """What a code means beyond done and failed is in the help of its command, too."""
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*`) \| ([013]) \| .* \|$", page, re.MULTILINE)
    assert len(rows) > 9
    for names, code in rows:
        for name in re.findall("`([a-z -]+)`", names):
            command = EVERY[name.replace(" --follow", "")]
            if code != "0":
                assert re.search(rf"\b{code}\b", command.help or ""), (name, code)


@pytest.mark.parametrize(
    "arguments", ["query", "query --json", "export -", "export - --format jsonl"]
)
def test_a_pipe_that_closes_early_is_quiet(empty: Path, arguments: str) -> None:
    put(empty, "cam-1", *[("temp", number, number) for number in range(20_000)])
    command = f"{' '.join(COMMAND)} -C {empty} {arguments} | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60,
        env=environment(),
    )  # fmt: skip
    assert done.stdout.count("\n") == 1 and done.stderr == ""


def test_streams_that_are_closed_or_full(empty: Path) -> None:
    """`>&-` in a shell, and a disk without room: no traceback, and nothing in the store."""
    fleetnet("-C", empty, "device", "add", "cam-1")
    before = (empty / "fleet.db").read_bytes()
    for streams, code, words in (
        (">&- 2>&- <&-", 0, ""),
        ("2>&1 >/dev/full", 1, "Error: No space left on device; make room on the disk"),
    ):
        done = subprocess.run(
            ["bash", "-c", f"{' '.join(COMMAND)} -C {empty} device list {streams}"],
            capture_output=True, text=True, timeout=60, env=environment(),
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (code, ""), done
        assert done.stdout.startswith(words) and "Traceback" not in done.stdout
    assert (empty / "fleet.db").read_bytes() == before


@pytest.mark.parametrize(
    "arguments", ["device list", "device add cam-1", "query", "audit", "serve"]
)
def test_a_store_that_is_gone_is_not_replaced_by_an_empty_one(empty: Path, arguments: str) -> None:
    (empty / "fleet.db").unlink()
    said = fleetnet("-C", empty, *arguments.split(), code=1).stderr
    assert "no store at" in said and "`fleetnet -C NEW store restore FILE`" in said
    assert not (empty / "fleet.db").exists()
    (empty / "fleet.db").touch()
    said = fleetnet("-C", empty, *arguments.split(), code=1).stderr
    assert "is an empty file" in said and "`fleetnet -C NEW store restore FILE`" in said
    assert not (empty / "fleet.db").stat().st_size


# -- completion ----------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_understands(shell: str, tmp_path: Path) -> None:
    script = fleetnet("completion", shell).stdout
    assert "_FLEETNET_COMPLETE" in script and "fleetnet" in script
    if shell == "bash":
        path = tmp_path / "script"
        path.write_text(script)
        subprocess.run(["bash", "-n", str(path)], check=True)


def complete(folder: Path, *words: str) -> list[str]:
    line = ["fleetnet", "-C", str(folder), *words]
    program = "import sys; sys.argv = ['fleetnet']\n"
    program += "from fleetnet_server.cli.main import main\nmain(prog_name='fleetnet')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60,
        env=environment(
            COMP_WORDS=" ".join(line), COMP_CWORD=str(len(line) - 1),
            _FLEETNET_COMPLETE="bash_complete",
        ),
    )  # fmt: skip
    return [one.partition(",")[2] for one in done.stdout.split()]


def test_commands_options_and_devices_are_completed(empty: Path) -> None:
    for name in ("cam-1", "cam-2", "probe"):
        put(empty, name, ("temp", NOW, 1))
    assert complete(empty, "co") == ["commands", "completion", "config"]
    assert set(complete(empty, "")) == set(COMMANDS)
    assert complete(empty, "plot", "cam") == ["cam-1", "cam-2"]
    assert complete(empty, "device", "revoke", "p") == ["probe"]
    assert complete(empty, "query", "--device", "cam-2") == ["cam-2"]
    assert "--since" in complete(empty, "query", "--s")
    assert complete(empty / "nowhere", "plot", "cam") == []


def test_channels_are_completed(empty: Path) -> None:
    put(empty, "cam-1", ("temp", 0, 1), ("tilt.x", 1, 2), ("t\x1b[2J", 2, 3), ("hum", 3, 4))
    put(empty, "cam-2", ("torque", 0, 1))
    with SqliteStore(empty / "fleet.db") as store:
        compactor = Compactor(store, clock_ms=lambda: NOW + 10 * 86_400_000)
        while compactor.step():
            pass
        compactor.close()
        assert store.read("SELECT count(*) FROM series") == [(4,)]
    put(empty, "cam-2", ("tension", 0, 1))
    assert complete(empty, "plot", "cam-1", "t") == ["temp", "tilt.x"]
    assert complete(empty, "plot", "cam-2", "t") == ["tension", "torque"]
    assert complete(empty, "query", "--channel", "te") == ["temp", "tension"]
    assert complete(empty, "export", "x.csv", "--device", "cam-2", "--channel", "") == [
        "tension", "torque",
    ]  # fmt: skip
    assert complete(empty / "nowhere", "plot", "cam-1", "") == []


def test_completing_a_command_imports_none(empty: Path) -> None:
    program = "import sys; sys.argv = ['fleetnet']\n"
    program += "from fleetnet_server.cli.main import main\n"
    program += "try:\n    main(prog_name='fleetnet')\nfinally:\n"
    program += "    print([one for one in ('apsw', 'rich', 'pydantic') if one in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False,
        env=environment(COMP_WORDS="fleetnet de", COMP_CWORD="1",
                        _FLEETNET_COMPLETE="bash_complete"),
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert os.path.isdir(empty)
