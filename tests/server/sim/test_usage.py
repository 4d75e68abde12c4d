"""Open files are counted before the first device, and the error names the remedy."""

import os
import subprocess
import sys

from fleetnet_server.sim.usage import usage

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 400))
from fleetnet.errors import FleetError
from fleetnet_server.sim.usage import allow_files
try:
    allow_files(int(sys.argv[1]), "a process of devices", "use more --processes")
except FleetError as error:
    print(error)
else:
    print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def limited(needed: int) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LIMITED, str(needed)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_soft_limit_is_raised_as_far_as_needed() -> None:
    assert limited(200) == "350 400"


def test_the_hard_limit_is_an_error_with_a_remedy() -> None:
    said = limited(1000)
    assert "a process of devices needs 1150 open files, the limit is 400" in said
    assert "use more --processes" in said and "ulimit -Hn 1150" in said


def test_usage_of_this_process_and_of_none() -> None:
    now = usage()
    assert now is not None and now.cpu_s > 0 and now.rss_bytes > 1_000_000
    assert usage(4_194_305) is None
