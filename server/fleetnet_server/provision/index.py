"""package.json for mip (docs.micropython.org, "Package management").

    {"version": "0.1.0", "deps": [],
     "urls": [["fleetnet/errors.py", "github:OWNER/NAME/fleetnet/errors.py"], ...]}

Addresses are absolute: the mip of MicroPython 1.25 raises ValueError for relative ones.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from fleetnet_server.identity.files import PUBLIC, replace_file
from fleetnet_server.provision.errors import PackageError
from fleetnet_server.provision.library import Module

# Where the package's folder lies in the repository.
_FOLDER_IN_REPOSITORY = {"fleetnet": "fleetnet", "fleetnet_device": "device_lib/fleetnet_device"}
_SERVED = re.compile(r"https?://[^\s/]+(/\S*)?\Z")
_REPOSITORY = re.compile(r"github:[\w.-]+/[\w.-]+\Z")


def repository_index(modules: Iterable[Module], repository: str, version: str) -> str:
    """Return the package.json of a repository's top folder: sources, straight from its tree.

    Args:
        repository: "github:OWNER/NAME"; mip adds the branch or tag that it was asked for.

    Raises:
        PackageError: that is no such address.
    """
    if not _REPOSITORY.match(repository):
        raise PackageError(f"{repository!r} is no repository: write github:OWNER/NAME")
    urls = []
    for module in modules:
        package, _, rest = module.target.partition("/")
        urls.append((module.target, f"{repository}/{_FOLDER_IN_REPOSITORY[package]}/{rest}"))
    return _document(urls, version)


def write_served_index(folder: Path, files: dict[str, bytes], base: str, version: str) -> Path:
    """Write the files and their package.json into ``folder``, for any web server.

    Args:
        files: path below the library folder: content.
        base: address under which ``folder`` will be served: "http://10.0.0.5:8000".

    Raises:
        PackageError: no such address, or the folder cannot be written.
    """
    if not _SERVED.match(base):
        raise PackageError(f"{base!r} is no address: write http://HOST[:PORT][/PATH]")
    base = base.rstrip("/")
    try:
        for path, data in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_file(target, data, PUBLIC)  # a board that asks meanwhile gets no half of it
        # Last: what it names is there.
        index = folder / "package.json"
        document = _document([(p, f"{base}/{p}") for p in files], version)
        replace_file(index, document.encode(), PUBLIC)
    except OSError as error:
        raise PackageError(f"{folder} cannot be written: {error}") from error
    return index


def _document(urls: Iterable[tuple[str, str]], version: str) -> str:
    lines = ",\n".join("  " + json.dumps(pair) for pair in sorted(urls))
    return f'{{\n "version": {json.dumps(version)},\n "urls": [\n{lines}\n ],\n "deps": []\n}}\n'
