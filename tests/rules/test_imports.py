"""The contracts of the imports (pyproject.toml) leave no module out; lint-imports holds them."""

import tomllib

from rules.tree import ROOT

# What opens links, waits and keeps time; every other module of fleetnet/ is the protocol.
SHELL = {"__init__", "endpoint", "hub", "hub_link", "names", "streams", "wrapping"}


def test_every_module_of_the_protocol_is_kept_from_clock_and_socket() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = [
        one for one in settings["tool"]["importlinter"]["contracts"] if one["id"] == "sans-io"
    ]
    named = {name.removeprefix("fleetnet.") for name in contract["source_modules"]}
    modules = {path.stem for path in (ROOT / "fleetnet").glob("*.py")}
    assert named == modules - SHELL, "name it in the contract sans-io, or here in SHELL"
