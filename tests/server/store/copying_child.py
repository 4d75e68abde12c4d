"""Copies a store in a process of its own, and dies on the way: what a kill leaves behind.

    copying_child.py FROM TO PASSWORD_FILE DIE_AT inside|claiming|behind

DIE_AT pages are written; with the last one it dies by SIGKILL: when half of its rows are written,
when its place is, or right behind its transaction.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from fleetnet_server.store import copying
from fleetnet_server.store.copy_steps import Page, State, Step
from fleetnet_server.store.copy_target import SqliteTarget
from fleetnet_server.store.postgres.copy_target import PgTarget
from fleetnet_server.store_place import PostgresPlace, StorePlace


def _die(*_anything: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _dying(target: Any, die_at: int, where: str) -> None:
    """Let a target die at a page."""
    write, claim = target.write, target._claim
    pages = 0

    def dying(self: Any, step: Step, page: Page, before: State, after: State) -> None:
        nonlocal pages
        pages += 1
        if pages == die_at and where == "inside":
            whole = step.write
            step = step._replace(write=lambda rows: _die(whole(rows[: (len(rows) + 1) // 2])))
        write(self, step, page, before, after)
        if pages == die_at:
            _die()

    def claiming(self: Any, name: str, before: State, after: State) -> None:
        claim(self, name, before, after)
        if pages == die_at and where == "claiming":
            _die()

    target.write, target._claim = dying, claiming


def _place(text: str, password_file: str) -> StorePlace:
    if text.startswith("postgresql://"):
        return PostgresPlace(text, Path(password_file))
    return Path(text)


def main() -> None:
    source, target, password_file, die_at, where = sys.argv[1:]
    copying._PAGE_CHUNKS = copying._PAGE_MESSAGES = 60
    copying._PAGE_READINGS = 2_000
    for kind in (PgTarget, SqliteTarget):
        _dying(kind, int(die_at), where)
    copying.copy_store(_place(source, password_file), _place(target, password_file))
    print("whole")


if __name__ == "__main__":
    main()
