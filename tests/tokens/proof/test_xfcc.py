"""x-forwarded-client-cert has one reading, the same as that of a plain parser, or it is malformed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authz_service.tokens.proof import xfcc
from support import plain_xfcc

if TYPE_CHECKING:
    from types import ModuleType

HASH = "468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688"
OTHER = "9ba61d6425303443c0748a02dd8de688468ed33be74eee6556d90c0149c1309e"

# What Envoy 1.40 appended to `Hash=aa` for certificates with these subjects, up to the digests.
ENVOY = {
    "plain": r'Hash=aa,By=spiffe://server;Hash=bb;Cert="-----BEGIN%20";Subject="CN=client";URI=',
    "no subject": r'Hash=aa,By=spiffe://server;Hash=bb;Subject="";URI=;DNS=a;DNS=b',
    "quote": r'Hash=aa,Hash=bb;Subject="CN=a\"b"',
    "backslash at the end": r'Hash=aa,Hash=bb;Subject="CN=a\\";URI=',
    "comma, semicolon, plus, space": r'Hash=aa,Hash=bb;Subject="CN=a\,b\;c=d\+e \ "',
    "umlaut, line feed": r'Hash=aa,Hash=bb;Subject="CN=J\C3\BCrgen\0A"',
    "two names of the server": r"Hash=aa,By=spiffe://a;By=spiffe://b;Hash=bb",
}


def found(header: str, position: int, parser: ModuleType = xfcc) -> dict[str, str] | str | None:
    try:
        pairs: dict[str, str] | None = parser.element(header, position)
    except ValueError:
        return "malformed"
    return pairs


@pytest.mark.parametrize("header", ENVOY.values(), ids=ENVOY)
def test_what_envoy_appends_is_the_last_element(header: str) -> None:
    last = xfcc.element(header, 1)
    assert last is not None
    assert last["hash"] == "bb"
    assert xfcc.element(header, 2) == {"hash": "aa"}
    assert xfcc.element(header, 3) is None


def test_the_examples_in_envoys_documentation_are_read() -> None:
    by = "By=http://frontend.lyft.com"
    subject = 'Subject="/C=US/ST=CA/L=San Francisco/OU=Lyft/CN=Test Client"'
    one = f"{by};Hash={HASH};{subject};URI=http://testclient.lyft.com"
    two = f"{by};Hash={HASH};URI=http://t.lyft.com,By=http://backend.lyft.com;Hash={OTHER};URI=http://frontend.lyft.com"
    assert xfcc.element(f"{one};DNS=lyft.com;DNS=www.lyft.com", 1) == {
        "by": "http://frontend.lyft.com",
        "hash": HASH,
        "subject": "/C=US/ST=CA/L=San Francisco/OU=Lyft/CN=Test Client",
        "uri": "http://testclient.lyft.com",
        "dns": "lyft.com",
    }
    assert [(xfcc.element(two, position) or {}).get("hash") for position in (1, 2, 3)] == [OTHER, HASH, None]


def test_keys_are_read_in_any_case_and_values_are_not_changed() -> None:
    assert xfcc.element("hASH=aB;SUBJECT=Ab", 1) == {"hash": "aB", "subject": "Ab"}


@pytest.mark.parametrize("separator", [",", ", ", " ,", "\t, \t"])
def test_spaces_around_commas_do_not_count(separator: str) -> None:
    assert xfcc.element(f" Hash=a{separator}Hash=b\t", 1) == {"hash": "b"}


@pytest.mark.parametrize(
    "header",
    [
        'Hash=forged;Subject="',
        'Hash=forged;Subject="\\',
        "Hash=forged;Subject=\\",
        'Hash=forged;Subject="a\\"',
        'Hash=forged;Subject="a"b',
        'Hash=forged;Subject=a"',
        "Hash=forged;",
        "Hash=forged;;",
        "Hash=forged,",
        "Hash",
        "=forged",
        "",
        ",",
        "Hash =forged",
        "Hash= forged",
        "Ha\u017fh=forged",
        'Hash="for\nged"',
    ],
)
@pytest.mark.parametrize("appended", ENVOY.values(), ids=ENVOY)
def test_malformed_elements_of_a_client_make_the_whole_header_malformed(header: str, appended: str) -> None:
    for whole in (f"{header},{appended}", f"{header}, {appended}"):
        with pytest.raises(ValueError, match="malformed"):
            xfcc.element(whole, 1)


def test_separators_in_quotes_do_not_move_the_boundaries_of_elements() -> None:
    forged = r'Subject="a,b;Hash=forged,\",Hash=forged"'
    assert xfcc.element(f"{forged},Hash=real;{forged}", 1) == {
        "hash": "real",
        "subject": r"a,b;Hash=forged,\",Hash=forged",
    }


@pytest.mark.parametrize("header", ["Hash=a;Hash=a", "Hash=a;hash=b", 'Cert="a";Cert="a"', "Chain=;Chain=", "x=1;x=1"])
def test_a_key_that_envoy_sends_once_is_refused_twice_in_the_element_that_counts(header: str) -> None:
    with pytest.raises(ValueError, match="twice"):
        xfcc.element(f"Hash=c,{header}", 1)
    assert xfcc.element(f"{header},Hash=c", 1) == {"hash": "c"}


def test_an_error_quotes_nothing() -> None:
    for header in ('Hash=secret;Subject="', "Hash=secret;Hash=secret", "secret" * 20_000):
        with pytest.raises(ValueError, match="malformed") as error:
            xfcc.element(header, 1)
        assert "secret" not in str(error.value)


def test_length_elements_and_pairs_are_bounded() -> None:
    assert found("Hash=" + "a" * 65_531, 1) == {"hash": "a" * 65_531}
    assert found("Hash=" + "a" * 65_532, 1) == "malformed"
    assert found(",".join(["Hash=a"] * 100), 100) == {"hash": "a"}
    assert found(",".join(["Hash=a"] * 101), 1) == "malformed"
    assert found(";".join(["DNS=a"] * 1000), 1) == {"dns": "a"}
    assert found(";".join(["DNS=a"] * 1001), 1) == "malformed"


WORDS = st.sampled_from(
    [
        *(
            "Hash",
            "hash",
            "Cert",
            "By",
            "DNS",
            "x-1",
            "a",
            "a,b",
            "=",
            ";",
            ",",
            '"',
            "\\",
            "-",
            '="',
            '",',
            '\\"',
            "=a;",
            "=b,",
        ),
        *(" ", "\t", "\x00", "\x7f", "\xa0", "\u017f", "\ufffd"),
    ]
)
PIECES = st.sampled_from(
    ["Hash=a", "hash=b", 'Cert="%0A"', "URI=", "DNS=a", 'Subject="a\\"b,"', "By=x=y", ";", ";", ",", ", "]
)
HEADERS = st.lists(PIECES | WORDS, max_size=12).map("".join) | st.lists(PIECES, max_size=6).map(";".join)


@given(HEADERS, st.integers(1, 4))
@example('Subject="\\\\",Hash=a', 1)
@example('Subject="\\\\\\",Hash=a', 1)
@example("URI=spiffe://x?a=b", 1)
def test_a_plain_parser_reads_any_header_in_the_same_way(header: str, position: int) -> None:
    assert found(header, position) == found(header, position, plain_xfcc)


KEYS = st.from_regex(re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,5}"), fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
PAIRS = st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=4, unique_by=lambda pair: pair[0].lower())


@given(st.lists(PAIRS, min_size=1, max_size=4), st.data())
def test_elements_with_any_quoted_values_are_read_as_written(
    elements: list[list[tuple[str, str]]], data: st.DataObject
) -> None:
    def quoted(value: str) -> str:
        return "".join("\\" + each if each in '"\\' or data.draw(st.booleans()) else each for each in value)

    written = [[(key, quoted(value)) for key, value in pairs] for pairs in elements]
    header = ",".join(";".join(f'{key}="{value}"' for key, value in pairs) for pairs in written)
    for position, pairs in enumerate(reversed(written), start=1):
        assert xfcc.element(header, position) == {key.lower(): value for key, value in pairs}
    assert xfcc.element(header, len(elements) + 1) is None


@given(HEADERS, PAIRS)
def test_no_prefix_changes_the_last_element(prefix: str, pairs: list[tuple[str, str]]) -> None:
    escaped = [(key, value.replace("\\", "\\\\").replace('"', '\\"')) for key, value in pairs]
    appended = ";".join(f'{key}="{value}"' for key, value in escaped)
    assert found(f"{prefix},{appended}", 1) in ({key.lower(): value for key, value in escaped}, "malformed")
