"""`fleetnet anchor` against local servers with real chains; real MicroPython takes the result."""

import importlib.util
import json
import os
import select
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fleetnet_server.cli.anchor import split_target
from fleetnet_server.cli.main import main
from fleetnet_server.identity.inspecting import fingerprint, pin_of
from interpreters import Interpreter, interpreters
from server.cli.running import COMMAND, environment
from server.identity.chains import Party, authority, chain_pem, server
from server.identity.openssl import openssl
from server.identity.tls_peer import connects, tls_peer

HOSTS = ["localhost"]


@pytest.fixture(params=interpreters(), ids=lambda each: each.name)
def runtime(request: pytest.FixtureRequest) -> Interpreter:
    return request.param  # type: ignore[no-any-return]


def anchor(*arguments: object, code: int = 0) -> dict[str, Any]:
    answer = CliRunner().invoke(main, ["anchor", "--json", *map(str, arguments)])
    assert answer.exit_code == code, answer.output
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def error(*arguments: object, code: int = 1) -> str:
    answer = CliRunner().invoke(main, ["anchor", *map(str, arguments)])
    assert answer.exit_code == code, answer.output
    assert isinstance(answer.exception, SystemExit)
    return answer.stderr


def store(folder: Path, *parties: Party) -> Path:
    """A store with these and with roots of strangers."""
    path = folder / "store.pem"
    path.write_bytes(chain_pem(authority("Stranger"), *parties, authority("Stranger")))
    return path


def problems(document: dict[str, Any], level: str = "bad") -> str:
    return "\n".join(each["text"] for each in document["problems"] if each["level"] == level)


# -- the result is what a camera needs -----------------------------------------------------


@pytest.mark.parametrize("kind", ["p256", "SECP384R1", "rsa2048"])
@pytest.mark.parametrize("choice", ["root", "intermediate"])
def test_the_anchor_of_a_chain_of_three(
    kind: str, choice: str, runtime: Interpreter, tmp_path: Path
) -> None:
    root = authority("Root", kind=kind)
    middle = authority("Middle", root, kind=kind, path_length=0)
    leaf = server(middle, HOSTS, kind=kind)
    out, chain = tmp_path / "anchor.der", tmp_path / "chain.pem"
    # The oldest MicroPython cannot do RSA in TLS 1.2 (mbedTLS, PR 10672).
    with tls_peer(leaf, middle, tls12=kind != "rsa2048") as peer:
        where = f"localhost:{peer.port}"
        found = anchor(where, "--store", store(tmp_path, root), "--choose", choice, "--out", out,
                       "--save-chain", chain)  # fmt: skip
        assert peer.names == [b"localhost"]
        assert connects(runtime, peer.port, "localhost", out) == "ok"
    chosen = root if choice == "root" else middle
    assert out.read_bytes() == chosen.der
    assert found["anchor"]["sha256"] == fingerprint(chosen.certificate)
    assert [each["subject"] for each in found["sent"]] == [leaf.name, middle.name]
    assert found["root"]["subject"] == root.name
    assert found["root_is_known"]
    assert found["problems"] == []
    assert chain.read_bytes() == chain_pem(leaf, middle)
    # Offline, from what was saved.
    again = anchor("localhost", "--chain", chain, "--store", tmp_path / "store.pem")
    assert again["root"] == found["root"]


def test_it_is_said_for_people_too(tmp_path: Path) -> None:
    root = authority("Root")
    middle = authority("Middle", root)
    leaf = server(middle, HOSTS)
    out = tmp_path / "anchor.der"
    with tls_peer(leaf, middle) as peer:
        arguments = [f"localhost:{peer.port}", "--store", store(tmp_path, root), "--out", out]
        answer = CliRunner().invoke(main, ["anchor", *map(str, arguments)])
    assert answer.exit_code == 0, answer.output
    told = openssl("x509", "-inform", "DER", "-in", out, "-noout", "-fingerprint", "-sha256")
    assert f"SHA-256 {told.stdout.strip().partition('=')[2]}" in answer.stdout
    for words in (
        "sends 2 certificates", "over TLSv1.2", f"  1 {leaf.name}", f"    issuer {middle.name}",
        f"root {root.name}, which the store knows", "P-256", "lasts longest",
    ):  # fmt: skip
        assert words in answer.stdout


