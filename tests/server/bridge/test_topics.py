"""Names in topics: whatever they hold, one level, one topic each, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from fleetnet_server.bridge import topics
from fleetnet_server.errors import ConfigError

NASTY = st.text(st.characters() | st.sampled_from("/+#%$\0\x7f"), max_size=12)


@given(NASTY)
def test_a_name_is_one_level_and_comes_back(name: str) -> None:
    level = topics.safe(name)
    assert not set(level) & set("/+#\0") and not level.startswith("$")
    level.encode()  # half a surrogate pair has no UTF-8
    assert topics.unquote(level) == name


@given(NASTY)
def test_a_slug_is_what_home_assistant_wants_and_tells_names_apart(name: str) -> None:
    slug = topics.slug(name)
    assert set(slug) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert topics.slug(name + "_") != slug and topics.slug("a_b") != topics.slug("a.b")


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("a/b", "a%2Fb"), ("50%", "50%25"), ("$SYS", "%24SYS"), ("a$", "a$"), ("+#", "%2B%23"),
        ("\n", "%0A"), ("\x9b", "%C2%9B"), ("Küche", "Küche"), ("\ud800", "%ED%A0%80"),
        ("\ufdd0", "%EF%B7%90"), ("\U0001fffe", "%F0%9F%BF%BE"),
    ],
)  # fmt: skip
def test_how_names_are_written(name: str, level: str) -> None:
    assert topics.safe(name) == level


@pytest.mark.parametrize("level", ["a%2fb", "%41", "a%", "%2", "%FF"])
def test_what_no_bridge_wrote_is_no_name(level: str) -> None:
    with pytest.raises(ValueError):
        topics.unquote(level)


LEVELS = st.lists(st.sampled_from(["a", "b", "", "$x"]), min_size=1, max_size=4).map("/".join)
FILTERS = st.lists(st.sampled_from(["a", "b", "", "+"]), min_size=1, max_size=4).map("/".join)


@given(FILTERS | FILTERS.map(lambda one: one + "/#") | st.just("#"), LEVELS)
def test_filters_match_as_paho_says(wanted: str, topic: str) -> None:
    assert topics.matches(wanted, topic) == topic_matches_sub(wanted, topic)


def test_templates() -> None:
    known = ("device", "channel")
    made = topics.parse("x", "site/{device}/{channel}", known, known)
    assert made.fill(device="cam-1", channel="a/b") == "site/cam-1/a%2Fb"
    assert made.filter == "site/+/+"
    assert made.match("site/cam-1/a%2Fb") == {"device": "cam-1", "channel": "a/b"}
    assert made.match("site/cam-1/a/b") is None and made.match("site/cam-1/%zz") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x/{device}", "lacks {channel}"), ("x/{device}/{chanel}", "{chanel} "),
        ("$SYS/{device}/{channel}", "no topic"), ("a+/{device}/{channel}", "no topic"),
        ("#/{device}{channel}", "no topic"), ("a\x01{device}{channel}", "control"),
        ("{device}/{channel", "lacks"), ("x" * 201 + "{device}{channel}", "no topic"),
    ],
)  # fmt: skip
def test_templates_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("{", r"\{").replace("}", r"\}")):
        topics.parse("x", text, ("device", "channel"), ("device", "channel"))


def test_what_is_subscribed_to_has_whole_levels() -> None:
    with pytest.raises(ConfigError, match="between slashes"):
        topics.parse_levels("x", "a/x-{device}", ("device",), ("device",))
