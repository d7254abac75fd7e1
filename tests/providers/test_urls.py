"""Provider URLs are parsed strictly, compared by origin, and logged without secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.errors import FetchFailed
from authz_service.providers.urls import parse, redact


def test_an_explicit_default_port_is_the_same_origin() -> None:
    assert parse("https://a.example/x").origin == parse("HTTPS://A.example:443/y").origin
    assert parse("http://a.example").origin == parse("http://a.example:80").origin
    assert parse("https://a.example").origin != parse("https://a.example:80").origin
    assert parse("https://a.example").origin != parse("http://a.example:443").origin


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://a.example/x?secret=s#f", "https://a.example/x"),
        ("https://user:secret@a.example:8443/x", "https://a.example:8443/x"),
        (f"https://a.example/{'x' * 500}?secret", f"https://a.example/{'x' * 382}..."),
    ],
)
def test_a_logged_url_has_no_secret_parts_and_a_bounded_length(url: str, text: str) -> None:
    assert redact(url) == text
    assert parse(url).redacted == text


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "target"),
    [
        ("https://a.example", "a.example", 443, "a.example", "/"),
        ("https://a.example?x=1", "a.example", 443, "a.example", "/?x=1"),
        ("https://a.example:8443/x/y?z#f", "a.example", 8443, "a.example:8443", "/x/y?z"),
        ("http://[::1]/x", "::1", 80, "[::1]", "/x"),
        ("http://[2001:db8::1]:8080/x", "2001:db8::1", 8080, "[2001:db8::1]:8080", "/x"),
        ("https://u:p@a.example/x", "a.example", 443, "a.example", "/x"),
        ("https://a.example/%41%2f", "a.example", 443, "a.example", "/%41%2f"),
        ("https://a.example/a b/\u00e9", "a.example", 443, "a.example", "/a%20b/%C3%A9"),
        ("https://a.example/\udcc3\udca9", "a.example", 443, "a.example", "/%C3%A9"),
        ("https://a.example/\x01", "a.example", 443, "a.example", "/%01"),
    ],
)
def test_a_url_is_parsed(url: str, host: str, port: int, authority: str, target: str) -> None:
    found = parse(url)
    assert (found.origin.host, found.origin.port) == (host, port)
    assert (found.authority, found.target) == (authority, target)


@pytest.mark.parametrize(
    "url",
    [
        *("", "/", "a.example", "ftp://a.example/", "file:///etc/passwd", "https://", "https:///k", "https://:443/"),
        *("https://[", "https://a.example:x/", "https://a.example:99999/", "https://a.example:0/", "https://\u00e9/"),
        *("https://a b/", "https://a\x00b/", f"https://{'a' * 256}/"),
    ],
)
def test_anything_but_an_http_url_is_rejected(url: str) -> None:
    with pytest.raises(FetchFailed):
        parse(url)


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_url_and_reference_are_parsed_or_rejected(url: str, reference: str) -> None:
    try:
        found = parse(f"https://a.example/{url}").resolve(reference)
    except FetchFailed:
        return
    assert all("!" <= each <= "~" for each in found.target)
    assert found.target.startswith("/")


@pytest.mark.parametrize(
    ("reference", "means"),
    [
        ("", "https://a.example:8443/x/y?z"),
        ("?again", "https://a.example:8443/x/y?again"),
        ("w", "https://a.example:8443/x/w"),
        ("/w", "https://a.example:8443/w"),
        ("//b.example/w", "https://b.example/w"),
        ("http://a.example:8443/w", "http://a.example:8443/w"),
    ],
)
def test_a_reference_is_resolved_relative_to_its_url(reference: str, means: str) -> None:
    found = parse("https://u:p@a.example:8443/x/y?z").resolve(reference)
    assert found == parse(means)
