"""Write the tables of docs/scaling.md, between its marks, out of fleetnet_server/sim/sizing.py.

    python tools/scaling_page.py            # write
    python tools/scaling_page.py --check    # exit code 1 when it would change
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "server"), str(ROOT / "device_lib")]

from fleetnet_server.sim.sizing import FIGURES, rows, size_of  # noqa: E402

PAGE = ROOT / "docs" / "scaling.md"
SIZES = (10_000, 100_000, 1_000_000)


def sizes() -> str:
    """Return the answer for each size, one a column."""
    answers = [rows(size_of(devices)) for devices in SIZES]
    lines = ["| | " + " | ".join(f"{devices:,}" for devices in SIZES) + " | by |"]
    lines.append("| --- |" + " ---: |" * len(SIZES) + " --- |")
    for each in zip(*answers, strict=True):
        bounds = dict.fromkeys(one.how for one in each)
        cells = [each[0].what, *(one.text for one in each), "; ".join(bounds)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figures() -> str:
    """Return all figures, with where they are from."""
    lines = ["| figure | value | | it is | |", "| --- | ---: | --- | --- | --- |"]
    lines += [
        f"| `{name}` | {one.value:,g} | {one.unit} | {one.origin} | {one.why} |"
        for name, one in FIGURES.items()
    ]
    return "\n".join(lines)


def page(text: str) -> str:
    """Return the page with its tables made anew."""
    for name, table in (("sizes", sizes()), ("figures", figures())):
        pattern = rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->)"
        text, count = re.subn(
            pattern, lambda m, table=table: f"{m[1]}{table}\n{m[2]}", text, flags=re.DOTALL
        )
        if count != 1:
            raise SystemExit(f"{PAGE} lacks the mark {name}")
    return text


if __name__ == "__main__":
    old = PAGE.read_text(encoding="utf-8")
    new = page(old)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if new == old else 1)
    PAGE.write_text(new, encoding="utf-8")
