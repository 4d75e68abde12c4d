"""The bytecode that a telemetry device has to hold stays below its ceiling."""

import re

from fleetnet_server.provision.library import core, library
from rules.mpy_sizes import DOCUMENT, imported_by_telemetry, sizes, tables

# Bytes of .mpy that a device which sends readings over DTLS and TLS imports. What we want is
# 40,960; docs/memory.md says what stands between. Until then it may not grow. Identities that
# are renewed over the session added 600 B.
LIMIT = 49_500


async def test_what_telemetry_imports_is_small() -> None:
    imported = await imported_by_telemetry()
    size = sizes()
    print(tables(size, imported))
    total = sum(size[name] for name in imported)
    assert total <= LIMIT, f"{total} B of .mpy, {total - LIMIT} above {LIMIT}"


async def test_the_core_holds_all_that_telemetry_imports() -> None:
    """Else `device install --parts core` and manifest.py leave out what everybody needs."""
    imported = await imported_by_telemetry()
    assert len(imported) > 20
    assert imported <= core(library()), imported - core(library())


def test_the_document_names_every_module() -> None:
    named = set(re.findall(r"^\| (fleetnet\S*) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE))
    missing = set(library()) ^ named
    assert not missing, f"run python tests/rules/mpy_sizes.py: {sorted(missing)}"
