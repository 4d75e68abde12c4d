"""Rows 5 and 6: the DTLS examples with each other and with the openssl command."""

import contextlib
from pathlib import Path

import pytest

from examples.programs import (
    HOST,
    Program,
    every_runtime,
    example_server,
    fail_example,
    has,
    run_example,
    s_client,
    s_server,
    started,
)
from interpreters import Interpreter

Runtime = Interpreter | None
CLIENTS = ["tls/dtls_client.py", "tls/dtls_client_socket.py"]
SERVERS = ["tls/dtls_server.py", "tls/dtls_server_socket.py"]
every_client = pytest.mark.parametrize("example", CLIENTS, ids=lambda path: Path(path).stem)


def pair(place: Path) -> tuple[Path, Path]:
    return place / "server.der", place / "serverkey.der"


def dtls_s_server(place: Path) -> contextlib.AbstractContextManager[tuple[int, Program]]:
    return s_server(
        *("-dtls1_2", "-listen"),
        *("-cert", place / "server.pem", "-key", place / "serverkey.pem"),
    )


@every_runtime
@every_client
def test_client_against_openssl(runtime: Runtime, example: str, place: Path) -> None:
    with (
        dtls_s_server(place) as (port, server),
        started(example, runtime, HOST, port, "localhost", place / "ca.der") as client,
    ):
        server.wait_for("ping")
        server.say("welcome\n")
        client.wait_for("DTLSv1.2[^$]*welcome")


@every_runtime
@every_client
def test_client_against_the_server_example(runtime: Runtime, example: str, place: Path) -> None:
    with example_server("tls/dtls_server.py", None, *pair(place)) as (port, _):
        arguments = (HOST, port, "localhost", place / "ca.der")
        output = run_example(example, runtime, *arguments)
        assert "DTLSv1.2" in output and "echo ping" in output


@every_runtime
@every_client
def test_client_that_does_not_trust_the_server(
    runtime: Runtime, example: str, place: Path
) -> None:
    with example_server("tls/dtls_server.py", None, *pair(place)) as (port, server):
        arguments = (HOST, port, "localhost", place / "otherca.der")
        assert "WrongCA" in fail_example(example, runtime, *arguments)
        assert "client" not in server.output


@every_runtime
def test_server_with_several_clients(runtime: Runtime, place: Path) -> None:
    if not has(runtime, "dtls_server"):
        last = fail_example("tls/dtls_server.py", runtime, HOST, 1, *pair(place))
        assert "Unsupported" in last and "MicroPython 1.26" in last
        return
    with example_server("tls/dtls_server.py", runtime, *pair(place)) as (port, server):
        verifying = ("-dtls1_2", "-CAfile", place / "ca.pem", "-verify_return_error")
        with s_client(port, *verifying) as first, s_client(port, *verifying) as second:
            for client, word in ((first, "one"), (second, "two"), (first, "three")):
                client.wait_for("Verify return code: 0")
                client.say(f"{word}\n")
                client.wait_for(f"echo {word}")
            arguments = (HOST, port, "localhost", place / "ca.der")
            assert "echo ping 20" in run_example("tls/dtls_client.py", None, *arguments)
            first.say("still here\n")
            first.wait_for("echo still here")
        assert server.output.count("client 127.0.0.1") == 3


@every_runtime
def test_server_on_one_socket(runtime: Runtime, place: Path) -> None:
    with example_server("tls/dtls_server_socket.py", runtime, *pair(place)) as (port, server):
        arguments = (HOST, port, "localhost", place / "ca.der")
        if has(runtime, "dtls_server"):
            output = run_example("tls/dtls_client_socket.py", None, *arguments)
            assert "echo ping" in output
            assert server.finish() == 0
        else:
            with started("tls/dtls_client.py", None, *arguments):
                assert server.finish() != 0
            assert "Unsupported" in server.output and "MicroPython 1.26" in server.output


@every_runtime
def test_encryption_only(runtime: Runtime, place: Path) -> None:
    with example_server("tls/dtls_server.py", None, *pair(place)) as (port, _):
        output = run_example("tls/dtls_client.py", runtime, HOST, port)
        assert "verified: False" in output and "echo ping" in output


@every_runtime
def test_mutual(runtime: Runtime, place: Path) -> None:
    """A gateway and a camera in both parts; a stranger is refused."""
    for server, client in ((None, runtime), (runtime, None)):
        if not has(server, "dtls_server"):
            continue
        with example_server(
            "tls/dtls_server.py", server, *pair(place), place / "ca.der"
        ) as (port, _):
            common = ("tls/dtls_client.py", client, HOST, port, "localhost", place / "ca.der")
            output = run_example(*common, place / "cert.der", place / "key.der")
            assert "verified: True" in output and "echo ping 20" in output
            stranger = (place / "stranger.der", place / "strangerkey.der")
            last = fail_example(*common, *stranger)
            assert any(kind in last for kind in ("Rejected", "LinkClosed")), last
            assert any(k in fail_example(*common) for k in ("Rejected", "LinkClosed"))
