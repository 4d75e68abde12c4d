"""Two sessions without a network between them; used by test_session_rules and its neighbours."""

from world import Lcg

from fleetnet import events
from fleetnet import frame as wire
from fleetnet.acceptor import AcceptorSession
from fleetnet.frame import encode_frame, split_datagram
from fleetnet.handshake import Hello, Welcome
from fleetnet.session import OPEN, Session


def random_bytes(seed=1):
    return Lcg(seed).bytes


def hello_payload(nonce=b"nnnn", major=1, epoch=b"device-1", peer_epoch=b"", resume=None):
    hello = Hello()
    hello.version = (major, 0)
    hello.epoch = epoch
    hello.nonce = nonce
    hello.peer_epoch = peer_epoch
    hello.resume = resume or {}
    return hello.to_payload()


def acceptor(datagram=True, epoch=None):
    made = AcceptorSession(random_bytes(), epoch)
    made.open_link(0, datagram)
    return made


def opened(datagram=True, **hello):
    """An acceptor that has welcomed; its WELCOME as sent."""
    made = acceptor(datagram, hello.pop("own_epoch", None))
    made.receive_data(encode_frame(wire.HELLO, 0, 0, hello_payload(**hello)), 0)
    greeting = made.take_events()[0].hello
    made.welcome(Welcome(), greeting, {}, 0)
    return made, made.data_to_send(0)


def pair(datagram=True, window=64):
    device = Session(random_bytes(2))
    device.open_link(0, datagram)
    server = acceptor(datagram)
    for data in device.data_to_send(0):
        server.receive_data(data, 0)
    welcome = Welcome()
    welcome.window = window
    server.welcome(welcome, server.take_events()[0].hello, {}, 0)
    for data in server.data_to_send(0):
        device.receive_data(data, 0)
    assert device.state == OPEN
    device.take_events()
    server.take_events()
    return device, server


def kinds(chunks):
    return [kind for data in chunks for kind, _, _, _ in split_datagram(data, 65535)]


def closings(session):
    return [e.ending.reason for e in session.take_events() if isinstance(e, events.Closed)]


def frames(chunks):
    return [frame for data in chunks for frame in split_datagram(data, 65535)]


def carry(source, target, now=0):
    for data in source.data_to_send(now):
        target.receive_data(data, now)


def said(session, kind, now):
    return [payload for k, _, _, payload in frames(session.data_to_send(now)) if k == kind]


def closed(session):
    """(reason, by_peer, detail) of each Closed."""
    found = [e for e in session.take_events() if isinstance(e, events.Closed)]
    return [(e.ending.reason, e.by_peer, e.ending.detail) for e in found]
