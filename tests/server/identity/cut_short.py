"""Changes a server's certificate again and again, each time with the power cut one call later.

    python cut_short.py FLEET COPIES ACTION     # ACTION: create, renew, change_key, finish

Makes COPIES/N-whole and COPIES/N-torn out of FLEET for N = 0, 1, 2, ...: in copy N a process of
its own ran ACTION and ended at its Nth call to the system that changes a file or makes it
durable, before that call. In N-torn the file that was about to be made durable holds half of
what was written to it, as a disk may leave it. Prints the number of copies of each kind.
"""

import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.server_keys import ServerKeys

CALLS = ("open", "fsync", "replace", "rename", "link", "unlink", "mkdir")
CUT, DONE = 42, 0


def act(folder: Path, action: str) -> None:
    authority = Authority.load(folder)
    if action == "create":
        ServerKeys.create(folder, authority, ("fleet.example",))
    elif action == "finish":
        ServerKeys(folder).finish()
    else:
        ServerKeys(folder).renew(authority, change_key=action == "change_key")


def cut_at(number: int, is_torn: bool) -> None:
    """Replace the calls of module os by ones of which the ``number``th ends the process."""
    left = [number]

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **more)
            if not left[0]:
                if is_torn and name == "fsync" and stat.S_ISREG(os.fstat(args[0]).st_mode):
                    os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
                os._exit(CUT)
            left[0] -= 1
            return real(*args, **more)

        return call

    for name in CALLS:
        setattr(os, name, counted(name, getattr(os, name)))


def main(fleet: Path, copies: Path, action: str) -> None:
    number = 0
    while True:
        for is_torn in (False, True):
            copy = copies / f"{number}-{'torn' if is_torn else 'whole'}"
            shutil.copytree(fleet, copy)
            child = os.fork()
            if not child:
                try:
                    cut_at(number, is_torn)
                    act(copy, action)
                    os._exit(DONE)
                except BaseException as error:
                    print(repr(error), file=sys.stderr, flush=True)
                    os._exit(1)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if code not in (CUT, DONE):
                sys.exit(f"copy {copy} ended with {code}")
        number += 1
        if code == DONE:
            print(number)
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