def test_a_self_signed_server_is_its_own_anchor(runtime: Interpreter, tmp_path: Path) -> None:
    leaf = server(None, HOSTS)
    out = tmp_path / "leaf.der"
    with tls_peer(leaf) as peer:
        where = f"localhost:{peer.port}"
        refused = anchor(where, "--out", out, code=1)
        assert "compare SHA-256" in refused["error"]
        assert "self-signed" in problems(refused, "warn")
        assert not out.exists()
        anchor(where, "--choose", "leaf", "--out", out, "--yes")
        assert connects(runtime, peer.port, "localhost", out) == "ok"
    assert out.read_bytes() == leaf.der


def test_a_leaf_of_a_ca_is_no_anchor_and_why(runtime: Interpreter, tmp_path: Path) -> None:
    root = authority("Root")
    leaf = server(root, HOSTS)
    out = tmp_path / "leaf.der"
    with tls_peer(leaf) as peer:
        where = f"localhost:{peer.port}"
        arguments = (where, "--store", store(tmp_path, root), "--choose", "leaf", "--out", out)
        refused = anchor(*arguments, code=1)["error"]
        assert "signed itself" in refused
        assert pin_of(leaf.certificate.public_key()) in refused
        assert not out.exists()
        # What is said is true.
        out.write_bytes(leaf.der)
        assert "not correctly signed" in connects(runtime, peer.port, "localhost", out)


def test_a_private_root_that_the_server_sends_is_asked_for(tmp_path: Path) -> None:
    root = authority("Private")
    leaf = server(root, HOSTS)
    out = tmp_path / "root.der"
    with tls_peer(leaf, root) as peer:
        where = f"localhost:{peer.port}"
        refused = anchor(where, "--store", store(tmp_path), "--out", out, code=1)
        assert fingerprint(root.certificate).upper() in refused["error"].replace(":", "")
        assert "private" in problems(refused, "warn")
        assert anchor(where, "--store", store(tmp_path), "--out", out, "--yes")["anchor"]
    assert out.read_bytes() == root.der


# -- cross-signs ---------------------------------------------------------------------------


def test_a_cross_signed_root_is_found_by_name_and_key(
    runtime: Interpreter, tmp_path: Path
) -> None:
    old, new = authority("Old"), authority("New")
    cross = authority("New", old, key=new.key, subject=new.certificate.subject)
    middle = authority("Middle", new)
    leaf = server(middle, HOSTS)
    out = tmp_path / "anchor.der"
    impostor = authority("New", subject=new.certificate.subject)  # the name, and another key
    with tls_peer(leaf, middle, cross) as peer:
        where = f"localhost:{peer.port}"
        both = anchor(where, "--store", store(tmp_path, impostor, old, new), "--out", out)
        assert both["anchor"]["sha256"] == fingerprint(new.certificate)
        assert connects(runtime, peer.port, "localhost", out) == "ok"
        aged = anchor(where, "--store", store(tmp_path, impostor, old))
        assert aged["root"]["sha256"] == fingerprint(old.certificate)


def test_an_expired_cross_sign_does_not_hide_the_root(tmp_path: Path) -> None:
    old, new = authority("Old", end=-0.5), authority("New")
    cross = authority("New", old, key=new.key, subject=new.certificate.subject, end=-0.5)
    leaf = server(new, HOSTS)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(chain_pem(leaf, cross))
    found = anchor("localhost", "--chain", chain, "--store", store(tmp_path, old, new))
    assert found["root"]["sha256"] == fingerprint(new.certificate)
    assert problems(found) == ""
    gone = anchor("localhost", "--chain", chain, "--store", store(tmp_path, old), code=1)
    assert f"{old.name!r} ended on" in problems(gone)
    assert "ended, so a camera refuses" in gone["error"]


