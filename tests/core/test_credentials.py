"""Bundles: from a dict, incomplete ones, lists of servers. Both interpreters."""

from fleetnet.errors import CredentialError
from fleetnet_device.credentials import Credentials

BASE = {"name": "cam-1", "host": "a.example", "tls_port": 1, "dtls_port": 2}
KEYS = {"ca": b"0", "cert": b"0", "key": b"0"}


def bundle(**more):
    made = dict(BASE)
    made.update(KEYS)
    made.update(more)
    return made


def refused(config):
    try:
        Credentials(config)
    except CredentialError as error:
        return str(error)
    raise AssertionError("accepted")


def test_a_dict_serves():
    credentials = Credentials(bundle())
    assert (credentials.name, credentials.transport, credentials.folder) == ("cam-1", "auto", "")
    (server,) = credentials.servers
    assert (server.host, server.tls_port, server.dtls_port) == ("a.example", 1, 2)
    assert server.server_hostname == "a.example"
    assert credentials.pins == [] and credentials.ntp == "" and credentials.network == {}


def test_several_servers_keep_their_order():
    other = {"host": "b", "tls_port": 3, "dtls_port": 4, "server_hostname": "c"}
    credentials = Credentials(bundle(servers=[other], server_hostname="d"))
    assert [s.host for s in credentials.servers] == ["a.example", "b"]
    assert [s.server_hostname for s in credentials.servers] == ["d", "c"]


def test_what_is_missing_is_named():
    for key in ("name", "host", "tls_port", "dtls_port", "ca", "cert", "key"):
        config = bundle()
        del config[key]
        assert repr(key) in refused(config)
    assert "'host'" in refused(bundle(servers=[{"tls_port": 3, "dtls_port": 4}]))
    assert "carrier pigeon" in refused(bundle(transport="carrier pigeon"))


def test_a_folder_that_is_not_there_names_the_command():
    assert "fleetnet device add" in refused("/nowhere")
