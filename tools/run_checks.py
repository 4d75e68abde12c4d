"""Run the project's checks, and close with a table of what ran.

    python tools/run_checks.py all|style|types|imports|unit [-- PYTEST ARGUMENTS]

All checks run even when one fails. STRICT=1 in the environment makes whatever was skipped, and
every required tool that the set-up could not provide, a failure; a run with pytest arguments
of its own (a part of the tests) is judged by that part alone.
The last line printed is ``N passed, N failed, N skipped``, over the tests of all interpreters,
where a check without tests of its own (ruff, mypy ...) counts as one.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
BIN = Path(sys.executable).parent
PACKAGES = ["fleetnet", "server/fleetnet_server", "device_lib/fleetnet_device"]
# What other CPythons run: what another version of the language, of ssl, asyncio or sqlite3, or
# another build of a package that is compiled, could change. The protocol and the device library,
# both ends' sockets with TLS and DTLS, certificates, server and store, the commands, HTTP, MQTT,
# and devices against a server in a process. Left out: rules about the source, MicroPython's runs,
# and trials by the ten thousand (power cuts, damage, weeks): they ask about algorithms, and the
# answer on one version is the answer on all.
PORTABLE = [
    "tests/core",
    "tests/device/test_backoff.py",
    "tests/device/test_der_dates.py",
    *(f"tests/ports/test_cpython_{each}.py" for each in (
        "datagrams", "dtls_server", "sockets", "streams",
    )),
    *(f"tests/ports/test_openssl_{each}.py" for each in (
        "ciphers", "context", "dtls", "mixed", "object", "peers", "pins", "psk",
    )),
    "tests/server/bridge/test_feed.py",
    "tests/server/bridge/test_inbound.py",
    "tests/server/cli/test_bare_install.py",
    "tests/server/cli/test_commands.py",
    "tests/server/core",
    *(f"tests/server/identity/test_{each}.py" for each in (
        "certificate", "crl", "expiry", "names", "permissions", "pki", "policy", "psk",
    )),
    "tests/server/net",
    *(f"tests/server/store/test_{each}.py" for each in (
        "blob_quotas", "bodies", "commands", "migrations", "ordering", "query", "registry",
        "retention", "sqlite", "writer",
    )),
    "tests/server/test_config.py",
    "tests/server/test_crls.py",
    "tests/server/test_reload.py",
    "tests/server/web/test_access.py",
    "tests/end_to_end/test_links.py::test_dtls_goes_first",
    "tests/test_bad_network.py",
]  # fmt: skip
NOT_PORTABLE = [f"--ignore=tests/core/test_{each}.py" for each in (
    "identity_slots", "spool_power", "week",
)]  # fmt: skip


class Result:
    """The outcome of one check: tests counted where it has any, and why something was skipped."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ok = False
        self.passed = self.failed = 0
        self.skips: Counter[str] = Counter()
        self.seconds = 0.0
        self.note = ""
        self.output: IO[str] | None = None  # of a check that runs beside others: shown later

    def line(self) -> str:
        skipped = sum(self.skips.values())
        word = "ok" if self.ok else "FAILED"
        tests = f"{self.passed} passed, {self.failed} failed" if self.passed + self.failed else ""
        if skipped:
            tests += f", {skipped} skipped"
        return f"  {self.name:<28} {word:<7} {self.seconds:6.1f} s  {tests}{self.note}"


Check = Callable[[Result, list[str]], None]


def run(result: Result, command: list[str]) -> int:
    """Run a command in the checkout, its output on that of the check; return its exit status."""
    line = " ".join(Path(c).name if c.startswith("/") else c for c in command)
    print(f"\n== {line}", flush=True, file=result.output)
    # The tests start the commands many hundred times: without compiled files (.gitignore has
    # them, `make clean` removes them) two thirds of that time would be the compiler's.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, check=False,
        stdout=result.output, stderr=result.output and subprocess.STDOUT,
    ).returncode  # fmt: skip


def style(result: Result, _: list[str]) -> None:
    result.ok = run(result, [str(BIN / "ruff"), "check", "."]) == 0


def types(result: Result, _: list[str]) -> None:
    packages = [package for package in PACKAGES if (ROOT / package).is_dir()]
    # What a program that uses the Python API gets to know: the packages are typed (py.typed).
    examples = sorted(str(path) for path in (ROOT / "examples").glob("backend_*.py"))
    result.ok = run(result, [str(BIN / "mypy"), *packages, *examples]) == 0


def imports(result: Result, _: list[str]) -> None:
    result.ok = run(result, [str(BIN / "lint-imports"), "--no-cache"]) == 0


def unit(result: Result, arguments: list[str]) -> None:
    pytest(result, sys.executable, arguments)


def count(result: Result, report: Path) -> None:
    """Add the tests of a JUnit report to the result; skips by their reason."""
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - written by our pytest
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            result.failed += 1
        elif skipped is None:
            result.passed += 1
        elif skipped.get("type") == "pytest.xfail":
            result.passed += 1
        else:
            result.skips[skipped.get("message") or "no reason given"] += 1


