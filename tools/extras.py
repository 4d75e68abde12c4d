"""Print what pyproject.toml asks for with some extras: `python tools/extras.py server,web`."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def requirements(extras: list[str], project: Path = ROOT / "pyproject.toml") -> list[str]:
    """Return the requirements of an install with ``extras``, those that name us resolved."""
    document = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    own = re.compile(rf"{re.escape(document['name'])}\[([^\]]+)\]")
    found: dict[str, None] = dict.fromkeys(document["dependencies"])
    waiting, seen = list(extras), set()
    while waiting:
        extra = waiting.pop(0)
        if extra in seen:
            continue
        seen.add(extra)
        for line in document["optional-dependencies"][extra]:
            ours = own.fullmatch(line)
            if ours:
                waiting += ours[1].split(",")
            else:
                found[line] = None
    return list(found)


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1].split(","))))
