"""Errors for text that is not YAML: our own message, at the line to fix, with either parser."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.config import document
from authz_service.config.layout import line_of
from authz_service.config.syntax import fault
from config.conftest import PARSERS

FAULTS = [
    (
        "the [ that opens here is not closed: add the closing ]",
        [
            ("a: [1,\n\nb: 2", 1),
            ("a: [\n---\n]", 1),
            ("a: [a, b\n", 1),
        ],
    ),
    (
        (
            "expected a comma, or the ] for the [ of line 1: add it, "
            "or put a string that contains : { } [ ] or , in quotes"
        ),
        [
            ("a: [1, 2\nb: 3\n", 2),
            ("a: [a, b\nc: [d]\n", 2),
            ("a: [x, 'y, z]\nb: 'q'\n", 2),
            ("a: [b: c: d]", 1),
        ],
    ),
    (
        "the string that begins with ' here is not closed: add the closing '",
        [
            ("a: 'x\nb: 1\n", 1),
            ("a: 'x\n---\n'", 1),
            ("a: {b: 'c}\n", 1),
        ],
    ),
    (
        'the string that begins with " here is not closed: add the closing "',
        [
            ('a: "x\nb: 1\n', 1),
            ('a: "b\nc: d', 1),
        ],
    ),
    (
        "the indentation matches no line above: align the line with the keys or items that it belongs to",
        [
            ("a:\n  b: 1\n c: 2\n", 3),
            ("a:\n  - b\n c: 1\n", 3),
            ("a:\n  - b\n - c\n", 3),
            ("rules:\n  - name: x\n   match: {}\n", 3),
            ("rules:\n- name: x\n match: {}\n", 3),
            ("a:\n    b: 1\n  c: 2\n", 3),
            ("a: >\n  b\n c\n", 3),
        ],
    ),
    (
        "* begins an alias: put a string that begins with * in quotes",
        [
            ("hosts:\n  - *.example.org", 2),
            ("a: *\n", 1),
            ("a: *b*c", 1),
            ("a: &x *x", 1),
        ],
    ),
    (
        "a plain string cannot begin with @: put it in quotes",
        [
            ("a: @x", 1),
        ],
    ),
    (
        "a plain string cannot begin with `: put it in quotes",
        [
            ("a: `x`", 1),
        ],
    ),
    (
        "a plain string cannot begin with %: put it in quotes",
        [
            ("a: %x", 1),
        ],
    ),
    (
        "a tab is used where YAML allows only spaces: write spaces",
        [
            ("\ta: 1", 1),
            ("a:\n\tb: 1\n", 2),
            ("a:\n  b: 1\n\tc: 2\n", 3),
            ("a: 1\r\n\tb: 2\r\n", 2),
            ("- \t- a", 1),
        ],
    ),
    (
        "unexpected colon: put a string that contains a colon in quotes, and write one key per line",
        [
            ("a: b: c", 1),
            ("a: https://x: y", 1),
            ("a: b:\n", 1),
            ("'a': 'b' : c", 1),
        ],
    ),
    (
        (
            "the line continues the string above it, but contains a colon: "
            "align it with the key above, or put the string in quotes"
        ),
        [
            ("a: 1\n  b: 2", 2),
            ("a:\n- b\n  c: 1\n", 3),
            ("a: 1, b\n  c: 2", 2),
            ("rules:\n  - name: x\n     match: {}\n", 3),
            ("? a\n? b\n : c", 3),
        ],
    ),
    (
        "expected a colon and a space after the key: write key: value",
        [
            ("a\nb: 1", 1),
            ("x: 1\na\nb: 1\n", 2),
            ("x: 1\na\n", 2),
            ("a: b\nc d\ne: f\n", 2),
            ("a:b\nc: 1\n", 1),
        ],
    ),
    (
        (
            "something follows the closing ' of the string that begins on line 1: "
            "write '' for a ' inside it, or add the ' that is missing"
        ),
        [
            ("a: 'x' y\n", 1),
            ("a: 'it's'\nb: 1\n", 1),
            ("a: 'x\nb: 'y'\n", 2),
            ("a: 'b'c: d", 1),
        ],
    ),
    (
        (
            'something follows the closing " of the string that begins on line 1: '
            'write \\" for a " inside it, or add the " that is missing'
        ),
        [
            ('a: "x" y', 1),
            ('a: "x\nb: "y"\n', 2),
        ],
    ),
    (
        "unknown escape after the backslash: write \\\\ for a backslash, or use single quotes",
        [
            ('a: "\\d"', 1),
            ('a: "\\xZZ"', 1),
        ],
    ),
    (
        (
            "expected a comma, or the } for the { of line 1: add it, "
            "or put a string that contains : { } [ ] or , in quotes"
        ),
        [
            ("a: {b: 1\nc: 2\n", 2),
            ("{a: 1\nb: 2}\n", 2),
            ("a: {b: c: d}", 1),
        ],
    ),
    (
        "the { that opens here is not closed: add the closing }",
        [
            ("a: {b: 1, c\n", 1),
        ],
    ),
    (
        "] closes nothing: remove it, or put the string in quotes",
        [
            ("a: [1 2, 3]]\n", 1),
            ("a: ]", 1),
        ],
    ),
    (
        "} closes nothing: remove it, or put the string in quotes",
        [
            ("a: }", 1),
        ],
    ),
    (
        "} cannot close the [ of line 1: write ]",
        [
            ("a: [1}\n", 1),
        ],
    ),
    (
        "] cannot close the { of line 1: write }",
        [
            ("a: {b: 1]\n", 1),
        ],
    ),
    (
        "something follows the closing }: remove it, or put the whole string in quotes",
        [
            ("a: {b: 1} c: 2\n", 1),
        ],
    ),
    (
        "something follows the closing ]: remove it, or put the whole string in quotes",
        [
            ("a: [1] 2", 1),
        ],
    ),
    (
        "the line is aligned with list items but is not one: begin it with a dash, or change its indentation",
        [
            ("- a\nb: 1\n", 2),
        ],
    ),
    (
        "a list item is aligned with keys: indent it deeper than the key of its list",
        [
            ("a: 1\n- b\n", 2),
            ("a:\n  - b: 1\n    - c\n", 3),
        ],
    ),
    (
        "a list cannot begin on the line of its key: write each item on a line of its own, or all in brackets",
        [
            ("a: - b\n", 1),
        ],
    ),
    (
        "a plain string cannot begin with a question mark and a space: put it in quotes",
        [
            ("a: ? b\n", 1),
        ],
    ),
    (
        "& begins an anchor: put a string that begins with & in quotes",
        [
            ("a: &\n", 1),
            ("a: & b", 1),
            ("a: &x &y z", 1),
        ],
    ),
    (
        "! begins a tag: put a string that begins with ! in quotes",
        [
            ("a: !<x\n", 1),
            ("a: !foo!bar x\n", 1),
            ("a: !!str !!int 1", 1),
        ],
    ),
    (
        "| begins a string on the next lines: move it there, or put a string that begins with | in quotes",
        [
            ("a: |x\n  b\n", 1),
            ("a: |0\n b", 1),
        ],
    ),
    (
        "a plain string cannot begin with a comma: put it in quotes",
        [
            ("a: , b", 1),
        ],
    ),
    (
        "a line that begins with % is a YAML directive: remove it, or put the key in quotes",
        [
            ("%YAML 2.0\n---\na: 1", 1),
            ("%FOO", 1),
            ("%YAML 1.1\na: 1", 1),
        ],
    ),
    (
        "the document ends at this ..., but more follows: remove the ...",
        [
            ("a: 1\n...\nb: 2", 2),
        ],
    ),
    (
        "a mapping or list cannot begin on the line of ---: begin it on the next line",
        [
            ("--- x: 1", 1),
        ],
    ),
    (
        (
            "expected a comma, or the } for the { of line 2: add it, "
            "or put a string that contains : { } [ ] or , in quotes"
        ),
        [
            ("rules:\n  - {name: x\n  - {name: y}\n", 3),
        ],
    ),
    (
        "there is no item before the comma: remove it, or put a string that contains a comma in quotes",
        [
            ("a: [,]", 1),
            ("a: [b,,c]", 1),
            ("a: {,}", 1),
        ],
    ),
    (
        "expected a key before the colon: write key: value",
        [
            (": a\n b", 1),
        ],
    ),
]
LONG = "k" * 1025
FAULTS += [("the key is longer than 1024 characters: shorten it", [(f"{LONG}: 1", 1), (f"a: 1\n{LONG}: 1", 2)])]


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(
    ("text", "line", "words"), [(text, line, words) for words, texts in FAULTS for text, line in texts]
)
def test_text_that_is_not_yaml_is_refused_with_our_message_at_the_line_to_fix(
    monkeypatch: pytest.MonkeyPatch, parser: str, text: str, line: int, words: str
) -> None:
    monkeypatch.setattr(document, "_PARSER", PARSERS[parser])
    with pytest.raises(document.Unreadable) as refusal:
        document.parse(text.encode())
    assert refusal.value.problem == document.Problem((), f"is not YAML: {words}", line)


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("escape", [r"\ud800", r"\U00110000", r"\Uffffffff"])
def test_a_lone_surrogate_is_refused_with_either_parser(
    monkeypatch: pytest.MonkeyPatch, parser: str, escape: str
) -> None:
    monkeypatch.setattr(document, "_PARSER", PARSERS[parser])
    with pytest.raises(document.Unreadable) as refusal:
        document.parse(f'a: "{escape}"'.encode())
    assert refusal.value.problem.text.startswith("is not YAML: ")


ALPHABET = "ab:-?[]{}&*!|>'\"%@`#, \n\t.\\é\u2028\r"


@given(st.text(alphabet=ALPHABET, max_size=40), st.data())
@settings(deadline=None)
def test_wherever_a_parser_stops_the_fault_is_on_one_line_of_the_text(text: str, data: st.DataObject) -> None:
    found = fault(text, data.draw(st.integers(0, len(text))))
    assert 1 <= found.line <= line_of(text, len(text))
    assert found.text.isprintable()