def test_a_renewed_intermediate_beside_the_old_one(runtime: Interpreter, tmp_path: Path) -> None:
    root = authority("Root")
    middle = authority("Middle", root)
    ended = authority("x", root, key=middle.key, subject=middle.certificate.subject, end=-0.5)
    out = tmp_path / "anchor.der"
    with tls_peer(server(middle, HOSTS), ended, middle) as peer:
        where = f"localhost:{peer.port}"
        found = anchor(where, "--store", store(tmp_path, root), "--out", out)
        assert problems(found) == ""
        assert connects(runtime, peer.port, "localhost", out) == "ok"


def test_cas_that_all_sign_each_other_cost_no_time(tmp_path: Path) -> None:
    """Ten names, each signed by each: 10! ways up."""
    own = [authority(f"CA {number}") for number in range(10)]
    crowd = [
        authority("x", by, key=one.key, subject=one.certificate.subject)
        for one in own
        for by in own
        if by is not one
    ]
    chain = tmp_path / "chain.pem"
    chain.write_bytes(chain_pem(server(own[0], HOSTS), *crowd))
    found = anchor("localhost", "--chain", chain, "--store", store(tmp_path), code=1)
    assert found["error"]


# -- what is wrong is named ----------------------------------------------------------------


def test_a_missing_intermediate(runtime: Interpreter, tmp_path: Path) -> None:
    root = authority("Root")
    middle = authority("Middle", root)
    leaf = server(middle, HOSTS, issuer_url="http://ca.example/middle.cer")
    out, wrong = tmp_path / "anchor.der", tmp_path / "root.der"
    wrong.write_bytes(root.der)
    with tls_peer(leaf) as peer:
        where = f"localhost:{peer.port}"
        # Nobody here knows it.
        lost = anchor(where, "--store", store(tmp_path, root), code=1)
        assert f"{middle.name!r}, who signed it, is in no store" in problems(lost)
        assert "http://ca.example/middle.cer" in lost["problems"][0]["remedy"]
        assert "the root is unknown" in lost["error"]
        # The store has it, as a browser has: a camera that trusts the root still fails.
        known = store(tmp_path, root, middle)
        hidden = anchor(where, "--store", known, "--out", out, code=1)
        assert hidden["root"]["subject"] == root.name
        assert f"the server does not send {middle.name!r}" in problems(hidden)
        assert not out.exists()
        assert "not correctly signed" in connects(runtime, peer.port, "localhost", wrong)
        # The intermediate as anchor works.
        anchor(where, "--store", known, "--choose", "intermediate", "--out", out)
        assert connects(runtime, peer.port, "localhost", out) == "ok"
    assert out.read_bytes() == middle.der


def test_a_chain_in_the_wrong_order(runtime: Interpreter, tmp_path: Path) -> None:
    root = authority("Root")
    upper = authority("Upper", root)
    lower = authority("Lower", upper)
    leaf = server(lower, HOSTS)
    out, file = tmp_path / "anchor.der", tmp_path / "root.der"
    file.write_bytes(root.der)
    with tls_peer(leaf, upper, lower) as peer:
        found = anchor(
            f"localhost:{peer.port}", "--store", store(tmp_path, root), "--out", out, code=1
        )
        assert "wrong order" in problems(found)
        assert "not correctly signed" in connects(runtime, peer.port, "localhost", file)
    assert not out.exists()
    with tls_peer(leaf, lower, upper) as peer:
        anchor(f"localhost:{peer.port}", "--store", store(tmp_path, root), "--out", out)
        assert connects(runtime, peer.port, "localhost", out) == "ok"


