"""The files of the dashboard: served with a strict policy, and made so that it holds."""

import re

from rules.tree import ROOT
from server.web.world import WebFleet

STATIC = ROOT / "server" / "fleetnet_server" / "web" / "static"

# Ways from a text to markup, to code or to another host; and places that outlive the page.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacent|document\.write|createContextualFragment|DOMParser|eval\("
    r"|new Function|setHTML|srcdoc|javascript:|localStorage|sessionStorage|indexedDB"
    r"|document\.cookie|https?://(?!www\.w3\.org/2000/svg)|@import|[\"'(]//"
)


def test_no_file_leads_from_text_to_code_or_to_another_address() -> None:
    files = [path for path in STATIC.iterdir() if path.suffix in (".js", ".css", ".html", ".svg")]
    assert len(files) > 12
    for path in files:
        text = path.read_text()
        assert FORBIDDEN.findall(text) == [], path.name
        assert len(text.splitlines()) < 400, path.name
    page = (STATIC / "index.html").read_text()
    assert "<script>" not in page
    assert not re.search(r"\son\w+=|\sstyle=", page)


async def test_they_are_served_with_a_strict_policy_and_an_etag(fleet: WebFleet) -> None:
    page = await fleet.ask("GET", "/", token=None)
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert "set-cookie" not in page.headers
    links = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.body.decode())
    assert len(links) >= 4
    for link in links:
        answer = await fleet.ask("GET", link, token=None)
        assert answer.status == 200, link
        assert answer.headers["x-content-type-options"] == "nosniff"
        headers = {"If-None-Match": answer.headers["etag"]}
        again = await fleet.ask("GET", link, token=None, headers=headers)
        assert (again.status, again.body) == (304, b"")
    headers = {"If-None-Match": page.headers["etag"]}
    again = await fleet.ask("GET", "/", token=None, headers=headers)
    assert again.status == 304
    # A browser puts these in the place of those that it kept.
    assert again.headers["content-security-policy"] == policy
    script = await fleet.ask("GET", "/static/main.js", token=None)
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    head = await fleet.ask("HEAD", "/", token=None)
    assert (head.status, head.body) == (200, b"")


async def test_nothing_beside_them_is_served(fleet: WebFleet) -> None:
    for path in ("/static/", "/static/nothing.js", "/static/..%2fapi.py", "/static/%2e%2e/api.py",
                 "/static/__init__.py", "/index.html"):  # fmt: skip
        assert (await fleet.ask("GET", path)).status == 404, path
