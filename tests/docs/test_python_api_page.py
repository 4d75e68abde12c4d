"""docs/python-api.md shows what examples/ has and what Fleet is."""

import re

from fleetnet_server import Fleet
from fleetnet_server.fleet_device import FleetDevice
from interpreters import ROOT

PAGE = (ROOT / "docs/python-api.md").read_text(encoding="utf-8")


def test_its_program_is_the_example() -> None:
    (program,) = re.findall(r"```python\n(.*?)\n```", PAGE, re.DOTALL)
    assert program in (ROOT / "examples/backend_readings.py").read_text(encoding="utf-8")


def test_what_it_names_is_there_and_what_is_there_it_names() -> None:
    for kind, prefix in ((Fleet, "fleet"), (FleetDevice, "device")):
        named = set(re.findall(rf"`(?:await |@)?{prefix}\.([a-z_]+)", PAGE))
        public = {name for name in vars(kind) if not name.startswith("_")}
        assert named == public, prefix
