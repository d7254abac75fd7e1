"""Path and host patterns: what they match, which ones are refused, and that comparing them agrees with trying paths."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.core import paths
from authz_service.core.patterns import (
    CHARACTERS_WITH_CASE,
    MAX_FOLDED,
    Folded,
    HostPattern,
    PathPattern,
    SuffixedCapture,
    covering,
    decodes_into,
    normalize_host,
    overlap,
    parse_host_pattern,
    parse_path_pattern,
)
from authz_service.rules.encoded_slashes import captures_slashes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@pytest.mark.parametrize(
    ("pattern", "segments", "is_prefix"),
    [
        ("/v1/{id}:purge", ("v1", SuffixedCapture(":purge")), False),
        ("/{name}.json/**", (SuffixedCapture(".json"),), True),
        ("/", ("",), False),
        ("/v1", ("v1",), False),
        ("/v1/", ("v1", ""), False),
        ("/v1/{id}", ("v1", None), False),
        ("/{a}/{b}/c", (None, None, "c"), False),
        ("/**", (), True),
        ("/v1/**", ("v1",), True),
        ("/{id}/**", (None,), True),
        ("/café/a b".replace(" ", "_"), ("café", "a_b"), False),
        ("/a;b=c", ("a;b=c",), False),
        ("/a:b@c,d", ("a:b@c,d",), False),
    ],
)
def test_a_pattern_is_parsed_into_segments_and_an_optional_prefix_marker(
    pattern: str, segments: tuple[str | SuffixedCapture | None, ...], *, is_prefix: bool
) -> None:
    parsed = parse_path_pattern(pattern)
    assert (parsed.text, parsed.segments, parsed.is_prefix) == (pattern, segments, is_prefix)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/v1/{id}", ("v1", "a"), True),
        ("/v1/{id}", ("v1", "a;b"), False),
        ("/v1/{id}", ("v1", ";"), False),
        ("/v1/{id}", ("v1", ""), False),
        ("/v1/**", ("v1",), True),
        ("/v1/**", ("v1", "a", "b"), True),
        ("/v1/**", ("v1", "a;b"), False),
        ("/v1/**", ("v1", "a", ";"), False),
        ("/**", ("a;b",), False),
        ("/{x}/a;b", ("v1", "a;b"), True),
        ("/{x}/a;b", ("v1", "a"), False),
        ("/{x}/a;b", ("v1", "A;B"), False),
    ],
)
def test_only_a_literal_matches_a_segment_with_parameters(
    pattern: str, path: tuple[str, ...], *, matches: bool
) -> None:
    assert parse_path_pattern(pattern).matches(path) == matches


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/v1/Admin", ("V1", "aDMIN"), True),
        ("/v1/Admin/", ("v1", "admin"), False),
        ("/v1/Admin/**", ("v1", "ADMIN", "x"), True),
        ("/v1/{id}/a", ("v1", "Id", "A"), True),
        ("/a;b", ("A;B",), True),
        ("/stra\u00dfe", ("STRASSE",), True),
        ("/1", ("2",), False),
    ],
)
def test_a_folded_pattern_matches_its_literals_in_any_case(
    pattern: str, path: tuple[str, ...], *, matches: bool
) -> None:
    assert parse_path_pattern(pattern).folded().matches(path) == matches


@pytest.mark.parametrize(
    ("pattern", "folds", "segment", "captured"),
    [
        ("/{id}:purge", False, "7:purge", "7"),
        ("/{id}:purge", False, "7:8:purge", "7:8"),
        ("/{id}:purge", False, ":purge:purge", ":purge"),
        ("/{id}:purge", False, "::purge", ":"),
        ("/{id}:purge", False, ":purge", None),
        ("/{id}:purge", False, "purge", None),
        ("/{id}:purge", False, "7:PURGE", None),
        ("/{id}:purge", False, "7:purge:", None),
        ("/{id}:purge", False, "7;:purge", None),
        ("/{id}:purge", False, "7:purge;x", None),
        ("/{id}:purge", False, "", None),
        ("/{id}:purge", True, "Id:PurgE", "Id"),
        ("/{id}:purge", True, ":PURGE", None),
        ("/{id}:PURGE", True, "7;:purge", None),
        ("/{name}.tar.gz", False, "a.tar.gz", "a"),
        ("/{x}stra\u00dfe", True, "SSTRASSE", "S"),
        ("/{x}strasse", True, "Sstra\u00dfe", "S"),
        ("/{x}s", True, "a\u00df", None),  # half a letter
        ("/{x}ss", True, "\u00df", None),
        ("/{x}:1", True, "a:1", "a"),
        ("/{x}", False, "a:purge", "a:purge"),
    ],
)
def test_a_capture_with_a_suffix_captures_the_text_before_it(
    pattern: str, segment: str, captured: str | None, *, folds: bool
) -> None:
    parsed = parse_path_pattern(pattern)
    parsed = parsed.folded() if folds else parsed
    assert parsed.matches((segment,)) == (captured is not None)
    if captured is not None:
        assert list(parsed.captured((segment,)).values()) == [captured]


@given(st.text("aA:sS\u00df\ufb01fiI\u0130;", min_size=1, max_size=5), st.text("aA:sS\u00dffiI\u0130", max_size=6))
def test_a_folded_suffix_splits_a_segment_between_two_of_its_characters(suffix: str, segment: str) -> None:
    splits = [
        end for end in range(1, len(segment) + 1) if segment[end:].casefold() == suffix.casefold() and ";" not in suffix
    ]
    assert SuffixedCapture(Folded(suffix.casefold())).end(segment) == (splits[0] if splits else 0)
    assert len(splits) < 2


def test_only_literals_with_case_are_folded() -> None:
    segments = parse_path_pattern("/V1/{Id}/42/-").folded().segments
    assert segments == ("v1", None, "42", "-")
    assert [isinstance(segment, Folded) for segment in segments] == [True, False, False, False]
    suffixes = [segment.suffix for segment in parse_path_pattern("/{a}:Purge/{b}:1").folded().segments if segment]  # type: ignore[union-attr]
    assert suffixes == [":purge", ":1"]
    assert [isinstance(suffix, Folded) for suffix in suffixes] == [True, False]


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/" + "a" * 8191, "/" + "a" * 8191),
        ("".join(f"/{{x{place}}}" for place in range(4096)), "/a" * 4096),
        ("/a" * 4096 + "/**", "/a" * 4096),
    ],
    ids=["one segment", "captures", "prefix"],
)
def test_a_pattern_can_match_the_longest_accepted_path(pattern: str, path: str) -> None:
    assert parse_path_pattern(pattern).matches(paths.split(path))


def test_captures_map_names_to_segment_indexes() -> None:
    assert parse_path_pattern("/v1/{tenant}/files/{file_1}/**").captures == {"tenant": 1, "file_1": 3}


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "must start with /"),
        ("v1", "must start with /"),
        ("**", "must start with /"),
        ("//", "empty segment"),
        ("/v1//x", "empty segment"),
        ("/v1//**", "empty segment"),
        ("//**", "empty segment"),
        ("/*", "allowed only in a final"),
        ("/v1/*", "allowed only in a final"),
        ("/v1/*.js", "allowed only in a final"),
        ("/**/x", "allowed only in a final"),
        ("/v1/**/", "allowed only in a final"),
        ("/v1**", "allowed only in a final"),
        ("/a{id}", "whole segment"),
        ("/v{n}", "whole segment"),
        ("/{a}{b}", "whole segment"),
        ("/{a}:{b}", "whole segment"),
        ("/{a}:b}", "whole segment"),
        ("/{a}:*", "allowed only in a final"),
        ("/{a}**", "allowed only in a final"),
        ("/{a}%3Ab", "no decoded path has"),
        ("/{a}?b", "no decoded path has"),
        ("/{a};v=1", ";parameters after a {name}"),
        ("/{a}:b/{a}", "captures {a} twice"),
        ("/{a}" + "b" * 8191, "longer than any accepted path"),
        ("/{}", "whole segment"),
        ("/{a-b}", "whole segment"),
        ("/{1a}", "whole segment"),
        ("/{a}}", "whole segment"),
        ("/{a}/{a}", "captures {a} twice"),
        ("/a b", "no decoded path has"),
        ("^/v1/.*$", "looks like a regular expression"),
        ("/v1/.*", "looks like a regular expression"),
        (r"/v1/\d+", "looks like a regular expression"),
        (r"/v1\.2", "looks like a regular expression"),
        ("/v1/(?:a)", "looks like a regular expression"),
        ("/v1/{id:[0-9]+}", "looks like a regular expression"),
        ("/a?b", "no decoded path has"),
        ("/a#b", "no decoded path has"),
        ("/a%20b", "no decoded path has"),
        ("/a\\b", "no decoded path has"),
        ("/a\x00", "no decoded path has"),
        ("/a\n", "no decoded path has"),
        ("/.", "dot segment"),
        ("/a/../b", "dot segment"),
        ("/..;x", "dot segment"),
        ("/a;b/c", "parameters before its last segment"),
        ("/a;b/**", "parameters before its last segment"),
        ("/" + "a" * 8192, "longer than any accepted path"),
        ("/a" * 4096 + "/{x}/**", "longer than any accepted path"),
    ],
)
def test_a_path_pattern_that_could_never_match_is_refused_with_the_remedy(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_path_pattern(pattern)


@given(st.lists(st.text(alphabet=st.sampled_from("ab.;:@é{}*%~ +,"), max_size=4), min_size=1, max_size=4))
def test_an_accepted_literal_pattern_equals_the_segments_of_its_own_path(segments: list[str]) -> None:
    text = "/" + "/".join(segments)
    try:
        pattern = parse_path_pattern(text)
    except ValueError:
        return
    if not pattern.is_prefix and not pattern.captures:
        assert paths.split(quote(text, safe="/;:@+,~")) == pattern.segments


# Hosts.


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.example.com", "api.example.com"),
        ("API.Example.COM", "api.example.com"),
        ("api.example.com:8443", "api.example.com"),
        ("api.example.com.", "api.example.com"),
        ("api.example.com.:443", "api.example.com"),
        ("localhost", "localhost"),
        ("api.example.com:", "api.example.com"),
        ("my_service", "my_service"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:80", "[::1]"),
        ("[2001:DB8::1]", "[2001:db8::1]"),
    ],
)
def test_a_host_is_normalized_without_case_port_and_trailing_dot(host: str, name: str) -> None:
    assert normalize_host(host) == name


@pytest.mark.parametrize(
    "host",
    ["", ".", "..", "a..b", ".a", "a..", "a b", "a,b", "a\n", "a/b", "me@a", "a:x", "a:123456", "::1", "[::1",
     "é.example.com", "a\x00", "a%2e", "a!", "x" * 300, "\u212aafka.example.com"],
)  # fmt: skip
def test_anything_but_one_plain_host_normalizes_to_the_empty_string(host: str) -> None:
    assert normalize_host(host) == ""


@given(st.text(max_size=300))
def test_normalizing_a_host_never_raises_and_is_idempotent(host: str) -> None:
    name = normalize_host(host)
    assert normalize_host(name) == name


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("api.example.com", HostPattern("api.example.com", is_wildcard=False)),
        ("API.Example.com", HostPattern("api.example.com", is_wildcard=False)),
        ("*.Example.org", HostPattern("example.org", is_wildcard=True)),
        ("*.org", HostPattern("org", is_wildcard=True)),
        ("[::1]", HostPattern("[::1]", is_wildcard=False)),
    ],
)
def test_a_host_pattern_is_a_name_or_a_wildcard(text: str, pattern: HostPattern) -> None:
    assert parse_host_pattern(text) == pattern


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "*.",
        "*.*.org",
        "a.*",
        "a*.org",
        "https://a",
        "a:80",
        "a/",
        "a.",
        ".a",
        "a b",
        "é.org",
        "a\n",
        "*.[::1]",
        "\u212aa.org",
        "a." * 127 + "a",
    ],
)
def test_a_host_pattern_that_could_never_match_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a host: write a name such as api\.example\.com"):
        parse_host_pattern(text)


@given(st.text(max_size=40))
def test_a_host_pattern_without_wildcard_is_a_normalized_host(text: str) -> None:
    try:
        pattern = parse_host_pattern(text)
    except ValueError:
        return
    assert pattern.is_wildcard or normalize_host(text) == pattern.name


# Comparing patterns.

_DEPTH = 3  # segments of the longest generated pattern


@pytest.mark.parametrize(
    ("pattern", "others", "covered_by"),
    [
        ("/a", ["/a"], {0}),
        ("/a", ["/b", "/{x}"], {1}),
        ("/{x}", ["/a"], None),
        ("/{x}", ["/{y}"], {0}),
        ("/a/", ["/a"], None),
        ("/a/", ["/a/{x}"], None),
        ("/a/", ["/a/**"], {0}),
        ("/a/**", ["/a/{x}/**"], None),
        ("/a/**", ["/a", "/a/{x}/**"], None),  # /a/ is left
        ("/a/**", ["/a", "/a/", "/a/{x}/**"], {0, 1, 2}),
        ("/a/**", ["/a", "/a/", "/a/{x}", "/a/{x}/", "/a/{x}/{y}/**"], {0, 1, 2, 3, 4}),
        ("/**", ["/", "/{x}/**"], {0, 1}),
        ("/**", ["/{x}/**"], None),
        ("/**", ["/**"], {0}),
        ("/", ["/**"], {0}),
        ("/{x}/b", ["/{x}/c", "/a/b"], None),
        ("/{x}/b/**", ["/a/**", "/{x}/{y}/**"], {1}),
        ("/a", [], None),
        ("/**", [], None),
        ("/a;b", ["/{x}", "/**"], None),
        ("/a;b", ["/{x}", "/a;b"], {1}),
        ("/{x}", ["/**"], {0}),
        ("/{x}:a", ["/{y}"], {0}),
        ("/{x}:a", ["/{y}a"], {0}),
        ("/{x}:a", ["/{y}b:a", "/7:a"], None),
        ("/{x}", ["/{y}:a"], None),
        ("/7:a", ["/{y}:a"], {0}),
        ("/:a", ["/{y}:a"], None),
        ("/{x}:a/b", ["/{y}:a/**"], {0}),
        ("/{x}:a/**", ["/{y}/**"], {0}),
        ("/{x};a".replace("{x}", "x"), ["/{y}a"], None),
    ],
)
def test_patterns_cover_another_if_together_they_match_all_its_paths(
    pattern: str, others: list[str], covered_by: set[int] | None
) -> None:
    assert covering(parse_path_pattern(pattern), [parse_path_pattern(other) for other in others]) == covered_by


@pytest.mark.parametrize(
    ("pattern", "others", "covered_by"),
    [
        ("/a:a", ["/{z}:a", "/{u}A"], {0, 1}),
        ("/a:a", ["/{z}:a"], None),
        ("/a:a", ["/{z}:a", "/{u}:A"], {0, 1}),
        ("/a:a", ["/{z}:a", "/a:A"], None),  # A:A is left
        ("/a:a", ["/{z}:a", "/a:A", "/A:A"], {0, 1, 2}),
        ("/{x}:a", ["/{z}:a", "/{u}A"], {0, 1}),
        ("/{x}:a", ["/{z}:a", "/7:A"], None),
        ("/{x}:a/**", ["/{z}:a/**", "/{u}A/**"], {0, 1}),
        ("/a", ["/a", "/A"], {0, 1}),
        ("/a/b", ["/a/b", "/A/{x}", "/{x}/B"], {0, 1, 2}),
        ("/a/b", ["/a/b", "/A/b", "/{x}/B"], {0, 1, 2}),
        ("/a/b", ["/a/b", "/A/B"], None),
        ("/a;b", ["/a;b", "/A;b", "/a;B", "/A;B"], {0, 1, 2, 3}),
        ("/s", ["/s", "/S"], None),  # \u017f is left
        ("/s", ["/s", "/S", "/\u017f"], {0, 1, 2}),
    ],
)
def test_case_sensitive_patterns_cover_a_folded_one_if_together_they_match_each_of_its_spellings(
    pattern: str, others: list[str], covered_by: set[int] | None
) -> None:
    assert covering(parse_path_pattern(pattern).folded(), [parse_path_pattern(other) for other in others]) == covered_by


def test_a_folded_suffix_does_not_cover_a_letter_of_which_it_is_half() -> None:
    single, double = (parse_path_pattern(text).folded() for text in ("/{x}s", "/{x}ss"))
    assert covering(double, [single]) is None  # a\u00df is left
    assert covering(double, [single, parse_path_pattern("/{x}\u00df")]) is None  # a\u1e9e is left
    both = [parse_path_pattern(f"/{{x}}{letter}") for letter in ("\u00df", "\u1e9e")]
    assert covering(double, [single, *both]) == frozenset({0, 1, 2})
    double, single = (parse_path_pattern(text).folded() for text in ("/{x}ssa", "/{x}sa"))
    assert covering(double, [single, parse_path_pattern("/{x}a")]) is None  # \u00dfA is left


def test_covering_beyond_its_bounds_is_none_unless_captures_cover() -> None:
    def named(texts: Iterable[str], more: str) -> list[PathPattern]:
        return [parse_path_pattern(text) for text in (*texts, more)]

    long = parse_path_pattern("/" + "a" * 1001).folded()
    assert covering(long, named(["/{x}a"], "/{x}A")) == frozenset({0, 1})
    assert covering(long, named([long.text, "/{x}a"], "/{x}A")) is None
    assert covering(long, named([long.text], "/{x}")) == frozenset({1})
    for depth, covered_by in (6, frozenset(range(64))), (7, None):
        spelled = list(map("".join, itertools.product(["/a", "/A"], repeat=depth)))
        assert covering(parse_path_pattern(spelled[0]).folded(), named(spelled[1:], spelled[0])) == covered_by


def test_every_character_with_case_is_known() -> None:
    folds = {character: character.casefold() for character in map(chr, range(sys.maxunicode + 1))}
    changed = {character: fold for character, fold in folds.items() if fold != character}
    assert all(ord(character) in CHARACTERS_WITH_CASE for character in changed)
    assert max(map(len, changed.values())) == MAX_FOLDED


_LAST = ["", "/", "/**", "/a;b"]
_FOLDS = [lambda pattern: pattern, PathPattern.folded]


def _patterns(segments: list[str], depth: int) -> st.SearchStrategy[PathPattern]:
    return st.builds(
        lambda segments, last, fold: fold(
            parse_path_pattern("".join(f"/{segment}" for segment in segments) + last or "/")
        ),
        st.lists(st.sampled_from(segments), max_size=depth, unique_by=lambda text: text),
        st.sampled_from(_LAST),
        st.sampled_from(_FOLDS),
    )


def _paths(segments: list[str], depth: int) -> list[tuple[str, ...]]:
    """Every path over these segments up to a length."""
    return [
        (*path, *last)
        for length in range(depth + 1)
        for path in itertools.product(segments, repeat=length)
        for last in ([()] if length else []) + [("",), ("a;b",), ("A;b",), ("other;",)]
    ]


_PATTERNS = _patterns(["a", "1", "{x}", "{y}"], _DEPTH)
# Every path over the named segments, in more spellings than patterns use, and over one segment that no pattern names;
# longer than any pattern needs.
_PATHS = _paths(["a", "A", "1", "other"], _DEPTH + 2)
# The same for captures with a suffix, with unnamed text before each suffix.
_SUFFIXED = _patterns(["a", "a:a", "{x}", "{z}:a", "{w}a", "{v}:", "{u}A", "{t}a:a"], 2)
_SUFFIXED_PATHS = _paths(
    ["a", "A", "7", "a:a", "A:a", "a:A", "A:A", "7:a", "7:A", "7:", "7a", "7A", "7a:a", "7A:a", "7a:A", "7A:A"], 3
)


def _agree_on_covering(pattern: PathPattern, others: list[PathPattern], paths: list[tuple[str, ...]]) -> None:
    left = any(pattern.matches(path) and not any(other.matches(path) for other in others) for path in paths)
    covered_by = covering(pattern, others)
    assert (covered_by is not None) == (not left)
    if covered_by is not None:
        assert covering(pattern, [others[place] for place in covered_by]) is not None


@settings(max_examples=300)
@given(_PATTERNS, st.lists(_PATTERNS, max_size=6))
def test_covering_agrees_with_trying_every_path(pattern: PathPattern, others: list[PathPattern]) -> None:
    _agree_on_covering(pattern, others, _PATHS)


@settings(max_examples=300)
@given(_SUFFIXED, st.lists(_SUFFIXED, max_size=4))
def test_covering_agrees_with_trying_every_path_for_captures_with_suffixes(
    pattern: PathPattern, others: list[PathPattern]
) -> None:
    _agree_on_covering(pattern, others, _SUFFIXED_PATHS)


_SPELLED = [
    "s",
    "S",
    "\u017f",
    "ss",
    "\u00df",
    "\u1e9e",
    "Ss",
    "{x}s",
    "{x}S",
    "{x}\u017f",
    "{x}ss",
    "{x}\u00df",
    "{x}",
]
_SPELLINGS = ["s", "S", "\u017f", "\u00df", "\u1e9e", *map("".join, itertools.product("sS\u017f", repeat=2))]


def _spelled_patterns(depth: int) -> st.SearchStrategy[PathPattern]:
    return st.builds(
        lambda segments, fold: fold(
            parse_path_pattern("".join(f"/{text}".replace("x", f"x{place}") for place, text in enumerate(segments)))
        ),
        st.lists(st.sampled_from(_SPELLED), min_size=depth, max_size=depth),
        st.sampled_from(_FOLDS),
    )


@settings(max_examples=300)
@given(st.data(), st.integers(1, 2))
def test_covering_agrees_with_trying_every_spelling(data: st.DataObject, depth: int) -> None:
    patterns = _spelled_patterns(depth)
    pattern, others = data.draw(patterns), data.draw(st.lists(patterns, max_size=8))
    segments = [*_SPELLINGS, *(f"7{spelling}" for spelling in _SPELLINGS), "7"]
    _agree_on_covering(pattern, others, list(itertools.product(segments, repeat=depth)))


def _agree_on_overlap(one: PathPattern, other: PathPattern, paths: list[tuple[str, ...]]) -> None:
    assert overlap(one, other) == any(one.matches(path) and other.matches(path) for path in paths)
    assert overlap(one, other) == overlap(other, one)


@settings(max_examples=300)
@given(_PATTERNS, _PATTERNS)
def test_overlap_agrees_with_trying_every_path(one: PathPattern, other: PathPattern) -> None:
    _agree_on_overlap(one, other, _PATHS)


@settings(max_examples=300)
@given(_SUFFIXED, _SUFFIXED)
def test_overlap_agrees_with_trying_every_path_for_captures_with_suffixes(one: PathPattern, other: PathPattern) -> None:
    _agree_on_overlap(one, other, _SUFFIXED_PATHS)


def _encoded(path: tuple[str, ...]) -> Iterator[paths.SlashedPath]:
    """The paths with encoded slashes that decode to this path."""
    for joints in itertools.product(["/", "//"], repeat=len(path) - 1):
        encoded = "".join(itertools.chain(*zip(path, joints, strict=False), path[-1:]))
        segments = tuple(segment.replace("\0", "/") for segment in encoded.replace("//", "\0").split("/"))
        slashed = [segment for segment in segments if "/" in segment]
        if slashed and not any(";" in segment or segment[-1] == "/" for segment in slashed):
            yield paths.SlashedPath(segments)


@settings(max_examples=300)
@given(_SUFFIXED, _SUFFIXED)
def test_decoding_agrees_with_trying_every_path_with_slashes(pattern: PathPattern, other: PathPattern) -> None:
    tried = any(
        captures_slashes([pattern], encoded)
        for path in _SUFFIXED_PATHS
        if other.matches(path)
        for encoded in _encoded(path)
    )
    if tried:
        assert decodes_into(pattern, other)
    elif not other.is_prefix:  # otherwise longer paths than those tried may decode
        assert not decodes_into(pattern, other)


_HOST_NAMES = ["a.org", "b.a.org", "*.a.org", "*.b.a.org", "*.org", "c.com"]
_HOST_PATTERNS = st.sampled_from(_HOST_NAMES).map(parse_host_pattern)


@given(_HOST_PATTERNS, _HOST_PATTERNS)
def test_host_inclusion_agrees_with_trying_every_host(one: HostPattern, other: HostPattern) -> None:
    known = ["a.org", "b.a.org", "x.a.org", "x.b.a.org", "y.x.b.a.org", "x.org", "c.com", "x.c.com", "net"]
    assert one.includes(other) == all(one.matches(host) for host in known if other.matches(host))


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("a.org", "a.org", True),
        ("a.org", "b.a.org", False),
        ("*.a.org", "b.a.org", True),
        ("*.a.org", "c.b.a.org", True),
        ("*.a.org", "a.org", False),
        ("*.a.org", "ba.org", False),
        ("*.a.org", ".a.org", False),
        ("*.a.org", "", False),
        ("a.org", "", False),
    ],
)
def test_a_wildcard_host_matches_one_or_more_labels(pattern: str, host: str, *, matches: bool) -> None:
    assert parse_host_pattern(pattern).matches(host) == matches
