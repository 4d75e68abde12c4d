"""Row 10: wrap_socket as `ssl` and `ussl` had it."""

from pathlib import Path

from examples.programs import (
    HOST,
    every_runtime,
    example_server,
    fail_example,
    has,
    run_example,
    s_client,
    s_server,
)
from interpreters import Interpreter

Runtime = Interpreter | None
EXAMPLE = "tls/wrap_socket.py"
KEY = "0123456789abcdef" * 4


def identity(place: Path) -> tuple[object, ...]:
    return ("-cert", place / "server.pem", "-key", place / "serverkey.pem")


@every_runtime
def test_without_arguments_nobody_is_verified(runtime: Runtime, place: Path) -> None:
    with s_server(*identity(place), "-rev") as (port, _):
        output = run_example(EXAMPLE, runtime, "none", HOST, port)
    assert output.count("verifies nobody") == 1
    assert "verified: False" in output and "olleh" in output


@every_runtime
def test_form_of_ssl(runtime: Runtime, place: Path) -> None:
    with s_server(*identity(place), "-rev") as (port, _):
        arguments = ("ssl", HOST, port, "localhost")
        output = run_example(EXAMPLE, runtime, *arguments, place / "ca.der")
        assert "verified: True" in output and "olleh" in output
        assert "verifies nobody" not in output
        assert "WrongCA" in fail_example(EXAMPLE, runtime, *arguments, place / "otherca.der")


@every_runtime
def test_form_of_ussl(runtime: Runtime, place: Path) -> None:
    """Mutual TLS, which the document of ussl said it could not do."""
    asks = ("-CAfile", place / "ca.pem", "-Verify", "1", "-verify_return_error")
    with s_server(*identity(place), *asks, "-rev") as (port, _):
        pair = (place / "cert.der", place / "key.der")
        arguments = ("ussl", HOST, port, "localhost", place / "ca.der", *pair)
        output = run_example(EXAMPLE, runtime, *arguments)
        assert "verified: True" in output and "olleh" in output


@every_runtime
def test_pre_shared_key(runtime: Runtime) -> None:
    options = ("-nocert", "-psk_identity", "cam-01", "-psk", KEY, "-cipher", "PSK", "-tls1_2")
    with s_server(*options, "-rev") as (port, _):
        arguments = ("psk", HOST, port, "cam-01", KEY)
        if has(runtime, "psk"):
            output = run_example(EXAMPLE, runtime, *arguments)
            assert "verified: True" in output and "olleh" in output
        else:
            last = fail_example(EXAMPLE, runtime, *arguments)
            assert "Unsupported" in last and "MicroPython 1.29" in last


@every_runtime
def test_server(runtime: Runtime, place: Path) -> None:
    arguments = (place / "server.der", place / "serverkey.der")
    with (
        example_server(EXAMPLE, runtime, *arguments, before=("server",)) as (port, server),
        s_client(port, "-CAfile", place / "ca.pem", "-verify_return_error") as client,
    ):
        client.say("hello\n")
        client.wait_for("you said hello")
        assert server.finish() == 0
        assert "verifies nobody" not in server.output
