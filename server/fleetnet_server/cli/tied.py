"""`fleetnet` for a parent that may be killed: it ends when its standard input does.

    python -m fleetnet_server.cli.tied ARGUMENT ...

The parent holds the other end of the pipe, and the system closes it however the parent ends.
"""

import os
import signal
import sys
import threading

from fleetnet_server.cli.main import main


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    # As if the parent had asked: what was received is committed first.
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    sys.exit(main(prog_name="fleetnet"))