@pytest.mark.parametrize(
    ("start", "end", "words"), [(-9, -1, "ended on"), (1, 9, "begins on")], ids=["ended", "future"]
)
@pytest.mark.parametrize("which", ["leaf", "middle", "root"])
def test_dates(
    which: str, start: float, end: float, words: str, runtime: Interpreter, tmp_path: Path
) -> None:
    when = {"start": start, "end": end}
    root = authority("Root", **when if which == "root" else {})  # type: ignore[arg-type]
    middle = authority("Middle", root, **when if which == "middle" else {})  # type: ignore[arg-type]
    leaf = server(middle, HOSTS, **when if which == "leaf" else {})  # type: ignore[arg-type]
    out, file = tmp_path / "anchor.der", tmp_path / "root.der"
    file.write_bytes(root.der)
    name = {"leaf": leaf, "middle": middle, "root": root}[which].name
    with tls_peer(leaf, middle) as peer:
        found = anchor(
            f"localhost:{peer.port}", "--store", store(tmp_path, root), "--out", out, code=1
        )
        refused = connects(runtime, peer.port, "localhost", file)
    assert problems(found).startswith(f"{name!r} {words}")
    assert "validity" in refused
    assert not out.exists()


def test_another_name(runtime: Interpreter, tmp_path: Path) -> None:
    root = authority("Root")
    leaf = server(root, ["fleet.example", "*.wild.example", "192.0.2.7"])
    known, out = store(tmp_path, root), tmp_path / "anchor.der"
    with tls_peer(leaf) as peer:
        where = f"localhost:{peer.port}"
        found = anchor(where, "--store", known, "--out", out, code=1)
        assert "fleet.example, *.wild.example, 192.0.2.7, not for 'localhost'" in problems(found)
        assert not out.exists()
        for name in ("fleet.example", "FLEET.example", "a.wild.example", "192.0.2.7"):
            anchor(where, "--store", known, "--name", name)
        for name in ("wild.example", "a.b.wild.example", "192.0.2.8", "example"):
            assert anchor(where, "--store", known, "--name", name, code=1)["error"]
        assert peer.names[:2] == [b"localhost", b"fleet.example"]
        assert None in peer.names  # an address is no SNI
        anchor(where, "--store", known, "--name", "fleet.example", "--out", out)
        assert connects(runtime, peer.port, "fleet.example", out) == "ok"


@pytest.mark.parametrize(
    ("above", "below", "words"),
    [
        ("p256", "SECP256K1", "secp256k1"),
        ("rsa1024", "p256", "RSA of 1024 bits"),
        ("BrainpoolP256R1", "p256", "brainpoolP256r1"),
    ],
)
def test_keys_that_no_camera_takes(above: str, below: str, words: str, tmp_path: Path) -> None:
    root = authority("Root", kind=above)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(chain_pem(server(root, HOSTS, kind=below)))
    found = anchor("localhost", "--chain", chain, "--store", store(tmp_path, root), code=1)
    assert words in problems(found)
    assert words in found["error"]


# -- peers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tls12", [True, False], ids=["tls1.2", "newest"])
def test_a_server_that_wants_a_clients_certificate(tls12: bool, tmp_path: Path) -> None:
    root = authority("Root")
    leaf = server(root, HOSTS)
    with tls_peer(leaf, tls12=tls12, client_ca=root) as peer:
        found = anchor(f"localhost:{peer.port}", "--store", store(tmp_path, root))
    assert found["version"] == ("TLSv1.2" if tls12 else "TLSv1.3")
    assert found["root"]["subject"] == root.name


def test_what_is_no_tls_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        said = error(f"127.0.0.1:{port}", "--timeout", 0.3)
        assert "says nothing" in said
    assert "cannot be reached" in error(f"127.0.0.1:{port}")
    assert "cannot be reached" in error("no-such-host.invalid")
    assert "is no port number" in error("localhost:http", code=2)
    assert "name a server" in error(code=2)
    assert "holds no certificate" in error("--chain", _key_file(tmp_path))


