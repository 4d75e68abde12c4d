"""`fleetnet`, made wrong on purpose: each session is kept in a list. The control of soak.py."""

from typing import Any

from soak_server import serve

from fleetnet_server.core.sessions import Sessions

kept: list[Any] = []
accept = Sessions.accept


def accept_and_keep(sessions: Sessions, transport: Any, *rest: Any) -> Any:
    handler = accept(sessions, transport, *rest)
    kept.append((transport, handler))
    return handler


if __name__ == "__main__":
    Sessions.accept = accept_and_keep  # type: ignore[method-assign]
    serve()
