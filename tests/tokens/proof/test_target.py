"""The URL in a proof is compared with that of the request as RFC 3986 normalizes them, and in no other way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.tokens.proof import target
from authz_service.tokens.proof.target import Targets
from support.plain_url import plain_uri, plain_url, requested_url

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

HOST, PATH = "api.example.com", "/v1/a"


def is_of(htu: str, host: str = HOST, target: str = PATH, origins: tuple[str, ...] = ()) -> bool:
    try:
        Targets(origins).require(htu, host, target)
    except Rejected as rejected:
        assert rejected.reason is Reason.INVALID_PROOF
        return False
    return True


@pytest.mark.parametrize(
    "htu",
    [
        "https://api.example.com/v1/a",
        "https://api.example.com/v1/a?b=c",
        "https://api.example.com/v1/a#b",
        "https://api.example.com/v1/a?b?c#d?e",
        "https://api.example.com:443/v1/a",
        "https://api.example.com:/v1/a",
        "HTTPS://API.Example.COM/v1/a",
        "https://api%2Eexample.com/v1/a",
        "https://%41PI.example.com/v1/a",
        "https://api.example.com/%76%31/a",
    ],
)
def test_spellings_of_one_url_are_equal(htu: str) -> None:
    assert is_of(htu)


@pytest.mark.parametrize(
    ("host", "target", "htu"),
    [
        ("api.example.com:443", "/v1/a", "https://api.example.com/v1/a"),
        ("API.example.com", "/v1/a", "https://api.example.com/v1/a"),
        ("api.example.com:8443", "/v1/a", "https://api.example.com:8443/v1/a"),
        ("api.example.com.", "/v1/a", "https://api.example.com./v1/a"),
        ("[2001:DB8::1]:8443", "/", "https://[2001:db8::1]:8443"),
        ("192.0.2.1", "/?", "https://192.0.2.1"),
        ("a_b.example", "/", "https://a_b.example/"),
        (HOST, "/", "https://api.example.com"),
        (HOST, "/", "https://api.example.com?x"),
        (HOST, "/a%2fb", "https://api.example.com/a%2Fb"),
        (HOST, "/a%2Fb?c", "https://api.example.com/a%2fb"),
        (HOST, "/%7Euser", "https://api.example.com/~user"),
        (HOST, "/~user", "https://api.example.com/%7euser"),
        (HOST, "/caf%c3%a9", "https://api.example.com/caf%C3%A9"),
        (HOST, "/a;b=c,d:@!$&'()*+", "https://api.example.com/a;b=c,d:@!$&'()*+"),
        (HOST, '/"<>[]^`{|}', 'https://api.example.com/"<>[]^`{|}'),
        # As .NET's Uri.LocalPath and Java's URI.getPath decode a path.
        (HOST, "/a%20b%20", "https://api.example.com/a b "),
        (HOST, "/caf%C3%A9/%e2%82%ac?b", "https://api.example.com/caf\u00e9/\u20ac"),
        (HOST, "/%F0%9F%98%80", "https://api.example.com/\U0001f600#a"),
    ],
)
def test_requests_have_these_urls(host: str, target: str, htu: str) -> None:
    assert is_of(htu, host, target)


@pytest.mark.parametrize(
    ("host", "target", "htu"),
    [
        (HOST, "/a", "https://api.example.com/a/"),
        (HOST, "/a/", "https://api.example.com/a"),
        (HOST, "/a", "https://api.example.com/A"),
        (HOST, "/a/b", "https://api.example.com/a%2Fb"),
        (HOST, "/a;b", "https://api.example.com/a%3Bb"),
        (HOST, "/a", "https://api.example.com/a%00"),
        (HOST, "/a", "https://api.example.com/./a"),
        (HOST, "/a", "https://api.example.com/%61%"),
        (HOST, "/a", "https://api.example.com/%2561"),
        (HOST, "/a", "https://api.example.com./a"),
        ("api.example.com:8443", "/a", "https://api.example.com/a"),
        (HOST, "/a", "https://api.example.com:0443/a"),
        (HOST, "/a", "https://[api.example.com]/a"),
        (HOST, "/a", " https://api.example.com/a"),
        (HOST, "/a", "https:/api.example.com/a"),
        (HOST, "/a", "https:api.example.com/a"),
        (HOST, "/a", "https://api.example.com//a"),
        (HOST, "/a", "https://api.example.com/a#b#c"),
        ("", "/a", "https:///a"),
        ("user@api.example.com", "/a", "https://user@api.example.com/a"),
        ("api.example.com\\x", "/a", "https://api.example.com\\x/a"),
        ("api.example.com/x", "/a", "https://api.example.com/x/a"),
        ("api.example.com,b", "/a", "https://api.example.com,b/a"),
        ("exämple.com", "/a", "https://exämple.com/a"),
        (HOST, "/ä", "https://api.example.com/ä"),
        (HOST, "/ä", "https://api.example.com/%C3%A4"),
        (HOST, "/cafe%CC%81", "https://api.example.com/caf\u00e9"),  # another normalization form
        (HOST, "/a", "https://api.example.com/a "),
        (HOST, "/a b", "https://api.example.com/a b"),
        (HOST, "/a", "https://api.example.com/a\u00a0"),
        (HOST, "/a%C2%85", "https://api.example.com/a\u0085"),
        (HOST, "/a%0A", "https://api.example.com/a\n"),
        (HOST, "/a%7F", "https://api.example.com/a\x7f"),
        (HOST, "/a%ED%A0%80", "https://api.example.com/a\ud800"),
        (HOST, "/a%5Cb", "https://api.example.com/a\\b"),
        (HOST, "/a%2520b", "https://api.example.com/a b"),
        (HOST, "/a?%20", "https://api.example.com/a? "),
        ("api.example.com%20", "/a", "https://api.example.com /a"),
        (HOST, "/a", "https://api\uff0eexample.com/a"),
        (HOST, "", "https://api.example.com/a"),
        (HOST, "*", "https://api.example.com/*"),
    ],
)
def test_other_urls_are_refused(host: str, target: str, htu: str) -> None:
    assert not is_of(htu, host, target)


@pytest.mark.parametrize(
    ("host", "scheme"),
    [
        ("localhost", "http"),
        ("LOCALHOST:8080", "http"),
        ("api.localhost:80", "http"),
        ("127.0.0.1:10000", "http"),
        ("127.255.0.1", "http"),
        ("[::1]:8080", "http"),
        ("localhost.example.com", "https"),
        ("notlocalhost", "https"),
        ("127.0.0.1.example.com", "https"),
        ("127.example", "https"),
        ("128.0.0.1", "https"),
        ("[::2]", "https"),
    ],
)
def test_only_loopback_is_reached_by_http(host: str, scheme: str) -> None:
    other = {"http": "https", "https": "http"}[scheme]
    assert is_of(f"{scheme}://{host}/", host, "/")
    assert not is_of(f"{other}://{host}/", host, "/")


def test_the_origins_of_the_request_host_are_the_only_ones() -> None:
    origins = ("https://a.example", "http://a.example:8080/", "https://B.example:443")
    assert is_of("https://a.example/x", "a.example", "/x", origins)
    assert is_of("http://a.example:8080/x", "a.example", "/x", origins)
    assert is_of("http://a.example:8080/x", "A.EXAMPLE:1234", "/x", origins)
    assert not is_of("https://b.example/x", "a.example", "/x", origins)
    assert is_of("https://b.example/x", "b.example:443", "/x", origins)


@pytest.mark.parametrize("host", ["internal", "internal:8080", "", "a,b"])
def test_any_origin_is_accepted_for_a_host_that_has_none(host: str) -> None:
    origins = ("https://a.example", "https://b.example")
    assert is_of("https://a.example/x", host, "/x", origins)
    assert is_of("https://b.example/x", host, "/x", origins)
    assert not is_of(f"https://{host}/x", host, "/x", origins)


@pytest.mark.parametrize(
    "origin",
    ["", "a.example", "https://", "https://a.example/x", "https://a.example?x", "https://u@a.example", "ftp://a.example",
     "https://a.example:x", "https://a%2fb", "http\u017f://a.example"],
)  # fmt: skip
def test_what_is_not_an_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        Targets((origin,))


@pytest.mark.parametrize("end", ["a.example/" + "%41" * 2700, "a" * 8000, "a:" * 4000])
def test_long_urls_are_other_urls(end: str) -> None:
    assert not is_of(f"https://{end}")


@pytest.mark.parametrize(
    "htu", [f"https://{'%41' * 2000}/v1/a", f"https://{HOST}/{'%41' * 2000}", f"https://{HOST}/{'é ' * 2000}"]
)
def test_a_long_url_is_refused_before_its_escapes_are_decoded(htu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    monkeypatch.setattr(target, "_ESCAPE", _Recording(target._ESCAPE, decoded))
    assert not is_of(htu)
    assert max(map(len, decoded), default=0) <= 1000


class _Recording:
    """A pattern that records the strings in which it replaces."""

    def __init__(self, pattern: re.Pattern[str], seen: list[str]) -> None:
        self._pattern, self._seen = pattern, seen

    def sub(self, replacement: Callable[[re.Match[str]], str], text: str) -> str:
        self._seen.append(text)
        return self._pattern.sub(replacement, text)


_PIECES = st.sampled_from(
    ["a", "B", "1", "~", "-", "_", ".", "/", "%2F", "%2f", "%41", "%7e", "%7E", "%", "%4", "%zz", "\\", "@", ":", "443",
     "80", "8443", "[", "]", "::1", ";", ",", "?", "#", " ", "é", "\u212a", "\u017f", "localhost", "\n"]
)  # fmt: skip
_TEXT = st.lists(_PIECES, max_size=5).map("".join)
_SCHEMES = st.sampled_from(
    ["https://", "http://", "HTTPS://", "Http://", "https:/", "ftp://", "", "//", "http\u017f://"]
)
_HOSTS = st.sampled_from(["a.example", "A.example", "a.example:443", "a%2Eexample", "localhost", "[::1]"]) | _TEXT
_PATHS = st.lists(
    st.sampled_from(["a", "%41", "A", "~", "%7e", "%2F", "%2f", "/", ";", ".", "%20", " ", "%C3%A9", "\u00e9"]),
    max_size=4,
).map("".join)


@given(scheme=_SCHEMES, authority=_HOSTS, end=_TEXT, host=_HOSTS, path=_PATHS, path_in_htu=_PATHS)
@example(scheme="https://", authority="a.example:443", end="", host="A.example", path="%7e", path_in_htu="~")
@example(scheme="https://", authority="a%2Eexample", end="?a#b", host="a.example", path="", path_in_htu="")
def test_the_comparison_is_that_of_a_plain_reading(
    scheme: str, authority: str, end: str, host: str, path: str, path_in_htu: str
) -> None:
    htu, target = f"{scheme}{authority}/{path_in_htu}{end}", f"/{path}"
    found = plain_url(plain_uri(htu))
    assert is_of(htu, host, target) == (found is not None and found == requested_url(host, target))
