"""deploy/compose, deploy/kubernetes and deploy/examples: valid, and in step with the program."""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

pytest.importorskip("yaml", reason="its packages are in the extra `test`")

from fleetnet_server.bridge.settings import load_mqtt
from fleetnet_server.cli.main import main
from fleetnet_server.cli.serve import DRAIN_S
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.store_place import PostgresPlace
from fleetnet_server.web.server import health
from rules.manifests import (
    COMPOSE,
    DEPLOY,
    MANIFESTS,
    NODES,
    compose,
    compose_faults,
    containers,
    documents,
    environment_of,
    kubernetes_faults,
    pods,
    style_faults,
)
from rules.test_deploy import CONTAINER

DEFAULTS = {key: field.default for key, field in Settings.model_fields.items()}


def kind(name: str) -> list[dict[str, Any]]:
    return [one for path in MANIFESTS for one in documents(path) if one["kind"] == name]


# -- linters -------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["compose", "kubernetes", "examples"])
def test_yamllint_finds_nothing(folder: str) -> None:
    assert style_faults(DEPLOY / folder) == ""


def test_compose_is_as_its_schema_says(tmp_path: Path) -> None:
    assert compose_faults(COMPOSE) == ""
    bad = tmp_path / "compose.yaml"
    bad.write_text(COMPOSE.read_text().replace("stop_grace_period:", "stop_grace:"))
    assert "stop_grace" in compose_faults(bad)


def test_kubernetes_knows_every_key(tmp_path: Path) -> None:
    assert kubernetes_faults(*MANIFESTS) == ""
    bad = tmp_path / "nodes.yaml"
    text = (DEPLOY / "kubernetes" / "nodes.yaml").read_text()
    bad.write_text(text.replace("readinessProbe:", "readynessProbe:"))
    assert "readynessProbe" in kubernetes_faults(bad)


def test_everything_is_applied_but_the_secret() -> None:
    resources = documents(DEPLOY / "kubernetes" / "kustomization.yaml")[0]["resources"]
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert set(resources) == files - {"kustomization.yaml", "secret.yaml"}


# -- what the program knows ----------------------------------------------------------------------


def environments() -> dict[str, dict[str, Any]]:
    """What each of our containers has in its environment."""
    found = {name: compose()["services"][name]["environment"] for name in (*NODES, "setup")}
    found["kubernetes"] = kind("ConfigMap")[0]["data"]
    return found


@pytest.mark.parametrize("name", environments())
def test_every_setting_is_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = environments()[name]
    for key in values:
        assert key.removeprefix("FLEETNET_").lower() in Settings.model_fields, key
    for key, value in environment_of(values).items():
        monkeypatch.setenv(key, value)
    (tmp_path / "fleetnet.toml").write_text('host = "devices.example.org"\n')
    settings = load_settings(tmp_path)
    place = settings.store_place(tmp_path)
    assert isinstance(place, PostgresPlace) and place.user == "fleetnet_server"
    # Over the network of one machine it may be plain; elsewhere the certificate is verified.
    assert ("sslmode=verify-full" in place.url) == (name == "kubernetes")
    assert settings.web_port and settings.web_bind == "0.0.0.0"


def test_an_environment_is_looked_at() -> None:
    named = {one["name"] for _file, pod in pods() for each in containers(pod)
             for one in each.get("env", [])}  # fmt: skip
    assert named == {"FLEETNET_NODE"} and "node" in Settings.model_fields
    assert {compose()["services"][name]["environment"]["FLEETNET_NODE"] for name in NODES} == {
        *NODES
    }


def commands() -> list[tuple[str, list[str]]]:
    """Every command line of ours in deploy/, in lists and in comments."""
    found = []
    for path in sorted(DEPLOY.rglob("*")):
        if path.suffix not in (".yaml", ".md", ".conf", ".toml"):
            continue
        text = re.sub(r'", "', " ", path.read_text(encoding="utf-8"))
        for line in re.findall(r"\bfleetnet (-C [^&\n`\"\]]*)", text):
            found.append((path.name, shlex.split(line, comments=True)))
    return found


def test_there_are_commands() -> None:
    assert {"compose.yaml", "nodes.yaml", "migrate.yaml", "secret.yaml"} <= {
        name for name, _words in commands()
    }


