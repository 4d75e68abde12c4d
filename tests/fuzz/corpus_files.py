"""The corpus: corpus/TARGET.hex, one input a line; what follows a ``#`` is for people.

Text, so that a change can be read. tests/proof/fuzzing.py --keep adds what atheris found.
"""

from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).with_name("corpus")


def read(name: str) -> list[bytes]:
    """Return the inputs of a target, without doubles, in the order of the file."""
    lines = (FOLDER / f"{name}.hex").read_text().splitlines()
    found = (bytes.fromhex(line.partition("#")[0]) for line in lines if line and line[0] != "#")
    return list(dict.fromkeys(found))


def add(name: str, inputs: Iterable[bytes]) -> int:
    """Add inputs that are not there yet; return how many that were."""
    known = set(read(name))
    new = sorted(set(inputs) - known, key=lambda data: (len(data), data))
    with (FOLDER / f"{name}.hex").open("a") as file:
        file.writelines(f"{data.hex()}\n" for data in new)
    return len(new)
