"""docs/cli.md has the help of every command as it is."""

import subprocess
import sys

from interpreters import ROOT


def test_the_reference_is_what_click_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/cli_reference.py"), "--check"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"run `python tools/cli_reference.py` {done.stderr}"
