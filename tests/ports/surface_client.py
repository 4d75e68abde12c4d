"""More of fleetnet.streams, one task a run; for MicroPython (1.25 and newer).

    surface_client.py TASK FILE

FILE holds JSON: "port" and what else the task takes; "ca", "cert", "key", "pins", "psk" and
"ciphers" go to client_context. Prints one JSON line: {"result": ...} or {"error": class,
"alert": number or null, "text"}. The name of a task is that of its function.
"""

import asyncio
import binascii
import hashlib
import json
import socket
import sys

from fleetnet.streams import client_context, open_connection, open_dtls, server_context

HOST = "127.0.0.1"


def context_of(options, **more):
    for name in ("ca", "cert", "key", "pins", "ciphers", "insecure"):
        if name in options:
            more[name] = options[name]
    if "psk" in options:
        more["psk"] = (options["psk"][0], binascii.unhexlify(options["psk"][1]))
    return client_context(**more)


def digest(data):
    return binascii.hexlify(hashlib.sha256(data).digest()).decode() if data else None


async def say(options):
    """Over TLS: say a line, hear a line."""
    context = context_of(options)
    stream, _ = await open_connection(HOST, options["port"], context, "localhost", 20_000)
    async with stream:
        early = [stream.cipher(), stream.peer_certificate()]
        stream.write(b"hello\n")
        await stream.drain()
        line = await stream.readline()
        return {
            "line": line.decode(),
            "early": early,
            "mode": context.mode,
            "verified": stream.verified,
            "cipher": stream.cipher(),
            "certificate": digest(stream.peer_certificate()),
        }


async def say_dtls(options):
    """Over DTLS: send a datagram until one comes."""
    context = context_of(options, datagram=True)
    datagrams = await open_dtls(HOST, options["port"], context, "localhost", 20_000)
    try:
        early = datagrams.cipher()
        answer = None
        for _ in range(3):
            if answer is None:
                datagrams.send(b"hello\n")
                answer = await datagrams.receive(1500)
        return {
            "line": answer and answer.decode(),
            "early": early,
            "mode": context.mode,
            "verified": datagrams.verified,
            "cipher": datagrams.cipher(),
            "certificate": digest(datagrams.peer_certificate()),
        }
    finally:
        datagrams.close()


async def close_under_a_receiver(options):
    """One task closes while another waits; another socket has the number before the loop looks."""
    context = context_of(options, datagram=True)
    datagrams = await open_dtls(HOST, options["port"], context, "localhost", 5000)
    receiver = asyncio.create_task(datagrams.receive(options.get("timeout_ms")))
    await asyncio.sleep_ms(100)
    datagrams.close()
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        return await asyncio.wait_for(receiver, 3)
    finally:
        silent.close()


async def hear_the_end(options):
    """The peer says close_notify."""
    context = context_of(options, datagram=True)
    datagrams = await open_dtls(HOST, options["port"], context, "localhost", 5000)
    datagrams.send(b"bye")
    return await datagrams.receive(10_000)


async def say_unchecked(options):
    """As say, on a firmware that never calls verify_callback."""
    from fleetnet.ports import micropython_tls

    micropython_tls.Context.watch = lambda self, keep: None
    return await say(options)


async def say_unkept(options):
    """Several at once, on a firmware that keeps no peer's certificate (boards)."""
    from fleetnet.ports import micropython_channel

    known = hasattr
    micropython_channel.hasattr = lambda thing, name: name != "getpeercert" and known(thing, name)
    context = context_of(options)
    streams = []
    for port in options["ports"]:
        stream, _ = await open_connection(HOST, port, context, "localhost", 20_000)
        stream.write(b"hello\n")
        streams.append(stream)
    await asyncio.gather(*[stream.drain() for stream in streams])
    lines = []
    for stream in streams:
        lines.append((await stream.readline()).decode())
    certificates = [digest(stream.peer_certificate()) for stream in streams]
    for stream in streams:
        stream.close()
    return [lines, certificates]


def contents(path):
    with open(path, "rb") as file:
        return file.read()


def connected(port, datagram=False):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM)
    sock.connect(socket.getaddrinfo(HOST, port)[0][-1])
    return sock


async def blocking(options):
    """A blocking socket: lines, a long write, the end of the file."""
    context = context_of(options)
    with context.wrap_socket(connected(options["port"]), server_hostname="localhost") as secure:
        cipher = secure.cipher()
        certificate = digest(secure.getpeercert(True))
        secure.sendall(b"hello\n")
        lines = [secure.readline().decode(), secure.readline().decode()]
        secure.sendall(bytes(options["bulk"]))
        return [cipher[1], certificate, lines, secure.recv(4).decode(), secure.read().decode()]


