"""The dashboard: pages, styles and scripts as they lie in web/static, which load nothing else.

Without a token it shows how to log in and nothing more; everything comes through the HTTP API,
with the same scopes as everywhere.
"""

import hashlib
from importlib import resources
from typing import NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import Response

from fleetnet_server.web.problems import ProblemError

router = APIRouter(include_in_schema=False)

_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# The browser asks each time, and gets 304: a new version of the server is seen at once.
_CACHE = "no-cache"


class _File(NamedTuple):
    content: bytes
    media_type: str
    etag: str


def _load() -> dict[str, _File]:
    """Read the files of the package; nothing else can be asked for."""
    found = {}
    for entry in resources.files("fleetnet_server.web").joinpath("static").iterdir():
        media_type = _MEDIA_TYPES.get(entry.name.rpartition(".")[2])
        if media_type is not None:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[entry.name] = _File(content, media_type, etag)
    return found


_FILES = _load()


@router.api_route("/", methods=["GET", "HEAD"])
async def index(request: Request) -> Response:
    """The page."""
    return _answer(request, "index.html")


@router.api_route("/static/{name}", methods=["GET", "HEAD"])
async def static(request: Request, name: str) -> Response:
    """A file that the page loads."""
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    found = _FILES.get(name)
    if found is None:
        raise ProblemError(404, "no such page: see /")
    headers = {"ETag": found.etag, "Cache-Control": _CACHE}
    if request.headers.get("if-none-match") == found.etag:
        # With its type, by which the policy is chosen: a browser takes the headers of a 304 for
        # those of the page that it kept.
        return Response(status_code=304, headers=headers, media_type=found.media_type)
    return Response(found.content, media_type=found.media_type, headers=headers)
