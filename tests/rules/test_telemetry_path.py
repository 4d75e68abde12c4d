"""docs/telemetry-path.md names places that exist."""

import importlib
import re

from rules.tree import ROOT


def names() -> list[str]:
    text = (ROOT / "docs" / "telemetry-path.md").read_text()
    rows = [line.split("|")[2] for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    return [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]


def resolve(name: str) -> object:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def test_every_name_of_the_path_exists() -> None:
    assert len(names()) >= 20
    for name in names():
        assert callable(resolve(name)), name
