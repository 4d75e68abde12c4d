"""Row 10: programs that call ``wrap_socket`` go on, in the form of ``ssl`` and that of ``ussl``.

    wrap_socket.py none HOST PORT                        both forms without arguments
    wrap_socket.py ssl  HOST PORT NAME CA
    wrap_socket.py ussl HOST PORT NAME CA CERT KEY
    wrap_socket.py psk  HOST PORT IDENTITY HEXKEY
    wrap_socket.py server HOST PORT CERT KEY              one client, then the end

Without ``cert_reqs`` nobody is verified, and wrap_socket says so once.
"""

import binascii
import socket
import sys

from fleetnet import CERT_REQUIRED, wrap_socket


def connected(host, port):
    sock = socket.socket()
    sock.connect(socket.getaddrinfo(host, int(port))[0][-1])
    return sock


def accepted(host, port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(socket.getaddrinfo(host, int(port))[0][-1])
    listener.listen(1)
    print("listening")
    client = listener.accept()[0]
    listener.close()
    return client


def with_ssl(sock, name, ca):
    with open(ca, "rb") as file:
        anchor = file.read()
    return wrap_socket(sock, cert_reqs=CERT_REQUIRED, cadata=anchor, server_hostname=name)


def with_ussl(sock, name, ca, cert, key):
    return wrap_socket(
        sock,
        keyfile=key,
        certfile=cert,
        cert_reqs=CERT_REQUIRED,
        ca_certs=ca,
        server_hostname=name,
    )


def with_psk(sock, identity, key):
    return wrap_socket(sock, psk_ident=identity, psk_key=binascii.unhexlify(key))


FORMS = {"none": wrap_socket, "ssl": with_ssl, "ussl": with_ussl, "psk": with_psk}


def main(form, *arguments):
    if form == "server":
        host, port, cert, key = arguments
        secure = wrap_socket(accepted(host, port), server_side=True, key=key, cert=cert)
        secure.sendall(b"you said " + secure.readline())
    else:
        host, port, *rest = arguments
        secure = FORMS[form](connected(host, port), *rest)
        secure.write(b"hello\n")
        print("verified:", secure.verified)
        print(secure.readline().decode().strip())
    secure.close()


main(*sys.argv[1:])
