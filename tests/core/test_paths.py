"""A path is read in the one way in which every party reads it, or refused."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authz_service.core import paths
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from support import path_readers


@pytest.mark.parametrize(
    ("target", "segments"),
    [
        ("/", ("",)),
        ("/?", ("",)),
        ("/v1", ("v1",)),
        ("/v1/", ("v1", "")),
        ("/v1/appointments/7", ("v1", "appointments", "7")),
        ("/a?b=/../%2e%2e/%00//;\\ #é", ("a",)),  # the query is ignored
        ("/a??", ("a",)),
        ("/a;b", ("a;b",)),
        ("/a/b;c=1;d", ("a", "b;c=1;d")),
        ("/a;", ("a;",)),
        ("/;a", (";a",)),
        ("/a%3Bb", ("a;b",)),
        ("/...", ("...",)),
        ("/.../a", ("...", "a")),
        ("/.well-known/x", (".well-known", "x")),
        ("/..a/a../.a", ("..a", "a..", ".a")),
        ("/a.b", ("a.b",)),
        ("/~user/-_.!$&'()*+,=:@", ("~user", "-_.!$&'()*+,=:@")),
        ("/caf%C3%A9", ("café",)),
        ("/caf%c3%a9", ("café",)),
        ("/%F0%9F%98%80", ("\U0001f600",)),
        ("/a%20b", ("a b",)),
        ("/a+b", ("a+b",)),  # a plus is a plus: only forms read it as a space
        ("/100%25", ("100%",)),
        ("/100%25/a", ("100%", "a")),
        ("/%25zz", ("%zz",)),
        ("/%25%32", ("%2",)),
        ("/%41", ("A",)),
        ("/A", ("A",)),
        ("/a:80/b@c", ("a:80", "b@c")),
        ("/http://x".replace("//", "/"), ("http:", "x")),
    ],
)
def test_a_plain_path_is_split_into_decoded_segments(target: str, segments: tuple[str, ...]) -> None:
    assert paths.split(target) == segments


_AMBIGUOUS = {
    "an encoded slash": ["/a%2Fb", "/a%2fb", "/%2F", "/%2f%2e%2e%2fa"],
    "an encoded backslash": ["/a%5Cb", "/a%5cb"],
    "an encoded dot": ["/%2e", "/%2E%2e/a", "/a/%2e./b", "/a%2Ejson", "/.%2e/a"],
    "an encoded NUL or other control character": ["/a%00", "/a%00.jpg", "/%0a", "/%0D%0A", "/a%7F", "/%1f", "/%C2%80"],
    "double encoding": ["/%252e%252e/a", "/%252F", "/a%25%32%66", "/%2525", "/%25%36%31", "/a%253Bb", "/%25ff"],
    "an invalid percent escape": ["/%", "/a%", "/a%2", "/a%2/b", "/%zz", "/%u002e", "/%-1", "/a%%", "/% 1", "/%2%65"],
    "overlong UTF-8": ["/%C0%AE", "/%C0%AE%C0%AE/a", "/%C0%AF", "/%E0%80%AF", "/%F0%80%80%AF", "/%C1%9C", "/%C0%80"],
    "invalid UTF-8": ["/%FF", "/%C3", "/%C3/%A9", "/%A9", "/%ED%A0%80", "/%F4%90%80%80", "/%E2%82"],
    "an empty segment": ["//", "//a", "/a//b", "/a//", "///", "/a///?b", "//admin/secret"],
    "dot segments": ["/.", "/..", "/./a", "/../a", "/a/..", "/a/.", "/a/./b", "/a/../b", "/a/..?b"],
    "dot segments with parameters": ["/..;", "/.;a", "/a/..;x", "/..;/a", "/public/..;/admin", "/a/.;x=1/b", "/..%3Bx"],
    "parameters before a later segment": ["/a;b/c", "/a;/c", "/;/a", "/a;b/", "/a%3Bb/c", "/a;b=1/c;d"],
    "a backslash": ["/a\\b", "/\\..\\a", "\\a", "/a\\"],
    "a space": ["/a b", "/ ", "/a ", " /a"],
    "a raw control character": ["/a\x00", "/a\tb", "/a\r\nb", "/a\n", "/\x7f", "/a\x1f"],
    "a character beyond ASCII": ["/café", "/a\u2028", "/\uff0e\uff0e/a", "/\ufeff", "/a\x80", "/\ud800", "/\u2215"],
    "a fragment": ["/a#b", "/#", "/a#?b", "#"],
    "no leading slash": ["", "?", "?a", "*", "a", "a/b", "http://a/b", "%2Fa", ".", ";/a", "api.example:443"],
}


@pytest.mark.parametrize("target", [pytest.param(t, id=f"{why}: {t!a}") for why in _AMBIGUOUS for t in _AMBIGUOUS[why]])
def test_a_path_that_two_parties_could_read_differently_is_refused(target: str) -> None:
    with pytest.raises(Rejected) as refused:
        paths.split(target)
    assert refused.value.reason is Reason.AMBIGUOUS_PATH
    assert target == "" or len(target) < 4 or target not in refused.value.cause


# How others read a path: see support/path_readers.py.

_PIECES = [
    *("/", "/", "/", "a", "b.c", ".", "..", ";", "%2e", "%2F", "%5c", "%25", "2e", "%", "%41", "%C3%A9", "%C0%AE"),
    *("%c3", "\\", "%00", "%3b", "%20", "//", "/..;/", "é", " ", "#", "?", "*", "~", "%252f", "%7f", "%", "0"),
]


@given(st.lists(st.sampled_from(_PIECES), max_size=12).map(lambda pieces: "/" + "".join(pieces)))
@example("/public/%2e%2e;/admin")
@example("/a%25%32%65%25%32%65/b")
def test_every_party_reads_an_accepted_path_in_the_same_way(target: str) -> None:
    path = target.partition("?")[0]
    try:
        segments = paths.split(target)
    except Rejected:
        return
    path_readers.require_one_reading(path, segments)


@pytest.mark.parametrize(
    ("target", "segments"),
    [
        ("/npm/@scope%2fname", ("npm", "@scope/name")),
        ("/npm/%40scope%2Fname?a=%2f", ("npm", "@scope/name")),
        ("/a%2Fb%2fc/d%2Fe/", ("a/b/c", "d/e", "")),
        ("/a%2F%C3%A9%20", ("a/é ",)),
        ("/a%2F...", ("a/...",)),
    ],
)
def test_a_path_with_encoded_slashes_has_them_in_its_segments(target: str, segments: tuple[str, ...]) -> None:
    path = paths.split_with_encoded_slashes(target)
    assert isinstance(path, paths.SlashedPath)
    assert path == segments
    assert path.decoded == paths.split(target.replace("%2f", "/").replace("%2F", "/"))


@pytest.mark.parametrize("path", ["/", "/a/", "/a;b", "/%41?x=%2f"])
def test_a_path_without_encoded_slashes_is_split_as_before(path: str) -> None:
    assert type(paths.split_with_encoded_slashes(path)) is tuple
    assert paths.split_with_encoded_slashes(path) == paths.split(path)


@pytest.mark.parametrize(
    "target",
    [
        *("/%2f", "/%2fa", "/a%2f", "/a%2f/", "/a/%2fb", "/a/b%2f", "/a%2f%2fb", "/a/%2f/b", "%2fa", "%2f", "a%2fb"),
        *("/@scope%2f..", "/@scope%2f.", "/..%2fa", "/.%2fa", "/a%2f..%2fb", "/a%2f%2e%2e", "/a%2f%2e", "/a%2f..;x"),
        *("/a%2fb%5cc", "/a%2fb\\c", "/a%252fb", "/a%2fb%252fc", "/a%2fb%252e", "/a%2fb%00", "/a%2fb%zz", "/a%2fb%"),
        *(
            "/a%2fb;c",
            "/a;b%2fc",
            "/a%2fb%3Bc",
            "/a%2fb/c;d/e",
            "/a%2fb#c",
            "/a%2fb c",
            "/a%2f%C0%AF",
            "/a%2f%ff",
            "//a%2fb",
        ),
        *("/a%2fb//c", "/a%2fb/../c", "/%%2f2fa", "/%2%2ff", "/%4%2f1", "/a%u2fb%2fc", "/" + "a%2f" * 2048 + "b"),
    ],
)
def test_a_path_with_encoded_slashes_is_refused_for_everything_else(target: str) -> None:
    with pytest.raises(Rejected) as refused:
        paths.split_with_encoded_slashes(target)
    assert refused.value.reason is Reason.AMBIGUOUS_PATH


@given(st.lists(st.sampled_from([*_PIECES, "%2f", "%2F"]), max_size=12).map(lambda pieces: "/" + "".join(pieces)))
@example("/a%2%2ff")
@example("/a%25%2f41")
def test_a_path_with_encoded_slashes_has_two_readings(target: str) -> None:
    path = target.partition("?")[0]
    try:
        segments = paths.split_with_encoded_slashes(target)
    except Rejected:
        return
    path_readers.require_two_readings(path, segments)


_CHARACTER = st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="/\\.;%")


@given(segments=st.lists(st.text(_CHARACTER, min_size=1, max_size=5), max_size=4), directory=st.booleans())
def test_every_segment_encoded_once_is_accepted_and_decoded(segments: list[str], *, directory: bool) -> None:
    segments = segments + [""] * (directory or not segments)
    encoded = "/" + "/".join(quote(segment, safe="!$&'()*+,=:@~") for segment in segments)
    assert paths.split(encoded) == tuple(segments)


@given(st.lists(st.sampled_from([*_PIECES, "-", ":"]), max_size=8).map("".join))
def test_a_plain_path_is_read_as_any_other(path: str) -> None:
    if paths._is_plain(path):
        assert paths.split(path) == paths._split_with_care(path)


@given(st.text(max_size=20).map(lambda text: "/" + text), st.text(max_size=10))
def test_the_query_changes_nothing(path: str, query: str) -> None:
    def outcome(target: str) -> tuple[str, ...] | Reason:
        try:
            return paths.split(target)
        except Rejected as refused:
            return refused.reason

    path = path.replace("?", "")
    assert outcome(path) == outcome(f"{path}?{query}")


def test_a_path_of_the_maximum_length_is_accepted_and_a_longer_one_refused() -> None:
    assert len(paths.split("/a" * 4096)) == 4096
    assert paths.split("/" + "a" * 8191 + "?" + "b" * 100_000) == ("a" * 8191,)
    for longer in ("/a" * 4096 + "b", "/" + "%41" * 2731, "/" + "a" * 1_000_000, "/." * 500_000, "/%25" * 250_000):
        with pytest.raises(Rejected) as refused:
            paths.split(longer)
        assert refused.value.reason is Reason.AMBIGUOUS_PATH