async def polled(options):
    """A socket that never blocks; counts how often there was nothing."""
    context = context_of(options, datagram=bool(options.get("datagram")))
    secure = context.wrap_socket(
        connected(options["port"], context.datagram),
        do_handshake_on_connect=False,
        server_hostname="localhost",
    )
    secure.setblocking(False)
    early = [secure.cipher(), secure.getpeercert()]
    waits = 0
    while secure.do_handshake() is None:
        waits += 1
        await asyncio.sleep_ms(5)
    while secure.write(b"hello\n") is None:
        await asyncio.sleep_ms(5)
    data = None
    while data is None:
        waits += 1
        await asyncio.sleep_ms(5)
        data = secure.recv(100)
    nothing = secure.recv(100)
    secure.close()
    secure.close()
    return [early, waits > 1, data.decode(), nothing]


async def impatient(options):
    """A blocking read with a timeout; the socket goes on working."""
    context = context_of(options)
    secure = context.wrap_socket(connected(options["port"]), server_hostname="localhost")
    secure.settimeout(0.2)
    said = ""
    try:
        secure.recv(10)
    except Exception as error:
        said = type(error).__name__
    secure.settimeout(20)
    secure.sendall(b"hello\n")
    return [said, secure.readline().decode()]


async def no_answer(options):
    """A blocking handshake with somebody who says nothing."""
    context = context_of(options, datagram=bool(options.get("datagram")))
    secure = context.wrap_socket(
        connected(options["port"], context.datagram),
        do_handshake_on_connect=False,
        server_hostname="localhost",
    )
    secure.settimeout(0.3)
    secure.do_handshake()


async def accept_one(options):
    """Serve one client over a blocking TLS socket; echo its line."""
    context = server_context(options["cert"], options["key"], options.get("ca"))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(socket.getaddrinfo(HOST, options["port"])[0][-1])
    listener.listen(1)
    print("listening")
    secure = context.wrap_socket(listener.accept()[0], server_side=True)
    cipher = secure.cipher()
    certificate = digest(secure.getpeercert())
    secure.sendall(b"echo " + secure.readline())
    secure.close()
    listener.close()
    return [cipher[1], certificate, context.verify_mode]


async def accept_datagrams(options):
    """Serve one DTLS client over a connected UDP socket; echo a datagram."""
    context = server_context(options["cert"], options["key"], options["ca"], datagram=True)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(socket.getaddrinfo(HOST, options["port"])[0][-1])
    print("listening")
    # Its first hello is lost here, and comes again.
    address = sock.recvfrom(2000)[1]
    sock.connect(address)
    secure = context.wrap_socket(sock, server_side=True, client_id=bytes(address))
    secure.write(b"echo " + secure.recv(100))
    answer = [secure.cipher()[1], digest(secure.getpeercert())]
    secure.close()
    return answer


async def attributes(options):
    """What a context says of itself, and what it refuses to be."""
    context = context_of(options)
    said = [context.mode, context.verified, context.verify_mode, context.server_side]
    ciphers = context.get_ciphers()
    tries = []
    for change in (
        lambda: setattr(context, "verify_mode", 1),
        lambda: setattr(context, "verify_mode", 7),
        lambda: context.set_ciphers(["TLS-NO-SUCH"]),
        lambda: context.set_ciphers([]),
        lambda: context.wrap_socket(None, server_side=True),
        lambda: context.wrap_socket(connected(options["port"])),
    ):
        try:
            change()
            tries.append([context.verify_mode, context.verified])
        except Exception as error:
            tries.append([type(error).__name__, str(error)])
    context.verify_mode = 0
    said += [context.mode, context.verified, context.verify_mode]
    server = server_context(options["cert"], options["key"], options["ca"])
    try:
        server.verify_mode = 1
    except Exception as error:
        tries.append([type(error).__name__, str(error)])
    return [said, ciphers, tries]


async def load(options):
    """Only make the context; bytes come as hexadecimal under "hex"."""
    for name, text in options.get("hex", {}).items():
        options[name] = binascii.unhexlify(text)
    if options.get("server"):
        return server_context(options.get("cert"), options.get("key"), options.get("ca")).mode
    return context_of(options).mode


async def rom(options):
    """As say, with everything read from a mounted ROMFS image."""
    import vfs

    vfs.mount(vfs.VfsRom(contents(options["image"])), "/rom")
    for name in ("ca", "cert", "key"):
        options[name] = "/rom/" + options[name]
    return await say(options)


async def main(task, options):
    try:
        answer = {"result": await globals()[task](options)}
    except Exception as error:
        alert = getattr(error, "alert", None)
        answer = {"error": type(error).__name__, "alert": alert, "text": str(error)}
    print(json.dumps(answer))


with open(sys.argv[2]) as file:
    given = json.load(file)
asyncio.run(main(sys.argv[1], given))
