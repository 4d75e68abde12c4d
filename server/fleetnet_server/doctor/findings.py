"""Findings: what was looked at, how it is, and one line that helps."""

from collections.abc import Iterable
from typing import Any, NamedTuple

OK, WARN, BAD = "ok", "warn", "bad"
_LEVELS = (OK, WARN, BAD)


class Finding(NamedTuple):
    """One finding; the device's own doctor makes the same.

    Attributes:
        check: what was looked at: "clock", "bundle", "folder", "ca", "server", "store",
            "registry", "psk", "name", "tcp", "udp", "chain", "tls", "dtls", "session", "heap",
            "board", "network", "doctor"; before a start also "settings", "policy", "ports",
            "disk", "limits", "user", "database".
        level: "ok", "warn" (it works, or another way does) or "bad".
        text: the cause, named. remedy: what helps, "" for "ok".
    """

    check: str
    level: str
    text: str
    remedy: str = ""


def worst(findings: Iterable[Finding]) -> str:
    """Return the worst level, "ok" of none."""
    return max((one.level for one in findings), key=_LEVELS.index, default=OK)


def document(findings: list[Finding]) -> dict[str, Any]:
    """Return what --json prints."""
    level = worst(findings)
    return {
        "ok": level != BAD,
        "level": level,
        "findings": [one._asdict() for one in findings],
    }


def lines(findings: list[Finding]) -> str:
    """Return the findings for people, as the device's doctor prints its own."""
    out = []
    for one in findings:
        level = one.level if one.level == OK else one.level.upper()
        out.append(f"{level:<5} {one.check}: {one.text}")
        if one.remedy:
            out.append(f"      -> {one.remedy}")
    return "\n".join(out)
