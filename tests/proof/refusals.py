"""Who is not to be trusted is refused, and is told why: the figure of row 15.

    python tests/proof/refusals.py [--tries 20] [--quick] [--json FILE]

Runs tests/fail_closed/test_certificates.py: device programs on CPython and every MicroPython here,
over TLS 1.2, TLS 1.3 and DTLS, with a certificate of another CA, of nobody, none at all, expired,
not yet valid, for another purpose; and tests/fail_closed/test_impostors.py: names and CA leaves.
Expected: each try ends in the alert of its case. MicroPython's TLS 1.3 does not tell the alert.

A case of CPython that is skipped is a failure: only interpreters may be absent. The control is a
device that verifies nothing: the counter that the tests trust counts its bytes.
"""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from proof.verdict import ROOT, Row, arguments, finish

FILES = ("tests/fail_closed/test_certificates.py", "tests/fail_closed/test_impostors.py")
CONTROL = "test_control_a_device_that_verifies_nothing_is_heard"
QUICK_TRIES = 2


class Tests(NamedTuple):
    """What came of the cases.

    Attributes:
        failed: names, among them cases that may not be skipped and were.
        skipped: how many of a MicroPython were. is_heard: the control ran and passed.
    """

    passed: int
    failed: list[str]
    skipped: int
    is_heard: bool


def run(tries: int) -> Tests:
    """Run the tests in a pytest of its own, and read its JUnit file."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "junit.xml"
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={out}",
             *FILES],
            cwd=ROOT, check=False, stdout=subprocess.DEVNULL,
            env=os.environ | {"FLEETNET_TRIES": str(tries)},
        )  # fmt: skip
        cases = list(ElementTree.parse(out).getroot().iter("testcase"))  # noqa: S314 - our own
    return judge(cases)


def judge(cases: "list[ElementTree.Element]") -> Tests:
    """Sort JUnit's cases."""
    kinds = ("failure", "error", "skipped")
    came = {
        str(one.get("name")): next((kind for kind in kinds if one.find(kind) is not None), "")
        for one in cases
    }
    absent = [name for name, kind in came.items() if kind == "skipped" and "micropython" in name]
    bad = [
        name + (" was skipped" if kind == "skipped" else "")
        for name, kind in came.items() if kind and name not in absent
    ]  # fmt: skip
    if CONTROL not in came:
        bad.append(f"{CONTROL} did not run")
    passed = sum(not kind for kind in came.values())
    return Tests(passed, bad, len(absent), came.get(CONTROL) == "")


def row_of(found: Tests, tries: int) -> Row:
    bad = f": {', '.join(found.failed[:5])}" if found.failed else ""
    return Row(
        "15",
        "wrong CA, no certificate, wrong EKU, expired, not yet valid, a leaf that is a CA",
        "refused by the alert of its case in TLS 1.2, TLS 1.3 and DTLS, no byte heard",
        f"{found.passed} cases of {tries} tries each as expected, {len(found.failed)} not{bad}; "
        f"{found.skipped} not run here",
        found.passed > 0 and not found.failed,
        "a device that verifies nothing is heard"
        if found.is_heard else "a device that verifies nothing was not heard, or did not run",
        found.is_heard,
    )


def main(words: list[str]) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--tries", type=int, default=20)
    options = parser.parse_args(words)
    tries = min(options.tries, QUICK_TRIES) if options.quick else options.tries
    return finish([row_of(run(tries), tries)], options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