def pytest(result: Result, python: str, arguments: list[str]) -> None:
    report = TOOLS / f"report-{os.getpid()}-{threading.get_ident()}.xml"
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}"]
    if not arguments or arguments[0] in PORTABLE:
        # Most tests wait for devices and servers: eight at a time keep two cores busy.
        at_a_time = 4 * (os.cpu_count() or 1)
        if result.output is not None:
            at_a_time = (at_a_time + 1) // 2  # another pytest runs beside this one
        command += ["-n", str(at_a_time), "--dist", "worksteal"]
    try:
        status = run(result, [*command, *arguments])
        if report.exists():
            count(result, report)
    finally:
        report.unlink(missing_ok=True)
    result.ok = status == 0
    if status not in (0, 1):
        result.note = f" (pytest ended with status {status})"


def other_python(folder: Path) -> Check:
    """A check by the environment that set-up made for another CPython."""

    def check(result: Result, arguments: list[str]) -> None:
        python = str(folder / "bin" / "python")
        names = "import fleetnet, fleetnet_server, fleetnet_device"
        imported = run(result, [python, "-c", names]) == 0
        answered = run(result, [str(folder / "bin" / "fleetnet"), "--help"]) == 0
        pytest(result, python, [*PORTABLE, *NOT_PORTABLE, *arguments])
        result.ok = result.ok and imported and answered
        if not (imported and answered):
            result.note += " (the packages do not import, or fleetnet --help fails)"

    return check


def absent_tools() -> list[tuple[str, str, str]]:
    """What set-up could not provide: (name, required or optional, why)."""
    path = TOOLS / "absent"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [line.split("\t", 2) for line in lines]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]


def chosen(what: str) -> list[dict[str, Check]]:
    """Checks by name: those of one group run side by side, the groups one after the other."""
    single = {"style": style, "types": types, "imports": imports, "unit": unit}
    if what in single:
        return [{what: single[what]}]
    if what != "all":
        sys.exit(f"run_checks: {what} is none of all, {', '.join(single)}")
    # mypy and the end of each run of pytest keep one core busy, not two.
    beside: dict[str, Check] = {"types (mypy)": types}
    for folder in sorted(ROOT.glob(".venv-3.*")):
        if any(folder.glob("stamp.*")):
            beside[f"tests (Python {folder.name.removeprefix('.venv-')})"] = other_python(folder)
    main = f"tests (Python {sys.version_info[0]}.{sys.version_info[1]})"
    return [{"style (ruff)": style}, {"imports (import-linter)": imports}, {main: unit}, beside]


def perform(check: Check, result: Result, arguments: list[str]) -> None:
    begin = time.monotonic()
    try:
        check(result, arguments)
    finally:
        result.seconds = time.monotonic() - begin


def perform_all(group: dict[str, Check], arguments: list[str]) -> list[Result]:
    """Run the checks of a group; the output of several is shown when they have ended."""
    results = [Result(name) for name in group]
    if len(group) == 1:
        perform(*group.values(), results[0], arguments)
        return results
    threads = []
    for check, result in zip(group.values(), results, strict=True):
        result.output = tempfile.TemporaryFile("w+", errors="replace")
        threads.append(threading.Thread(target=perform, args=(check, result, arguments)))
        threads[-1].start()
    for thread, result in zip(threads, results, strict=True):
        thread.join()
        assert result.output is not None
        with result.output as output:
            output.seek(0)
            shutil.copyfileobj(output, sys.stdout)
        sys.stdout.flush()
    return results


def close(results: list[Result], strict: bool) -> bool:
    """Print the table and the closing line; return whether the run is good."""
    absent = absent_tools()
    required = [row for row in absent if row[1] == "required"]
    skipped = sum(sum(result.skips.values()) for result in results)
    print("\nWhat ran")
    for result in results:
        print(result.line())
    if skipped or absent:
        print("\nWhat did not")
    for name, need, why in absent:
        print(f"  {name} ({need}): {why}")
    for result in results:
        for reason, times in sorted(result.skips.items()):
            print(f"  {times} x in {result.name}: {reason}")
    good = all(result.ok for result in results)
    if strict and (required or skipped):
        print(f"\nSTRICT=1: {skipped} skipped, {len(required)} required tools missing: a failure")
        good = False
    # A check that ran whole and has no tests to count: "0 passed" would read as if nothing had.
    passed = sum(result.passed or int(result.ok and not result.skips) for result in results)
    failed = sum(max(result.failed, 0 if result.ok else 1) for result in results)
    failed += (skipped + len(required)) if strict else 0
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return good


def main() -> int:
    what, *rest = sys.argv[1:] or ["all"]
    arguments = rest[1:] if rest[:1] == ["--"] else rest
    TOOLS.mkdir(exist_ok=True)
    results = [result for group in chosen(what) for result in perform_all(group, arguments)]
    strict = os.environ.get("STRICT", "") not in ("", "0") and not arguments
    return 0 if close(results, strict) else 1


if __name__ == "__main__":
    sys.exit(main())
