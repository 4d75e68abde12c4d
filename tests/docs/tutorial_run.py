"""One page of the tutorial in a folder of its own, as its reader would go through it.

Ports of the page are other, free ones here: in its files, in its commands, by the environment of
`fleetnet`; outputs are compared with the page's numbers put back. ``micropython`` is the one
given, ``python`` this CPython, ``fleetnet`` this checkout's.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from docs.terminal import PATIENCE_S, Command
from docs.tutorial_page import Block, PageError, Step, is_shown, normal, pattern_of
from end_to_end.fleet import free_port
from fleetnet_server.sim.interpreters import device_environment
from interpreters import ROOT, Interpreter

PORTS = ("7443", "7444", "8443", "8444", "8883", "1883", "8080")
# Commands that are not run here, and why not.
ELSEWHERE = {"make setup-test": "whoever runs these tests has done it"}
_PORT = re.compile(rf"\b({'|'.join(PORTS)})\b")


class Reader:
    """Does what a page says, block by block; ``close`` ends what still runs."""

    def __init__(self, page: Path, folder: Path, micropython: Interpreter):
        self.page = page
        self.folder = folder
        self.ports = free_ports()
        self._was_sleep = self._is_late = False
        self._terminals: dict[str, tuple[Command, int]] = {}
        # The index takes its checkout to be in the home folder.
        (folder.parent / "fleetnet").symlink_to(ROOT)
        programs = folder.parent / f"{folder.name}-bin"
        programs.mkdir()
        python = shlex.quote(sys.executable)
        write_program(programs / "python", f'exec {python} "$@"')
        write_program(programs / "micropython", f'exec {shlex.quote(micropython.path)} "$@"')
        fleetnet = f'exec {python} -m fleetnet_server.cli.main "$@"'
        write_program(programs / "fleetnet", fleetnet)
        self.environment = self._environment(programs, folder.parent)

    def _environment(self, programs: Path, home: Path) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items()
                if not key.startswith(("FLEETNET_", "PG"))}  # fmt: skip
        devices = device_environment()
        return kept | {
            "PATH": os.pathsep.join([str(programs), kept["PATH"], "/usr/sbin"]),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "MICROPYPATH": devices["MICROPYPATH"],
            "PYTHONUNBUFFERED": "1",
            "CHECKOUT": str(ROOT),
            "HOME": str(home),
            "FLEETNET_BIND": "127.0.0.1",
            "FLEETNET_TLS_PORT": self.ports["7443"],
            "FLEETNET_DTLS_PORT": self.ports["7443"],
            "NO_COLOR": "1",
            "TERM": "dumb",
            "COLUMNS": "100",
        }

    def here(self, text: str) -> str:
        """Return a page's text with this run's ports."""
        return _PORT.sub(lambda found: self.ports[found[0]], text)

    def there(self, text: str) -> str:
        """Return an output with the page's ports and folders."""
        for shown, number in self.ports.items():
            text = re.sub(rf"\b{number}\b", shown, text)
        return text.replace(f"{self.folder}{os.sep}", "").replace(f"{ROOT}{os.sep}", "")

    def do(self, block: Block) -> None:
        """Write its file, or type its lines. PageError where the page is not true."""
        if block.is_file:
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.here("\n".join(block.lines) + "\n"), encoding="utf-8")
            return
        steps = block.steps()
        for step in steps:
            if self._is_set(step):
                continue
            if not block.title:
                self._finish(step, self._type(step))
            elif step.text == "^C":
                self._interrupt(block.title, step)
            elif step is steps[-1]:
                self._watch(block.title, step)
            else:
                self._finish(step, self._type(step))

    def close(self) -> None:
        for command, _seen in self._terminals.values():
            command.kill()

    def _type(self, step: Step) -> Command:
        return Command(self.here(step.text), self.folder, self.environment)

    def _is_set(self, step: Step) -> bool:
        """Do what a command does to the shell itself; ``False`` for any other."""
        self._is_late = self._was_sleep
        self._was_sleep = step.text.startswith("sleep ")
        if step.text in ELSEWHERE:
            return True
        if not step.text.startswith("export "):
            return False
        name, _, value = step.text.removeprefix("export ").partition("=")
        done = subprocess.run(
            ["bash", "-c", f"echo {value}"], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, timeout=PATIENCE_S, check=True,
        )  # fmt: skip
        self.environment[name] = done.stdout.rstrip("\n")
        return True

    def _finish(self, step: Step, command: Command) -> None:
        """See that a command ends, with the output that is shown.

        What follows a `sleep` looks at what happens meanwhile elsewhere. A machine may be busier
        than its reader's, so it is asked again for as long as it does not show that.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            command.wait()
            said = self.there(command.output)
            if is_shown(step.output, said):
                return
            if not self._is_late or time.monotonic() > deadline:
                raise self._untrue(step, said)
            time.sleep(0.1)
            command = self._type(step)

    def _watch(self, title: str, step: Step) -> None:
        """Begin a command that goes on, or look at what it says next."""
        if step.text:
            if title in self._terminals:
                raise PageError(f"{self.page.name}:{step.number}: that terminal is busy")
            self._terminals[title] = self._type(step), 0
        command, seen = self._terminals[title]
        pattern = pattern_of(step.output)

        def rest() -> str:
            # A line that has not ended may still become another one.
            lines = normal(self.there(command.output).rpartition("\n")[0]) + "\n"
            return lines[seen:]

        if not command.wait_until(lambda _said: pattern.match(rest()) is not None):
            raise self._untrue(step, rest())
        found = pattern.match(rest())
        assert found is not None
        self._terminals[title] = command, seen + found.end()

    def _interrupt(self, title: str, step: Step) -> None:
        command, seen = self._terminals.pop(title)
        command.interrupt()
        said = normal(self.there(command.output))[seen:]
        if step.output and not is_shown(step.output, said):
            raise self._untrue(step, said)

    def _untrue(self, step: Step, said: str) -> PageError:
        others = "".join(
            f"\n--- {title}:\n{command.output}" for title, (command, _) in self._terminals.items()
        )
        shown = "\n".join(step.output)
        return PageError(
            f"{self.page.name}:{step.number}: `{step.text}` shows\n{shown}\n--- and said\n"
            f"{said}{others}"
        )


def free_ports() -> dict[str, str]:
    """Return another port for each of PORTS."""
    numbers: set[int] = set()
    while len(numbers) < len(PORTS):
        numbers.add(free_port())
    return dict(zip(PORTS, map(str, numbers), strict=True))


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def has_program(name: str) -> bool:
    return bool(shutil.which(name) or shutil.which(name, path="/usr/sbin"))
