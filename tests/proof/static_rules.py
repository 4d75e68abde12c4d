"""bandit, and semgrep with rules of our own, over everything that is installed; offline.

    python tests/proof/static_rules.py [--quick] [--json FILE]

tools/semgrep/rules.yml: no secret in a log, values bound in SQL, no memory by a number of the wire,
no assert that guards input, no context that verifies nobody, no shell, no command as text, no data
as code, no time.sleep() in async code. What is meant as it is has `# nosemgrep: RULE - reason`.

Expected: no finding. The control: each rule finds its file in tools/semgrep/bad/, bandit too. A
tool that is missing (tools/proof_tools.sh installs semgrep, the extra `proof` bandit) is named and
its row fails: a check that did not run is not green.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from proof.graders import place_of
from proof.verdict import ROOT, Row, arguments, finish

CODE = ("fleetnet", "server/fleetnet_server", "device_lib/fleetnet_device", "tools")
RULES = "tools/semgrep/rules.yml"
BAD = "tools/semgrep/bad"
# From medium on. Left to ruff (make style), where each place has its reason beside it: S608 (SQL
# made of constants), S104 (an address for all interfaces), S314 (a report that pytest wrote).
BANDIT = ("-ll", "--skip", "B608,B104,B314")


def run(command: list[str]) -> str:
    quiet = {"SEMGREP_SEND_METRICS": "off", "SEMGREP_ENABLE_VERSION_CHECK": "0"}
    path = f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | quiet | {"PATH": path},
    )  # fmt: skip
    return done.stdout


def semgrep(tool: str, *places: str) -> list[tuple[str, str]]:
    """Return (rule, place) of each finding. Raises RuntimeError: it did not run to its end."""
    out = run(
        [tool, "scan", "--metrics=off", "--disable-version-check", "--json", "--quiet",
         "--no-git-ignore", "--config", RULES, *places]
    )  # fmt: skip
    found = json.loads(out or '{"errors": ["no output"]}')
    if found["errors"]:
        raise RuntimeError(f"semgrep: {found['errors'][:2]}")
    return [
        (one["check_id"].rpartition(".")[2], f"{one['path']}:{one['start']['line']}")
        for one in found["results"]
    ]


def semgrep_row() -> Row:
    tool = place_of("semgrep")
    rules = re.findall(r"^  - id: (\S+)", (ROOT / RULES).read_text(), re.MULTILINE)
    expected = f"no finding by {len(rules)} rules of our own"
    if tool is None:
        return Row("static", "semgrep", expected, "not installed: tools/proof_tools.sh", False,
                   "not run", False)  # fmt: skip
    bad = {rule for rule, _ in semgrep(tool, BAD)}
    found = [one for one in semgrep(tool, *CODE) if not one[1].startswith(BAD)]
    blind = sorted(set(rules) - bad)
    return Row(
        "static", "semgrep over what is installed", expected,
        f"{len(found)} findings {'; '.join(' '.join(one) for one in found[:9])}".strip(),
        not found,
        f"{len(bad)} of {len(rules)} rules find their bad file"
        + (f", not {', '.join(blind)}" if blind else ""),
        not blind,
    )  # fmt: skip


def bandit(*places: str) -> list[str]:
    out = run([sys.executable, "-m", "bandit", "-r", "-f", "json", "-q", *BANDIT, *places])
    found = json.loads(out)
    return [f"{one['test_id']} {one['filename']}:{one['line_number']}" for one in found["results"]]


def bandit_row() -> Row:
    expected = "no finding of medium or high severity"
    try:
        found = [one for one in bandit(*CODE) if BAD not in one]
        bad = bandit(BAD)
    except json.JSONDecodeError:
        return Row("static", "bandit", expected, "not installed: pip install -e .[proof]", False,
                   "not run", False)  # fmt: skip
    return Row(
        "static", "bandit over what is installed", expected,
        f"{len(found)} findings {'; '.join(found[:9])}".strip(), not found,
        f"{len(bad)} findings in {BAD}", bool(bad),
    )  # fmt: skip


def main(words: list[str]) -> int:
    options = arguments(__doc__).parse_args(words)
    return finish([semgrep_row(), bandit_row()], options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
