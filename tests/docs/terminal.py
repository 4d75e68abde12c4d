"""Commands on a terminal of their own, and what they print there.

    command = Command("fleetnet check", folder, environment)
    command.wait()
    command.output

A `fleetnet` without a shell's marks is forked off a process that has it imported (forked.py);
everything else is started by bash. Either way standard output is a terminal, so that what is
printed is what a reader sees.
"""

import contextlib
import os
import pty
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import forked
from docs.tutorial_page import PageError

PATIENCE_S = 30.0
_SHELL = re.compile(r"[|&;<>$`*?~#]")


class Command:
    """A running command; ``output`` is what it has printed so far."""

    def __init__(self, text: str, folder: Path, environment: dict[str, str]):
        self.text = text
        self.code: int | None = None
        self._data = b""
        ours, theirs = pty.openpty()
        words = shlex.split(text)
        if words[0] == "fleetnet" and not _SHELL.search(text) and forked.is_forkable(environment):
            self._wait = self._fork(words[1:], folder, environment, theirs)
        else:
            self._wait = self._start(text, folder, environment, theirs)
        os.close(theirs)
        self._ours = ours
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _fork(
        self, words: list[str], folder: Path, environment: dict[str, str], terminal: int
    ) -> Callable[[float], int]:
        before = os.getcwd()
        os.chdir(folder)
        try:
            streams = (terminal, terminal, terminal)
            self.pid, answer = forked.forking().start(words, environment, streams, (), True)
        finally:
            os.chdir(before)

        def wait(limit_s: float) -> int:
            answer.settimeout(limit_s)
            try:
                code = forked.code_of(answer.recv(32))
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.text, limit_s) from None
            answer.close()
            return code

        return wait

    def _start(
        self, text: str, folder: Path, environment: dict[str, str], terminal: int
    ) -> Callable[[float], int]:
        # One program is to get the signals itself; a shell's line keeps its shell.
        program = text if _SHELL.search(text) else f"exec {text}"
        process = subprocess.Popen(
            ["bash", "-c", program], cwd=folder, env=environment, start_new_session=True,
            stdin=terminal, stdout=terminal, stderr=terminal,
        )  # fmt: skip
        self.pid = process.pid
        return process.wait

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            while data := os.read(self._ours, 65536):
                self._data += data

    @property
    def output(self) -> str:
        return self._data.decode(errors="replace")

    @property
    def is_silent(self) -> bool:
        """Whether it and its children have closed the terminal: nothing more will come."""
        return not self._reader.is_alive()

    def wait_until(self, condition: Callable[[str], bool]) -> bool:
        """Wait until the output fulfils a condition; ``False`` when it does not in time."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            is_over = self.is_silent
            if condition(self.output):
                return True
            if is_over or time.monotonic() > deadline:
                return False
            time.sleep(0.02)

    def wait(self) -> None:
        """Wait for its end, and for the end of its output."""
        if self.code is None:
            try:
                self.code = self._wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                said = self.output
                self.kill()
                raise PageError(f"`{self.text}` does not end:\n{said}") from None
        self._close()

    def interrupt(self) -> None:
        """Press Ctrl-C, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGINT)
        self.wait()

    def kill(self) -> None:
        """End it and its children, however they are."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
                self.code = self._wait(PATIENCE_S)
        self._close()

    def _close(self) -> None:
        # Not before its end: who loses its terminal gets a SIGHUP.
        self._reader.join(PATIENCE_S)
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1
