"""What mkdocs does for this site besides: a hook, see `hooks` of mkdocs.yml.

The pages of docs/ are read in two places: in the repository, and on the site. A link out of docs/,
as ``../examples/hub.py``, works in the first. On the site it becomes the address of that file in
the repository (``extra.repository``); one to a file that does not exist is a warning, which
`--strict` makes an error. A link whose text is the name of the page's file, as ``server.md``, has
the page's title there: the site shows no files.

``FOLDER/*.md`` in the navigation stands for the pages of a folder in order of their names.
"""

import logging
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_log = logging.getLogger("mkdocs.plugins.site_hook")

# A link or a picture: [text](target) or [text](target#anchor), not one with a scheme.
_LINK = re.compile(r"(?P<begin>\]\()(?P<target>(?![a-z]+:|#|/)[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
# The name of a page for the page: [server.md](server.md#anchor).
_NAMED = re.compile(r"\[`?[\w./-]+\.md`?\]\((?P<target>[\w./-]+\.md)(?P<anchor>#[^)\s]*)?\)")
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
_FENCE = re.compile(r"^ *(```|~~~)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Write out the folders of the navigation."""
    config.nav = _written_out(config.nav, Path(config.docs_dir))
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into addresses there."""
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]  # it would have one line
    root = Path(config.config_file_path).parent
    here = (Path(config.docs_dir) / page.file.src_uri).parent

    def replaced(found: re.Match[str]) -> str:
        path = Path(os.path.normpath(here / found["target"]))
        if path.is_relative_to(config.docs_dir):
            return found[0]
        if not path.exists() or not path.is_relative_to(root):
            _log.warning("%s: no file %s for a link", page.file.src_uri, found["target"])
        kind = "tree" if path.is_dir() else "blob"
        address = f"{config.extra['repository']}/{kind}/main/{os.path.relpath(path, root)}"
        return f"{found['begin']}{address}{found['anchor'] or ''})"

    def titled(found: re.Match[str]) -> str:
        path = here / found["target"]
        if not path.resolve().is_relative_to(config.docs_dir) or not path.is_file():
            return found[0]
        title = _TITLE.search(path.read_text(encoding="utf-8"))
        return f"[{title[1]}]({found['target']}{found['anchor'] or ''})" if title else found[0]

    def changed(line: str) -> str:
        return _LINK.sub(replaced, _NAMED.sub(titled, line))

    return "\n".join(_outside_code(markdown, changed))


def _outside_code(markdown: str, change: Any) -> Any:
    is_fenced = False
    for line in markdown.split("\n"):
        is_fenced ^= _FENCE.match(line) is not None
        yield line if is_fenced or line.startswith("    ") else change(line)


def _written_out(entry: Any, docs: Path) -> Any:
    if isinstance(entry, dict):
        return {title: _written_out(value, docs) for title, value in entry.items()}
    if not isinstance(entry, list):
        return entry
    found = []
    for one in entry:
        if isinstance(one, str) and "*" in one:
            found += sorted(str(path.relative_to(docs)) for path in docs.glob(one))
        else:
            found.append(_written_out(one, docs))
    # The page of a folder itself comes first, whatever its name sorts to.
    return sorted(found, key=lambda one: not (isinstance(one, str) and one.endswith("index.md")))