def _key_file(folder: Path) -> Path:
    path = folder / "key.pem"
    path.write_bytes(authority("Root").key_pem)
    return path


def test_a_plain_text_server(tmp_path: Path) -> None:
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(b"220 mail.example ESMTP\r\n")
                sock.recv(1000)

        thread = threading.Thread(target=greet)
        thread.start()
        said = error(f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert "does not speak TLS" in said


def test_stores(tmp_path: Path) -> None:
    leaf = server(authority("Root"), HOSTS)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(chain_pem(leaf))
    assert "No such file" in error("--chain", chain, "--store", tmp_path / "none")
    if importlib.util.find_spec("certifi") is None:
        assert "pip install certifi" in error("--chain", chain, "--store", "certifi")
    else:
        assert not anchor("--chain", chain, "--store", "certifi", code=1)["root"]


def test_the_systems_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = authority("Root")
    leaf = server(root, HOSTS)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(chain_pem(leaf))
    # What OpenSSL, and with it Python, takes for the system's.
    monkeypatch.setenv("SSL_CERT_FILE", str(store(tmp_path, root)))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    assert anchor("localhost", "--chain", chain)["root"]["subject"] == root.name


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    root = authority("Root")
    chain, out = tmp_path / "chain.pem", tmp_path / "anchor.der"
    chain.write_bytes(chain_pem(server(root, HOSTS)))
    arguments = ("--chain", chain, "--store", store(tmp_path, root), "--out", out)
    anchor(*arguments)
    anchor(*arguments)  # the same again is no harm
    out.write_bytes(b"mine")
    assert "left alone" in error(*arguments)
    assert out.read_bytes() == b"mine"


def test_targets() -> None:
    assert split_target("a", 443) == ("a", 443)
    assert split_target("a:8443", 443) == ("a", 8443)
    assert split_target("::1", 443) == ("::1", 443)
    assert split_target("[::1]:8443", 443) == ("::1", 8443)
    assert split_target("[::1]", 443) == ("::1", 443)


# -- on a terminal -------------------------------------------------------------------------


def talk(answers: list[tuple[str, str]], *arguments: object) -> tuple[int, str]:
    """Run it on a pseudo-terminal: (what it asks, what is typed); return (exit code, all said)."""
    terminal, end = os.openpty()
    process = subprocess.Popen(
        [*COMMAND, "anchor", *map(str, arguments)],
        stdin=end, stdout=end, stderr=end, env=environment(), start_new_session=True,
    )  # fmt: skip
    os.close(end)
    said, waiting = b"", list(answers)
    while select.select([terminal], [], [], 30)[0]:
        try:
            said += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if waiting and waiting[0][0].encode() in said:
            os.write(terminal, waiting.pop(0)[1].encode() + b"\n")
    os.close(terminal)
    assert not waiting, said
    return process.wait(30), said.decode()


def test_a_person_chooses_and_compares(tmp_path: Path) -> None:
    root = authority("Private")
    middle = authority("Middle", root)
    chain, out = tmp_path / "chain.pem", tmp_path / "anchor.der"
    chain.write_bytes(chain_pem(server(middle, HOSTS), middle, root))
    arguments = ("localhost", "--chain", chain, "--store", store(tmp_path), "--out", out)
    question = "Is that the fingerprint"
    code, said = talk([("Trust (", "intermediate"), (question, "n")], *arguments)
    assert code == 1, said
    assert not out.exists()
    for words in ("lasts longest", "trusts less", "not leaf: a camera does not take", "pins"):
        assert words in said
    code, said = talk([("Trust (", ""), (question, "y")], *arguments)  # root is the default
    assert code == 0, said
    assert fingerprint(root.certificate).upper() in said.replace(":", "")
    assert out.read_bytes() == root.der
