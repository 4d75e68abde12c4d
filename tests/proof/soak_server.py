"""`fleetnet` whose store has a page cache of 1 MiB: what grows then is no cache that fills up.

The store's own is 64 MiB, which soak.py would need many minutes to fill.
"""

from fleetnet_server.cli.main import main
from fleetnet_server.store import schema

CACHE_KIB = 1024


def serve() -> None:
    schema._CACHE_KIB = CACHE_KIB
    main()


if __name__ == "__main__":
    serve()
