"""Rows whose rig is a test: run at their full length, with the test's own control.

    python tests/proof/by_tests.py [--rows 4,13,14,18,24,25]

A test that is skipped shows nothing: its row is told as not run, with the reason.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_PATH = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]
if __name__ == "__main__":
    sys.path[:0] = _PATH

from proof.verdict import Row, Skipped, arguments, finish, noticed  # noqa: E402

_END = "tests/end_to_end"
_PATIENCE_S = 3600


class Proof(NamedTuple):
    """One row.

    Attributes:
        tests: node ids that have to pass. control: node ids that show the known bad variant.
        breaks: of broken.py; then the control's tests have to fail, else to pass.
        sign: what a broken control's failure says; any other, as of a test that hangs, is none.
        whole, quick: environment of a whole and of a quick run.
    """

    row: str
    fault: str
    expected: str
    tests: tuple[str, ...]
    control: tuple[str, ...]
    control_is: str
    breaks: str = ""
    sign: str = ""
    whole: dict[str, str] = {}  # noqa: RUF012
    quick: dict[str, str] = {}  # noqa: RUF012
    quick_tests: tuple[str, ...] = ()
    in_quick: bool = True


PROOFS = (
    Proof(
        "4", "kill -9 of the server under load, over the wire",
        "no acknowledged message lost, none twice, in order",
        (f"{_END}/test_kill.py::test_killed_server_loses_nothing",),
        (f"{_END}/test_kill.py::test_control_a_server_that_acknowledges_too_early_is_found",),
        "a server that acknowledges before its commit: found",
        whole={"FLEETNET_KILLS": "100"}, quick={"FLEETNET_KILLS": "3"},
    ),
    Proof(
        "13", "CA rotation A, A and B, B under load",
        "nobody cut off but for a new identity, no reading lost",
        (f"{_END}/test_rotation.py::test_ca_rollover",),
        (f"{_END}/test_rotation.py::test_a_device_without_the_new_anchor_holds_the_rollover_up",),
        "a fleet with a device that lacks the new anchor: the rollover does not end",
        in_quick=False,
    ),
    Proof(
        "14", "the server's certificate, its key, and its CA change under load",
        "no session ends but for a new identity; who connects then meets the new one",
        (f"{_END}/test_reload.py::test_everything_changes_and_no_session_ends",),
        (f"{_END}/test_reload.py::test_everything_changes_and_no_session_ends",),
        "a server that cuts every session when it reloads: the test fails", breaks="cut-at-reload",
        sign="ended the session: peer is going away", in_quick=False,
    ),
    Proof(
        "18", "clocks: device 1970 and 2000, CA and server past and future",
        "known by its key, or refused by name; verification is never left out",
        (
            f"{_END}/test_links.py::test_first_contact_in_the_year_2000",
            f"{_END}/test_links.py::test_first_contact_with_an_impostor",
            f"{_END}/test_doctor_bundle.py::test_clocks",
            "tests/fail_closed/test_certificates.py::test_unset_clock_is_named",
            "tests/fail_closed/test_certificates.py::test_untrusted_server_hears_nothing",
        ),
        ("tests/fail_closed/test_certificates.py::"
         "test_control_a_device_that_verifies_nothing_is_heard",),
        "a device that verifies nothing: its readings are heard",
        quick_tests=("tests/fail_closed/test_certificates.py::test_unset_clock_is_named",),
    ),
    Proof(
        "24", "MQTT broker down, and the server killed while it catches up",
        "every reading arrives, in order for each device, duplicates by key only",
        (f"{_END}/test_mqtt.py::test_an_outage_and_a_killed_server_lose_nothing",),
        (f"{_END}/test_mqtt.py::test_an_outage_and_a_killed_server_lose_nothing",),
        "an outbox that takes what it could not publish for done: the test fails",
        breaks="lossy-outbox", sign="stored messages were never published", in_quick=False,
    ),
    Proof(
        "25", "PostgreSQL killed, all its processes at once, under load",
        "no acknowledged message lost, none twice, commits again within 10 s",
        ("tests/server/store/test_postgres_crash.py",),
        ("tests/server/store/test_postgres_crash.py",),
        "a batch that is acknowledged before it goes to the database: the test fails",
        breaks="postgres-ack-early", sign="some are lost",
    ),
)  # fmt: skip


class Outcome(NamedTuple):
    """What a run of pytest came to."""

    passed: int
    failed: int
    errors: int
    skipped: list[str]
    printed: list[str]
    why: str
    seconds: float


def run(nodes: tuple[str, ...], environment: dict[str, str]) -> Outcome:
    """Run tests in a process of their own."""
    path = [*_PATH, *filter(None, [os.environ.get("PYTHONPATH", "")])]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(path), **environment}
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "proof.breaking",
            "-n", "0", f"--junitxml={report}", "-o", "junit_logging=system-out", *nodes,
        ]  # fmt: skip
        began = time.monotonic()
        done = subprocess.run(
            command, env=settings, cwd=ROOT, capture_output=True, text=True,
            timeout=_PATIENCE_S, check=False,
        )  # fmt: skip
        seconds = time.monotonic() - began
        if not report.exists():
            return Outcome(0, 0, 1, [], [], (done.stdout + done.stderr)[-300:], seconds)
        return _outcome(ElementTree.parse(report), seconds)  # noqa: S314 - our own pytest wrote it


def _outcome(tree: "ElementTree.ElementTree[ElementTree.Element]", seconds: float) -> Outcome:
    passed = failed = errors = 0
    skipped: list[str] = []
    printed: list[str] = []
    why = ""
    for case in tree.iter("testcase"):
        bad = [*case.iter("failure"), *case.iter("error")]
        left_out = case.find("skipped")
        if bad:
            failed += case.find("failure") is not None
            errors += case.find("error") is not None
            why = why or " ".join((bad[0].get("message") or "").split())
        elif left_out is not None:
            skipped.append(left_out.get("message") or "skipped")
        else:
            passed += 1
        printed += [
            line for out in case.iter("system-out") for line in (out.text or "").splitlines()
            if line.startswith("{") and re.search(r"\d", line)
        ]  # fmt: skip
    return Outcome(passed, failed, errors, skipped, printed, why, seconds)


def judge(proof: Proof, is_quick: bool) -> Row | Skipped:
    """Run a row's tests, then its control."""
    if is_quick and not proof.in_quick:
        return Skipped(proof.row, proof.fault, "too long for --quick: a minute or two")
    environment = proof.quick if is_quick else proof.whole
    nodes = proof.quick_tests if is_quick and proof.quick_tests else proof.tests
    found = run(nodes, environment)
    bad = found.failed + found.errors
    if found.skipped and not bad:
        return Skipped(proof.row, proof.fault, "; ".join(sorted(set(found.skipped))))
    broken = {"PROOF_BREAK": proof.breaks} if proof.breaks else {}
    control = run(proof.control, {**proof.quick, **broken})
    if proof.breaks:
        # A test that could not be set up, that hung or did not run has not seen the fault.
        is_red = control.failed > 0 and not control.errors and noticed([control.why], proof.sign)
        sign = re.search(".{0,40}" + proof.sign, control.why) if is_red else None
        said = sign[0] if sign else f"NOT SEEN: {control.why[:160]}"
        said = f"{proof.control_is}: {said}"
    else:
        is_red, said = control.passed > 0 and not control.failed + control.errors, proof.control_is
    figure = f"{found.passed} tests in {found.seconds:.0f} s"
    if found.printed:
        figure += "; " + found.printed[0].strip("{}").replace("'", "")[:220]
    if bad:
        figure += f"; {bad} FAILED: {found.why[:160]}"
    return Row(
        proof.row, proof.fault, proof.expected, figure, not bad and found.passed > 0,
        said, is_red,
    )  # fmt: skip


def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", default=",".join(proof.row for proof in PROOFS))
    options = parser.parse_args(words)
    names = options.rows.split(",")
    found = [judge(proof, options.quick) for proof in PROOFS if proof.row in names]
    return finish(found, options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
