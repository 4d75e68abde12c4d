"""A plugin of pytest: its run meets a server that is wrong on purpose (broken.py).

    PROOF_BREAK=ack-early PYTHONPATH=tests python -m pytest -p proof.breaking TEST

For controls of by_tests.py: a test that does not fail then shows nothing.
"""

import os

import pytest


@pytest.fixture(autouse=True)
def broken_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers that are forked off import what breaks them, and this process too."""
    from end_to_end.fleet import Fleet

    if os.environ.get("PROOF_BREAK"):
        import proof.broken  # noqa: F401

        monkeypatch.setattr(Fleet, "modules", ("proof.broken",))
