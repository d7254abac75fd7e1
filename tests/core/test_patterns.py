"""Path patterns: what they mean, and that none sleeps."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core import paths
from authz_service.core.patterns import Folded, parse_pattern


@pytest.mark.parametrize(
    ("pattern", "segments", "rest"),
    [
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
def test_a_pattern_is_segments_and_perhaps_any_rest(
    pattern: str, segments: tuple[str | None, ...], *, rest: bool
) -> None:
    parsed = parse_pattern(pattern)
    assert (parsed.segments, parsed.rest) == (segments, rest)


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
def test_a_segment_with_parameters_matches_nothing_but_itself(
    pattern: str, path: tuple[str, ...], *, matches: bool
) -> None:
    assert parse_pattern(pattern).matches(path) == matches


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
def test_a_pattern_that_ignores_case_matches_every_spelling_of_its_literals(
    pattern: str, path: tuple[str, ...], *, matches: bool
) -> None:
    assert parse_pattern(pattern, case_insensitive=True).matches(path) == matches


def test_only_a_literal_that_has_case_is_folded() -> None:
    segments = parse_pattern("/V1/{Id}/42/-", case_insensitive=True).segments
    assert segments == ("v1", None, "42", "-")
    assert [isinstance(segment, Folded) for segment in segments] == [True, False, False, False]


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/" + "a" * 8191, "/" + "a" * 8191),
        ("".join(f"/{{x{place}}}" for place in range(4096)), "/a" * 4096),
        ("/a" * 4096 + "/**", "/a" * 4096),
    ],
    ids=["one segment", "captures", "rest"],
)
def test_the_longest_accepted_path_has_patterns(pattern: str, path: str) -> None:
    assert parse_pattern(pattern).matches(paths.split(path))


def test_captures_are_known_by_name_and_place() -> None:
    assert parse_pattern("/v1/{tenant}/files/{file_1}/**").captures == {"tenant": 1, "file_1": 3}


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
        ("/*", "only in a final"),
        ("/v1/*", "only in a final"),
        ("/v1/*.js", "only in a final"),
        ("/**/x", "only in a final"),
        ("/v1/**/", "only in a final"),
        ("/v1**", "only in a final"),
        ("/a{id}", "whole segment"),
        ("/{id}b", "whole segment"),
        ("/{}", "whole segment"),
        ("/{a-b}", "whole segment"),
        ("/{1a}", "whole segment"),
        ("/{a}}", "whole segment"),
        ("/{a}/{a}", "captures {a} twice"),
        ("/a b", "no decoded path has"),
        ("/a?b", "no decoded path has"),
        ("/a#b", "no decoded path has"),
        ("/a%20b", "no decoded path has"),
        ("/a\\b", "no decoded path has"),
        ("/a\x00", "no decoded path has"),
        ("/a\n", "no decoded path has"),
        ("/.", "dot segment"),
        ("/a/../b", "dot segment"),
        ("/..;x", "dot segment"),
        ("/a;b/c", "parameters before the end"),
        ("/a;b/**", "parameters before the end"),
        ("/" + "a" * 8192, "longer than any accepted path"),
        ("/a" * 4096 + "/{x}/**", "longer than any accepted path"),
    ],
)
def test_a_pattern_that_could_never_match_is_refused_with_what_would_be_right(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_pattern(pattern)


@given(st.lists(st.text(alphabet=st.sampled_from("ab.;:@é{}*%~ +,"), max_size=4), min_size=1, max_size=4))
def test_a_literal_pattern_that_is_accepted_matches_its_own_path(segments: list[str]) -> None:
    text = "/" + "/".join(segments)
    try:
        pattern = parse_pattern(text)
    except ValueError:
        return
    if not pattern.rest and not pattern.captures:
        assert paths.split(quote(text, safe="/;:@+,~")) == pattern.segments
