"""The list of mutants that no test can kill, with the reason for each.

    fleetnet/frame.py
      decode_frame: seq = 0 -> 1
      decode_frame: ...
          Why both do the same as the original, in as many lines as that takes.
"""

from pathlib import Path

# Module -> name of a mutant -> reason.
Listed = dict[str, dict[str, str]]


def read_list(path: Path) -> Listed:
    """Read the list. Raises ValueError for a line that belongs nowhere, or a missing reason."""
    found: Listed = {}
    module = ""
    names: list[str] = []
    reason: list[str] = []
    for number, line in enumerate([*path.read_text().splitlines(), ""], 1):
        depth = len(line) - len(line.lstrip())
        if reason and depth < 6:
            found[module].update(dict.fromkeys(names, " ".join(reason)))
            names, reason = [], []
        if not line or line.startswith("#"):
            continue
        if depth == 0:
            module = line
            found.setdefault(module, {})
        elif depth == 2 and module:
            names.append(line.strip())
        elif depth == 6 and names:
            reason.append(line.strip())
        else:
            raise ValueError(f"{path.name}:{number}: neither module, mutant nor reason")
        if depth == 0 and names:
            raise ValueError(f"{path.name}:{number}: a mutant before it has no reason")
    if names:
        raise ValueError(f"{path.name}: the last mutant has no reason")
    return found
