"""Row 7: where keys and certificates may come from: a path, bytes, DER or PEM, a ROMFS mount.

    credentials.py HOST PORT NAME FOLDER [IMAGE]

FOLDER holds ca, cert and key, each as .der and as .pem. IMAGE is a ROMFS image of such a folder
(``mpremote romfs build FOLDER``); a board mounts the one in its flash at /rom by itself.
"""

import asyncio
import sys

from fleetnet import CredentialError, client_context, open_connection

try:
    import vfs
except ImportError:
    vfs = None  # CPython has no ROMFS


async def greet(where, address, *credentials):
    try:
        context = client_context(*credentials)  # ca, cert, key
    except CredentialError as error:
        print("%s: %s" % (where, error))
        return
    host, port, name = address
    reader, writer = await open_connection(host, int(port), ssl=context, server_hostname=name)
    async with writer:
        writer.write(b"hello\n")
        await writer.drain()
        print("%s: %s" % (where, (await reader.readline()).decode().strip()))


def paths(folder, ending):
    return [folder + "/" + name + ending for name in ("ca", "cert", "key")]


def contents(path):
    with open(path, "rb") as file:
        return file.read()


async def main(host, port, name, folder, image=None):
    address = (host, port, name)
    await greet("DER paths", address, *paths(folder, ".der"))
    await greet("DER bytes", address, *[contents(path) for path in paths(folder, ".der")])
    await greet("PEM paths", address, *paths(folder, ".pem"))  # firmwares may lack PEM
    if image is None or vfs is None:
        print("ROMFS: none here")
        return
    vfs.mount(vfs.VfsRom(contents(image)), "/rom")
    await greet("ROMFS", address, *paths("/rom", ".der"))


asyncio.run(main(*sys.argv[1:]))
