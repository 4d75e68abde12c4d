"""Write the reference of all commands into docs/cli.md, below its mark, out of click.

    python tools/cli_reference.py            # write
    python tools/cli_reference.py --check    # exit code 1 when it would change
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "server"), str(ROOT / "device_lib")]

from fleetnet_server.cli.main import main  # noqa: E402

PAGE = ROOT / "docs" / "cli.md"
MARK = "<!-- Below: `python tools/cli_reference.py` writes it. -->\n"
_WIDTH = 100


def reference() -> str:
    """Return the help of every command as Markdown."""
    return "".join(_sections("fleetnet", main, None))


def page(text: str) -> str:
    """Return the page with its lower part made anew."""
    head, mark, _ = text.partition(MARK)
    if not mark:
        raise SystemExit(f"{PAGE} lacks the line {MARK}")
    return head + mark + "\n" + reference()


def _sections(
    name: str, command: click.Command, parent: click.Context | None
) -> Iterator[str]:
    context = click.Context(
        command, info_name=name, parent=parent, terminal_width=_WIDTH, max_content_width=_WIDTH,
        help_option_names=["-h", "--help"],
    )  # fmt: skip
    if isinstance(command, click.Group):
        if parent is not None:
            yield f"## fleetnet {name}\n\n{command.get_short_help_str(200)}\n\n"
        for part in command.list_commands(context):
            found = command.get_command(context, part)
            assert found is not None
            yield from _sections(part, found, context)
        return
    assert parent is not None
    level = "##" if parent.parent is None else "###"
    lines = (line.rstrip() for line in command.get_help(context).splitlines())
    yield f"{level} {context.command_path}\n\n```text\n" + "\n".join(lines) + "\n```\n\n"


if __name__ == "__main__":
    old = PAGE.read_text(encoding="utf-8")
    new = page(old).rstrip() + "\n"
    if "--check" in sys.argv[1:]:
        sys.exit(old != new)
    PAGE.write_text(new, encoding="utf-8")