@pytest.mark.parametrize(("name", "words"), commands(), ids=lambda one: str(one)[:60])
def test_every_command_is_one(name: str, words: list[str]) -> None:
    context = main.make_context("fleetnet", list(words), resilient_parsing=True)
    command: click.Command = main
    rest = [*context._protected_args, *context.args]
    while isinstance(command, click.Group):
        assert rest, words
        found = command.get_command(context, rest[0])
        assert found is not None, f"{name}: no command {rest[0]!r}"
        context = click.Context(found, info_name=rest[0], parent=context)
        command, rest = found, rest[1:]
    known = {one for each in command.params for one in (*each.opts, *each.secondary_opts)}
    assert {word for word in rest if word.startswith("--")} <= known, words


def test_the_bridge_of_the_example_is_understood(tmp_path: Path) -> None:
    (tmp_path / "mqtt.toml").write_text((DEPLOY / "compose" / "mqtt.toml").read_text())
    (tmp_path / "mqtt-password").touch(0o600)
    (tmp_path / "mqtt-password").write_text("secret\n")
    found = load_mqtt(tmp_path)
    assert found is not None and found.broker.host in compose()["services"]


# -- ports, signals, rights ----------------------------------------------------------------------


def test_ports_are_the_servers() -> None:
    tls, dtls = DEFAULTS["tls_port"], DEFAULTS["dtls_port"]
    assert compose()["services"]["balancer"]["ports"] == [f"{tls}:{tls}/tcp", f"{dtls}:{dtls}/udp"]
    service = next(one for one in kind("Service") if one["spec"].get("type") == "LoadBalancer")
    assert [(one["protocol"], one["port"]) for one in service["spec"]["ports"]] == [
        ("TCP", tls), ("UDP", dtls)
    ]  # fmt: skip
    # The source address stays, and a flow is what is bound to a pod.
    assert service["spec"]["externalTrafficPolicy"] == "Local"
    assert service["spec"]["sessionAffinity"] == "None"
    web = int(kind("ConfigMap")[0]["data"]["FLEETNET_WEB_PORT"])
    node = dict(pods())["nodes.yaml"]["containers"][0]
    assert {(one["protocol"], one["containerPort"]) for one in node["ports"]} == {
        ("TCP", tls), ("UDP", dtls), ("TCP", web)
    }  # fmt: skip


def test_a_drain_has_its_time() -> None:
    for name in NODES:
        assert int(compose()["services"][name]["stop_grace_period"].rstrip("s")) > DRAIN_S
    pod = dict(pods())["nodes.yaml"]
    pause = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > DRAIN_S + pause
    assert kind("PodDisruptionBudget")[0]["spec"]["maxUnavailable"] == 1
    assert kind("Deployment")[0]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 1


def test_probes_ask_what_is_there() -> None:
    paths = {route.path for route in health.routes}  # type: ignore[attr-defined]
    node = dict(pods())["nodes.yaml"]["containers"][0]
    assert node["readinessProbe"]["httpGet"]["path"] == "/readyz"
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        assert node[probe]["httpGet"]["path"] in paths
    for name in NODES:
        assert "/readyz" in compose()["services"][name]["healthcheck"]["test"][-1]


def test_everybody_is_unprivileged() -> None:
    user = re.search(r"^USER (\d+):(\d+)$", CONTAINER.read_text(), re.M)
    assert user is not None
    for _file, pod in pods():
        rights = pod["securityContext"]
        assert rights["runAsNonRoot"] and rights["runAsUser"] == int(user[1])
        assert rights["seccompProfile"]["type"] == "RuntimeDefault"
        assert pod["automountServiceAccountToken"] is False
        for one in containers(pod):
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip
            assert one["resources"]["limits"]["memory"]
    for name in (*NODES, "setup"):
        service = compose()["services"][name]
        assert service["user"] == f"{user[1]}:{user[2]}" and service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_nodes_do_not_get_the_owners_password() -> None:
    secrets = {
        file: {one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one}
        for file, pod in pods()
    }
    assert secrets["nodes.yaml"] == {"fleetnet-folder"}
    assert secrets["migrate.yaml"] == {"fleetnet-folder", "fleetnet-owner"}
    tar = (DEPLOY / "kubernetes" / "secret.yaml").read_text().partition("-cf fleet.tar")[0]
    assert "--exclude='postgres.*.password'" in tar
    assert {one["metadata"]["name"] for one in kind("Secret")} == secrets["migrate.yaml"]


def test_no_secret_is_here() -> None:
    for secret in kind("Secret"):
        assert set(secret["data"].values()) == {""}
    for one in compose()["secrets"].values():
        assert set(one) == {"file"}
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            said = re.findall(
                r"(?im)^[^#\n]*password[:=] *(?!\"\")\S+", path.read_text(errors="replace")
            )
            assert not said, (path, said)
