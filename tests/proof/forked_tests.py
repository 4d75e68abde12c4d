"""Run pytest over a changed module in forked processes, some at a time; used by mutation.py.

The parent has imported pytest and what is large of other people's packages, but nothing of ours:
each child imports our packages anew, one module of them from a syntax tree.
"""

import contextlib
import enum
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import time
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from proof.mutants import Mutant

# Imported before the first fork; a child would need most of a second for them.
_LARGE = (
    "apsw", "asyncio", "cryptography.x509", "hypothesis.stateful", "msgspec", "OpenSSL.SSL",
    "psycopg", "pydantic_settings", "pytest", "pytest_asyncio.plugin", "structlog",
)  # fmt: skip
# Our own, of which a child has to have its own copies.
_OURS = ("fleetnet", "fleetnet_server", "fleetnet_device")
_CPU_TIMES = 6
_CPU_LEAST_S = 5
# A test that waits for what never comes has a patience of its own, of 30 s at most. On a busy
# machine all take longer: a mutant that is only slow is not one that was noticed.
_WALL_TIMES = 10
_WALL_LEAST_S = 120.0
_MEMORY = 2 << 30
_PASSED = 0


class Verdict(enum.Enum):
    """What the tests say of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"


class Case(Protocol):
    """One mutant, its module's path below the checkout, and the tests that judge it."""

    @property
    def module(self) -> str: ...
    @property
    def mutant(self) -> Mutant: ...
    @property
    def tests(self) -> tuple[str, ...]: ...


C = TypeVar("C", bound=Case)


def judge_all(cases: Sequence[C], jobs: int) -> Iterator[tuple[C, Verdict]]:
    """Judge each case; at most ``jobs`` at once, yielded as they end.

    Raises:
        RuntimeError: the tests fail without any change: they cannot judge.
    """
    for name in _LARGE:
        importlib.import_module(name)
    limits = {tests: _limits(tests) for tests in dict.fromkeys(case.tests for case in cases)}
    waiting = list(reversed(cases))
    running: dict[int, tuple[C, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            case = waiting.pop()
            cpu_s, wall_s = limits[case.tests]
            pid = _start(case.module, case.mutant, case.tests, cpu_s)
            running[pid] = case, time.monotonic() + wall_s
        for pid, (case, deadline) in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended and time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                ended = pid
            if ended:
                _end_group(pid)
                del running[pid]
                code = os.waitstatus_to_exitcode(status)
                yield case, Verdict.SURVIVED if code == _PASSED else Verdict.KILLED
        time.sleep(0.005)


def _limits(tests: tuple[str, ...]) -> tuple[int, float]:
    """Run the tests on what is there; return what a mutant gets: CPU, and time; seconds."""
    began = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    pid = _start("", None, tests, 600)
    _, status = os.waitpid(pid, 0)
    _end_group(pid)
    if os.waitstatus_to_exitcode(status) != _PASSED:
        raise RuntimeError(f"these fail without any change, run them first: {' '.join(tests)}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    wall_s = _WALL_LEAST_S + _WALL_TIMES * (time.monotonic() - began)
    return int(_CPU_LEAST_S + _CPU_TIMES * seconds), wall_s


def _end_group(pid: int) -> None:
    """End what the tests of a child have started and left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _start(module: str, mutant: Mutant | None, tests: tuple[str, ...], cpu_s: int) -> int:
    """Fork a child that becomes pytest; return its pid, which is that of its group too."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            _silence()
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
            resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
            code = _test(module, mutant, tests)
        finally:
            os._exit(code)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    return pid


def _silence() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)


def _test(module: str, mutant: Mutant | None, tests: tuple[str, ...]) -> int:
    import pytest

    for name in list(sys.modules):
        if name.partition(".")[0] in _OURS:
            del sys.modules[name]
    if mutant is not None:
        sys.meta_path.insert(0, _Changed(module, mutant))
    # pytest would rather import its plug-ins itself.
    allowed = "ignore::pytest.PytestAssertRewriteWarning"
    options = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", allowed)
    return int(pytest.main([*options, *tests]))


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the one module that is changed, and loads its tree."""

    def __init__(self, path: str, mutant: Mutant):
        parts = Path(path).with_suffix("").parts
        self._name = ".".join(parts[1:] if parts[0] in ("server", "device_lib") else parts)
        self._path = path
        self._mutant = mutant

    def find_spec(
        self, name: str, path: object, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        if name != self._name:
            return None
        return importlib.util.spec_from_loader(name, self, origin=self._path)

    def exec_module(self, module: types.ModuleType) -> None:
        """See importlib.abc.Loader."""
        exec(compile(self._mutant.tree, self._path, "exec"), module.__dict__)  # noqa: S102
