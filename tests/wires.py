"""Carrying the bytes of two SslObjects by hand."""

from fleetnet.ports.openssl_dtls_wire import hello_verify_request
from fleetnet.ports.openssl_object import SslObject


def carry(sender: SslObject, receiver: SslObject, step: int = 0) -> bool:
    """Feed the sender's output to the receiver, ``step`` bytes a time (0: at once)."""
    data = sender.output()
    for start in range(0, len(data), step or max(len(data), 1)):
        receiver.feed(data[start : start + (step or len(data))])
        if not receiver.is_established:
            receiver.handshake()
    return bool(data)


def shake(client: SslObject, server: SslObject, step: int = 0) -> bool:
    """Complete a TLS handshake; raises what either side raises."""
    client.handshake()
    while not (client.is_established and server.is_established):
        moved = carry(client, server, step)
        if not carry(server, client, step) and not moved:
            return False
    while carry(server, client, step) or carry(client, server, step):
        pass
    return True


def dtls_shake(client: SslObject, server: SslObject) -> None:
    """Complete a DTLS handshake with any cookie."""
    client.handshake()
    [hello] = client.datagrams(1200)
    client.feed(hello_verify_request(hello[5:11], b"cookie"))
    client.handshake()
    [hello] = client.datagrams(1200)
    server.feed(hello)
    assert server.listen()
    server.handshake()
    while not (client.is_established and server.is_established):
        for sender, receiver in ((server, client), (client, server)):
            for datagram in sender.datagrams(1200):
                receiver.feed(datagram)
                receiver.handshake()
