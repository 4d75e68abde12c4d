"""Every `fleetnet` line in a code block of the documentation runs, as it stands there.

The lines of a block run in order, in a folder with a prepared fleet, beside its server; where a
block begins with `fleetnet init`, in an empty folder. What has no end is ended by Ctrl-C. What
cannot run here is in EXCEPT, with the reason; each of these, and what the text shows as a
command, still has to be a command line that the program understands.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from docs.pages import Line, lines, spans
from docs.place import Place
from fleetnet_server.cli.main import main

# Begin of the line: why it does not run here.
EXCEPT = {
    "fleetnet doctor --port ":
        "needs a board on a serial port; tests/end_to_end/test_device_doctor.py",
    "fleetnet device install": "needs a board on a serial port; tests/provision/",
    "fleetnet doctor fleet.example:7443": "a server on another machine",
    "fleetnet anchor mqtt.example.org":
        "a server on another machine; tests/server/cli/test_anchor.py",
    "fleetnet mqtt check": "needs a broker; tests/server/cli/test_mqtt.py",
    "fleetnet mqtt discovery": "needs a mqtt.toml; tests/server/cli/test_mqtt.py",
    "fleetnet -C fleet ca rotate --issuing --permit new.example --root-key":
        "another way than the line above it",
    "fleetnet sim --server": "a server on another machine; tests/end_to_end/test_sim.py",
}  # fmt: skip

# Pages that run in a test of their own.
ELSEWHERE = {
    "index.md": "the README's lines; test_site.py compares them",
    "postgres.md": "needs PostgreSQL; test_postgres_page.py",
}

# Lines that end otherwise than with 0, as their page says.
CODES = {
    "fleetnet check": (0, 1),  # a fleet whose folder anybody may read has warnings
    "fleetnet -C fleet ca rotate --switch-server": (1,),
    "fleetnet -C fleet ca rotate --finish": (1,),
    "fleetnet -C fleet cert server --host eu.fleet.example": (1,),
}

# What takes as long as it is told is told less, and a place that is not here is another one.
SHORTER = (
    (r"(sim .*)--devices \d+", r"\1--devices 4"),
    (r"(sim .*)--seconds [\d.]+", r"\1--seconds 2"),
    (r"(sim .*)--ramp [\d.]+", r"\1--ramp 0"),
    # Over TLS a device sees at once that its server has gone.
    (r"(sim .*)--storm-at [\d.]+", r"\1--transport tls --storm-at 0.5"),
    (r"(sim .*)--days \d+", r"\1--days 0.01"),
    (r"(bench)\b", r"\1 --seconds 2"),
    (r"/media/stick", "stick"),
    (r"\bFOLDER\b", "fleet"),
)

ENDLESS = r"tail|audit .*--follow"
# Beside these a server runs, as it does where they are typed.
_SERVED = r"(fleetnet|fleet) (call|doctor|check|config|audit|psk|device|ca|cert server|token)\b"
# Lines that make the first credentials of the device that they name: it is not there yet.
_MAKES = r"(?:psk add|device claim|device add) (\S+)"

LINES = list(lines())
BLOCKS = sorted({(one.page, one.block) for one in LINES if one.page not in ELSEWHERE})


def exception_of(text: str) -> str:
    return next((why for begin, why in EXCEPT.items() if text.startswith(begin)), "")


def as_run_here(text: str) -> str:
    for pattern, other in SHORTER:
        text = re.sub(pattern, other, text)
    return text


def without_environment(text: str) -> list[str]:
    words = shlex.split(text, comments=True)
    return words[words.index("fleetnet") + 1 :]


@pytest.mark.parametrize("line", [*LINES, *spans()], ids=lambda one: f"{one.page}:{one.number}")
def test_it_is_a_command_line(line: Line) -> None:
    """Commands and options are known, also of what does not run here."""
    words = without_environment(line.text.replace("[", "").replace("]", ""))
    for mark in ("|", ">", "&&"):
        words = words[: words.index(mark)] if mark in words else words
    context = main.make_context("fleetnet", list(words), resilient_parsing=True)
    command: click.Command = main
    rest = [*context._protected_args, *context.args]
    while isinstance(command, click.Group) and rest and rest[0].islower():
        found = command.get_command(context, rest[0])
        assert found is not None, f"{line}: no command {rest[0]!r}"
        context = click.Context(found, info_name=rest[0], parent=context)
        command, rest = found, rest[1:]
    known = {one for each in command.params for one in (*each.opts, *each.secondary_opts)}
    for word in rest:
        if word.startswith("--") and word != "--":
            assert word.partition("=")[0] in known | {"--help"}, f"{line}: {word}"


@pytest.mark.parametrize("begin", [*EXCEPT, *CODES])
def test_an_exception_is_of_use(begin: str) -> None:
    assert any(one.text.startswith(begin) for one in LINES)


@pytest.fixture
def place(tmp_path: Path, block: tuple[str, int]) -> Iterator[Place]:
    texts = [as_run_here(one.text) for one in LINES if (one.page, one.block) == block]
    makes_it = re.search(r"fleetnet init\b", texts[0]) is not None
    made = Place(tmp_path, not makes_it, frozenset(re.findall(_MAKES, "\n".join(texts))))
    try:
        if not makes_it and any(re.search(_SERVED, text) for text in texts):
            made.serve()
        if not makes_it and any(" call " in text for text in texts):
            made.run_device("cam-1")
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda one: f"{one[0]}:{one[1]}")
def test_the_lines_of_a_block_run(place: Place, block: tuple[str, int]) -> None:
    for line in LINES:
        if (line.page, line.block) == block and not exception_of(line.text):
            run(place, line)


def run(place: Place, line: Line) -> None:
    text = as_run_here(line.text)
    said = f"{line.page}:{line.number}: {text}\n"
    words = without_environment(text)
    if "serve" in words:
        if not place.is_served:
            place.serve(shlex.join(["fleetnet", *words]))
            place.run_device("cam-01")
        return
    if re.search(ENDLESS, text):
        code, errors = place.interrupt(shlex.join(["fleetnet", *words]))
        assert (code, errors) == (0, ""), said
        return
    if "convert" in words:
        (place.folder / words[words.index("convert") + 2]).unlink(missing_ok=True)
    done = place.run(text)
    codes = next((c for begin, c in CODES.items() if line.text.startswith(begin)), (0,))
    said += f"{done.stdout}{done.stderr}"
    assert done.returncode in codes, said
    assert "Traceback" not in done.stderr, said
