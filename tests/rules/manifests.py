"""The manifests of deploy/: read, linted with what their own projects publish, and run by nginx."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from end_to_end.fleet import free_port
from rules.tree import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
BALANCER = DEPLOY / "compose" / "nginx.conf"
MANIFESTS = [
    path
    for path in sorted([*(DEPLOY / "kubernetes").glob("*.yaml"), *DEPLOY.glob("examples/*.yaml")])
    if path.name != "kustomization.yaml"
]
NODES = ("node-1", "node-2", "node-3")
PATIENCE_S = 30.0

_STYLE = {
    "extends": "default",
    "rules": {
        "line-length": {"max": 110}, "document-start": "disable",
        "comments": {"min-spaces-from-content": 1},
    },
}  # fmt: skip
_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def compose() -> dict[str, Any]:
    return documents(COMPOSE)[0]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each kind of pod of ours, with the file's name."""
    for path in MANIFESTS:
        if path.parent.name == "kubernetes":
            for one in documents(path):
                if "template" in one.get("spec", {}):
                    yield path.name, one["spec"]["template"]["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [*pod.get("initContainers", []), *pod["containers"]]
    return found


def _lint(*words: str | Path) -> str:
    """What a linter says; "" is good."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return "" if done.returncode == 0 else (done.stdout + done.stderr) or "failed"


def style_faults(path: Path) -> str:
    """What yamllint finds."""
    return _lint("yamllint", "--strict", "-d", json.dumps(_STYLE), path)


def compose_faults(path: Path) -> str:
    """What the Compose Specification's schema refuses."""
    return _lint("check_jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def kubernetes_faults(*paths: Path) -> str:
    """What Kubernetes' own schemas refuse; a key that they do not know is a fault."""
    return _lint("kubernetes_validate", "--strict", "--quiet", *paths)


class Balancer:
    """nginx with deploy/compose/nginx.conf, its ports and nodes exchanged for ours."""

    def __init__(
        self, program: str, folder: Path, nodes: list[int], datagram_ports: list[int] | None = None
    ):
        if not _MODULE.exists():
            pytest.skip("nginx has no stream module: apt-get install nginx-core")
        self.port = free_port()
        text = BALANCER.read_text(encoding="utf-8")
        for upstream, ports in (("tls", nodes), ("dtls", datagram_ports or nodes)):
            whole = re.search(rf"upstream {upstream} {{.*?}}", text, re.S)
            assert whole is not None
            block = whole[0]
            for number, node in enumerate(ports, 1):
                block = block.replace(f"172.30.74.1{number}:7443", f"127.0.0.1:{node}")
            text = text.replace(whole[0], block)
        text = re.sub(r"listen 7443", f"listen 127.0.0.1:{self.port}", text)
        text = text.replace("/run/nginx.pid", f"{folder}/nginx.pid")
        # A container has the rights for so many files; a test need not.
        text = re.sub(r"worker_(rlimit_nofile|connections) \d+", r"worker_\1 512", text)
        path = folder / "nginx.conf"
        path.write_text(text)
        self._words = [
            program, "-c", str(path), "-p", str(folder), "-e", "stderr",
            "-g", f"load_module {_MODULE}; daemon off;",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def faults(self) -> str:
        """What nginx itself says of its file."""
        done = subprocess.run(
            [*self._words, "-t"], capture_output=True, text=True, timeout=60, check=False
        )
        return "" if done.returncode == 0 else done.stderr

    def __enter__(self) -> "Balancer":
        self._process = subprocess.Popen(self._words, stderr=subprocess.PIPE)
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return self
            except OSError:
                assert self._process.poll() is None, self._process.communicate()
                assert time.monotonic() < until
                time.sleep(0.02)

    def __exit__(self, *_error: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.communicate(timeout=PATIENCE_S)


def environment_of(values: dict[str, Any]) -> dict[str, str]:
    """The environment that a container of ours gets, and no other FLEETNET_ variable."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FLEETNET_")}
    return kept | {key: str(value) for key, value in values.items()}
