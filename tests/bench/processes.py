"""Starting the processes that are measured, and reading what they have used."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cores() -> tuple[int, int]:
    """Return the core of the measured side and that of the load (the same on one core)."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def cpu_seconds(pid: int) -> float:
    """Return user and system time of all threads of a process (proc(5), stat 14 and 15).

    The kernel counts in ticks of 10 ms; a row runs for seconds.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def cpu_ns(pid: int) -> int:
    """Return how long all threads of a process have run, ns (proc(5), schedstat 1).

    For processes that use less than ticks can say. A thread that ended is not in it.
    """
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def resident_bytes(pid: int) -> int:
    """Return the resident set of a process (proc(5), statm 2)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


class Process:
    """One child process on one core; ended by its id when the block ends.

    Its standard output is read line by line, each line with a deadline.
    """

    def __init__(
        self,
        command: Sequence[str],
        core: int,
        environment: dict[str, str] | None = None,
        errors: int | None = None,
        output: bool = True,
    ):
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if output else subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, **(environment or {})},
            cwd=ROOT,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        self.pid = self._popen.pid
        self._rest = b""

    def say(self, text: str) -> None:
        """Write one line to its standard input."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(text.encode() + b"\n")
        self._popen.stdin.flush()

    def line(self, timeout_s: float) -> str:
        """Return its next line. Raises RuntimeError when it ends, or is too slow."""
        assert self._popen.stdout is not None
        descriptor = self._popen.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise RuntimeError(f"{self._popen.args!r} said nothing for {timeout_s:.0f} s")
            data = os.read(descriptor, 65536)
            if not data:
                raise RuntimeError(f"{self._popen.args!r} ended early: {self._popen.wait(5)}")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Return its next line, which is JSON."""
        found: dict[str, Any] = json.loads(self.line(timeout_s))
        return found

    def finish(self, timeout_s: float) -> None:
        """Close its standard input, which tells it to end, and wait."""
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._popen.wait(timeout_s)

    def stop(self, timeout_s: float = 15.0) -> None:
        """End it: SIGTERM, then SIGKILL."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@contextlib.contextmanager
def running(
    command: Sequence[str],
    core: int,
    environment: dict[str, str] | None = None,
    errors: int | None = None,
    output: bool = True,
) -> Iterator[Process]:
    """Run a Process for the length of a block; ``output``: False: nobody reads what it says."""
    process = Process(command, core, environment, errors, output)
    try:
        yield process
    finally:
        process.stop()


def program(name: str, *arguments: str) -> list[str]:
    """Return the command of one of the bench's own programs."""
    return [sys.executable, str(HERE / name), *arguments]
