"""Commands of `fleetnet` in processes of their own that start within 20 ms.

Nearly all of the second of CPU that a short command takes is Python's start and its imports, and
the tests run more than a thousand of them. Here each is forked off a process that has done that
already (forking.py, one for each worker of pytest): its arguments, environment, streams, signals
and exit code are real. What a start from nothing does, tests with real starts show:
server/cli/test_bare_install.py and test_conventions.py, end_to_end/test_sim.py and
test_service.py, and tests/docs.
"""

import asyncio
import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

PROGRAM = Path(__file__).with_name("forking.py")
COMMAND = [sys.executable, "-m", "fleetnet_server.cli.main"]
# What a forked process cannot take over any more, since it has started.
AT_START = ("LD_PRELOAD", "PYTHON")


def is_forkable(environment: Mapping[str, str]) -> bool:
    known = {key: value for key, value in environment.items() if key.startswith(AT_START)}
    ours = {key: value for key, value in os.environ.items() if key.startswith(AT_START)}
    for each in (known, ours):
        each.pop("PYTHONPATH", None)
    return known == ours


class Forking:
    """The process that forks."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self.nothing = open(os.devnull, "rb")
        with theirs:
            path = os.pathsep.join(filter(None, sys.path))
            self._process = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )

    def start(
        self,
        arguments: Iterable[object],
        environment: Mapping[str, str],
        streams: tuple[int, int, int],
        modules: tuple[str, ...] = (),
        has_session: bool = False,
    ) -> tuple[int, socket.socket]:
        """Return the pid, and the socket on which the wait status will come."""
        request = {
            "arguments": list(map(str, arguments)),
            "environment": dict(environment),
            "folder": os.getcwd(),
            "modules": modules,
            "session": has_session,
        }
        answer, theirs = socket.socketpair()
        with theirs, self._lock:
            descriptors = [*streams, theirs.fileno()]
            socket.send_fds(self._requests, [json.dumps(request).encode()], descriptors)
        pid = b""
        while not pid.endswith(b"\n"):
            some = answer.recv(1)
            assert some, "the forking process has ended"
            pid += some
        return int(pid), answer

    def close(self) -> None:
        self._requests.close()
        self._process.wait()
        self.nothing.close()


@functools.cache
def forking() -> Forking:
    """One for this process: started with the first command, it ends with us."""
    made = Forking()
    atexit.register(made.close)
    return made


def code_of(status: bytes) -> int:
    assert status, "whoever waited for the command has ended"
    return os.waitstatus_to_exitcode(int(status))


def run(
    arguments: Iterable[object],
    environment: Mapping[str, str],
    text: str = "",
    timeout: float = 60,
    modules: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run() of `fleetnet` with its output as text."""
    arguments = list(map(str, arguments))
    if not is_forkable(environment):
        return subprocess.run(
            [*COMMAND, *arguments], input=text, capture_output=True, text=True,
            timeout=timeout, check=False, env=environment,
        )  # fmt: skip
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        given.write(text.encode())
        given.seek(0)
        streams = (given.fileno(), out.fileno(), err.fileno())
        pid, answer = forking().start(arguments, environment, streams, modules)
        with answer:
            answer.settimeout(timeout)
            try:
                code = code_of(answer.recv(32))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(arguments, timeout, read(out), read(err)) from None
        return subprocess.CompletedProcess(
            arguments, code, read(out).decode(), read(err).decode()
        )


def read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


class Output(asyncio.StreamReaderProtocol):
    """Tells when the pipe has been read to its end and is closed."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()
        self.is_closed = asyncio.Event()
        super().__init__(self.reader)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.is_closed.set()


class Process:
    """The part of asyncio.subprocess.Process that tests use of a server."""

    def __init__(self, pid: int, answer: socket.socket, output: Output) -> None:
        self.pid = pid
        self.stdout = output.reader
        self.returncode: int | None = None
        self._output = output
        self._ended = asyncio.create_task(self._wait(answer))

    async def _wait(self, answer: socket.socket) -> int:
        with answer:
            answer.setblocking(False)
            self.returncode = code_of(await asyncio.get_running_loop().sock_recv(answer, 32))
        await self._output.is_closed.wait()
        return self.returncode

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)


async def start(
    arguments: Iterable[object],
    environment: Mapping[str, str],
    stderr: IO[bytes],
    modules: tuple[str, ...] = (),
) -> Process | asyncio.subprocess.Process:
    """A command in a session of its own, with its standard output on a pipe."""
    if not is_forkable(environment):
        return await asyncio.create_subprocess_exec(
            *COMMAND, *map(str, arguments), env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=stderr, start_new_session=True,
        )  # fmt: skip
    ours, theirs = os.pipe()
    try:
        streams = (forking().nothing.fileno(), theirs, stderr.fileno())
        pid, answer = await asyncio.to_thread(
            forking().start, arguments, environment, streams, modules, True
        )
    finally:
        os.close(theirs)
    output = Output()
    await asyncio.get_running_loop().connect_read_pipe(lambda: output, os.fdopen(ours, "rb"))
    return Process(pid, answer, output)
