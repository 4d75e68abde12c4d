"""Committed files name nothing of the machine that they were written on."""

import re
import shutil
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from rules.tree import ROOT, committed_files

# Folders that exist on one machine and not on the next. `/tmp` by itself is a standard place; a
# path below it is somebody's own.
OWN_PLACES = re.compile(
    r"(?<![\w.])(?:/root/|/home/[a-z]|/Users/[A-Za-z]|/work/[a-z]|/tmp/[A-Za-z]|C:\\Users\\)"
)
PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}")


def hosts_of_this_machine() -> set[str]:
    """Its name, and the package archives and indexes that it is set up to use."""
    urls: list[str] = []
    for path in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
        if path.is_file():
            urls += re.findall(r"\bhttps?://\S+", path.read_text(errors="replace"))
    pip = shutil.which("pip") or shutil.which("pip3")
    if pip:
        listed = subprocess.run([pip, "config", "list"], capture_output=True, text=True)
        urls += re.findall(r"\bhttps?://[^\s']+", listed.stdout)
    hosts = {urlsplit(url).hostname or "" for url in urls}
    name = socket.gethostname()
    return {host for host in hosts | {name} if len(host) > 5 and host != "localhost"}


def findings(text: str, hosts: set[str]) -> list[str]:
    """What a text tells about a machine: own places, this checkout, hosts, private keys."""
    found = [match.group() for match in OWN_PLACES.finditer(text)]
    found += ["a private key" for _ in PRIVATE_KEY.finditer(text)]
    if len(ROOT.parts) > 2 and str(ROOT) in text:
        found.append(str(ROOT))
    words = set(re.findall(r"[\w.-]+", text))
    return found + sorted(hosts & words)


def test_committed_files_hold_no_machine_paths() -> None:
    hosts = hosts_of_this_machine()
    bad = {}
    for path in committed_files():
        if path == Path(__file__).resolve():
            continue
        found = findings(path.read_bytes().decode("utf-8", errors="replace"), hosts)
        if found:
            bad[str(path.relative_to(ROOT))] = sorted(set(found))
    assert not bad


def test_the_rule_sees_what_it_is_for() -> None:
    hosts = {"mirror.example.net"}
    for text in (
        "see /root/notes",
        'open("/home/ann/x")',
        "/work/main/x",
        "run /tmp/lab/mp",
        str(ROOT / "x"),
        "deb https://mirror.example.net/debian trixie main",
        "-----BEGIN PRIVATE KEY-----\n" + "A" * 64,
    ):
        assert findings(text, hosts), text
    for text in ("/usr/bin/env", "root/usr/bin", "a/home/b", "mktemp in /tmp", "framework/x"):
        assert not findings(text, hosts), text
