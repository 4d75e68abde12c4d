"""Settings as they may be shown: what is secret is replaced, whatever sets it."""

import re
from typing import Any

from pydantic import SecretStr

HIDDEN = "***"

_SECRET = re.compile(r"password|passwd|secret|token|credential|api_?key|private|dsn", re.IGNORECASE)
# The user and the password of a URL (RFC 3986 section 3.2.1).
_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def shown(key: str, value: Any) -> Any:
    """Return the value of a setting for a screen or a log."""
    if isinstance(value, SecretStr) or (_SECRET.search(key) and value not in ("", None)):
        return HIDDEN
    if isinstance(value, str):
        return _USER.sub(HIDDEN, value)
    return value
