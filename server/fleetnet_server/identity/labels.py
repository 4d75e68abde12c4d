"""Groups of devices, and what people write on them."""

import re
from collections.abc import Mapping

from fleetnet_server.errors import StoreError

# What an operator reads in one table; each is text in every list of devices.
MAX_LABELS = 32
_GROUP = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
# A line of a terminal and a half.
_MAX_VALUE = 128


def is_group(name: str) -> bool:
    """Say whether ``name`` can be the name of a group."""
    return _GROUP.fullmatch(name) is not None


def check_group(group: str | None) -> None:
    """Raise StoreError for what is no name of a group."""
    if group is not None and not is_group(group):
        raise StoreError(
            f"{group!r} is no group: 1 to 32 of a-z 0-9 . _ -, the first a letter or digit"
        )


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise StoreError for labels that are too many, too long or not printable."""
    if len(labels) > MAX_LABELS:
        raise StoreError(f"{len(labels)} labels, at most {MAX_LABELS}: take some away")
    for key, value in labels.items():
        if not _LABEL.fullmatch(key):
            raise StoreError(f"{key!r} is no label: 1 to 63 letters, digits, . _ / -")
        if len(value) > _MAX_VALUE or not value.isprintable():
            raise StoreError(f"label {key}: at most {_MAX_VALUE} printable characters")
