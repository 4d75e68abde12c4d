"""The bytecode that a telemetry device has to hold stays below its ceiling."""

import re
from pathlib import Path

import pytest

from fleetnet_server.provision.library import core, library
from interpreters import Interpreter, interpreters
from rules.mpy_sizes import DOCUMENT, LINKS, compiled, imported_by_telemetry, sizes, tables

# Bytes of .mpy that a device which sends readings imports, whatever its one transport is.
LIMIT = 40_960


async def test_what_telemetry_imports_is_small() -> None:
    imported = await imported_by_telemetry()
    size = sizes()
    print(tables(size, imported))
    for link in LINKS:
        total = sum(size[name] for name in imported[link])
        assert total <= LIMIT, f"{link}: {total} B of .mpy, {total - LIMIT} above {LIMIT}"


async def test_the_core_holds_all_that_telemetry_imports() -> None:
    """Else `device install --parts core` and manifest.py leave out what everybody needs."""
    for link, imported in (await imported_by_telemetry()).items():
        assert len(imported) > 20
        assert f"fleetnet.ports.micropython_{'dtls' if link == 'dtls' else 'streams'}" in imported
        assert imported <= core(library()), imported - core(library())


def test_the_document_names_every_module() -> None:
    named = set(re.findall(r"^\| (fleetnet\S*) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE))
    missing = set(library()) ^ named
    assert not missing, f"run python tests/rules/mpy_sizes.py: {sorted(missing)}"


# What compiled files hold as numbers, a program on a board can still ask for by its name.
NUMBERS = """
import sys
sys.path.insert(0, %r)
import fleetnet
from fleetnet.errors import LIMIT, REVOKED
from fleetnet import errors
try:
    errors.NONSENSE
except AttributeError:
    same = fleetnet.Rejected is errors.Rejected
    print(fleetnet.__file__.rsplit(".", 1)[1], LIMIT, REVOKED, errors.IDLE, same)
"""


@pytest.mark.parametrize("runtime", interpreters(), ids=lambda each: each.name)
def test_reason_codes_are_there_by_name(runtime: Interpreter, tmp_path: Path) -> None:
    for path, content in compiled().items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    done = runtime.run("-c", NUMBERS % str(tmp_path))
    assert done.stdout.split() == ["mpy", "11", "8", "3", "True"], done.stdout + done.stderr
