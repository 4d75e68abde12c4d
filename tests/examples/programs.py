"""Examples and their peers as processes: each is run as its reader would run it.

    with started("tls/tls_server.py", runtime, HOST, port, ...) as server:
        server.wait_for("listening")
        done = run_example("tls/mutual_client.py", None, ...)
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from end_to_end.fleet import free_port
from fleetnet_server.sim.interpreters import device_environment
from interpreters import ROOT, Interpreter, interpreters

HOST = "127.0.0.1"
PATIENCE_S = 20.0
RUNTIMES: list[Interpreter | None] = [*interpreters(), None]

every_runtime = pytest.mark.parametrize(
    "runtime", RUNTIMES, ids=lambda each: each.name if each else "cpython"
)


def has(runtime: Interpreter | None, feature: str) -> bool:
    """Whether a runtime has a feature of interpreters.FEATURES; CPython has all of them."""
    return runtime is None or feature in runtime.features


class Program:
    """A running process whose output is looked at while it comes."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None):
        self.process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
        )
        self._data = b""
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def _collect(self) -> None:
        assert self.process.stdout is not None
        while data := os.read(self.process.stdout.fileno(), 65536):
            self._data += data

    @property
    def output(self) -> str:
        return self._data.decode(errors="replace")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until the output matches a regular expression; fails with the output."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            is_over = not self._thread.is_alive()
            if found := re.search(pattern, self.output):
                return found
            assert not is_over, f"ended without {pattern!r}:\n{self.output}"
            assert time.monotonic() < deadline, f"no {pattern!r} in time:\n{self.output}"
            time.sleep(0.01)

    def say(self, text: str) -> None:
        """Write to its input; nobody reads it when the program has ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(text.encode())

    def finish(self) -> int:
        """Wait for its end; return the exit status."""
        try:
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end:\n{self.output}") from None
        self._thread.join(PATIENCE_S)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        self._thread.join(PATIENCE_S)
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str] | None = None) -> Iterator[Program]:
    """Run a command and end it with the block."""
    program = Program(command, environment)
    try:
        yield program
    finally:
        program.close()


def started(
    example: str, runtime: Interpreter | None, *arguments: object, **environment: str
) -> contextlib.AbstractContextManager[Program]:
    """Run an example of examples/ on a runtime (None: this CPython)."""
    interpreter = runtime.path if runtime else sys.executable
    command = [interpreter, f"examples/{example}", *map(str, arguments)]
    return running(command, {**device_environment(), **environment})


def run_example(
    example: str, runtime: Interpreter | None, *arguments: object, **environment: str
) -> str:
    """Run an example to its end, which must be a good one; return its output."""
    with started(example, runtime, *arguments, **environment) as program:
        assert program.finish() == 0, program.output
        return program.output


def fail_example(
    example: str, runtime: Interpreter | None, *arguments: object, **environment: str
) -> str:
    """Run an example that must end with an error; return its last line: CLASS: TEXT."""
    with started(example, runtime, *arguments, **environment) as program:
        assert program.finish() != 0, program.output
        return program.output.rstrip().rpartition("\n")[2]


@contextlib.contextmanager
def example_server(
    example: str, runtime: Interpreter | None, *arguments: object, before: tuple[str, ...] = ()
) -> Iterator[tuple[int, Program]]:
    """Run a server example on a free port; arguments: ``*before, HOST, port, *arguments``."""
    port = free_port()
    with started(example, runtime, *before, HOST, port, *arguments) as program:
        program.wait_for("listening")
        yield port, program


def openssl() -> str:
    command = shutil.which("openssl")
    if command is None:
        pytest.skip("the openssl command is not installed")
    return command


@contextlib.contextmanager
def s_server(*options: object) -> Iterator[tuple[int, Program]]:
    """Run `openssl s_server` with these options on a port of its own choice."""
    command = [openssl(), "s_server", "-accept", f"{HOST}:0", *map(str, options)]
    with running(command) as program:
        yield int(program.wait_for(r"ACCEPT \S+:(\d+)")[1]), program


@contextlib.contextmanager
def s_client(port: int, *options: object) -> Iterator[Program]:
    """Run `openssl s_client` with these options against a port."""
    with running([openssl(), "s_client", "-connect", f"{HOST}:{port}", *map(str, options)]) as it:
        yield it


def files(folder: Path, **contents: bytes) -> dict[str, str]:
    """Write files, ``_`` in a name for ``.``; return their paths by the same names."""
    paths = {}
    for name, data in contents.items():
        path = folder / name.replace("_", ".")
        path.write_bytes(data)
        paths[name] = str(path)
    return paths
