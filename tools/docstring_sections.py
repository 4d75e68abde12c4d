"""Show docstrings as they are written here: an extension of griffe, see mkdocs.yml.

Errors and attributes are often named in a row, and with a sentence for all of them:

    Raises:
        CredentialError, Unsupported: the arguments; the socket stays open.
        The TrustError family, Rejected.

    Attributes:
        sent, dropped: readings. connects: sessions opened so far.

Griffe's parser wants one name and a colon in each line, and drops or garbles what is otherwise. So
such a section becomes a list in plain Markdown before it is parsed. A class that says "See the
module's docstring" gets that docstring, as the pages show classes.
"""

import re
from typing import Any

import griffe

_HEAD = re.compile(
    r"^(?P<title>(?:Raises|Attributes)[^:\n]*):\n(?P<body>(?:    .*\n?|\n(?=    ))+)", re.MULTILINE
)
# Names of errors: with a capital inside, or one of the few that have none.
_ERROR = re.compile(r"\b(?=\w{6})(?:[A-Z]+[a-z]+[A-Z]\w*|[A-Z]{2,}[a-z]\w*)\b"
                    r"|\bRejected\b|\bUnreachable\b|\bUnsupported\b")  # fmt: skip
# Names of attributes, where a sentence about them begins.
_ATTRIBUTES = re.compile(r"(?:^|(?<=[.;)] ))[a-z_]\w*(?:, [a-z_]\w*)*(?=: )")
_SEE = re.compile(r"^See the module(?:'s docstring)?[.,;] *(?P<rest>.*)$", re.DOTALL)


class Sections(griffe.Extension):
    """Rewrite every docstring that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        see = _SEE.match(obj.docstring.value)
        if see and obj.module.docstring:
            rest = see["rest"][:1].upper() + see["rest"][1:]
            obj.docstring.value = f"{obj.module.docstring.value}\n\n{rest}"
        obj.docstring.value = _HEAD.sub(as_list, obj.docstring.value + "\n").rstrip()


def as_list(section: re.Match[str]) -> str:
    """Return the section in Markdown."""
    items: list[str] = []
    for line in section["body"].splitlines():
        text = line[4:]
        if text.startswith("    ") and items:
            items[-1] += " " + text.strip()
        elif text.strip():
            items.append(text.strip())
    is_errors = section["title"].startswith("Raises")
    marked = (_errors(item) if is_errors else _attributes(item) for item in items)
    return f"**{section['title']}:**\n\n" + "".join(f"- {item}\n" for item in marked) + "\n"


def _errors(text: str) -> str:
    return _ERROR.sub(lambda name: f"`{name[0]}`", text)


def _attributes(text: str) -> str:
    return _ATTRIBUTES.sub(
        lambda names: ", ".join(f"`{one}`" for one in names[0].split(", ")), text
    )
