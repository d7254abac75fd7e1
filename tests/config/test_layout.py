"""The scan agrees with the parsers about nesting, and takes linear time; no parser reads what nests too deeply."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from authz_service.config import document
from authz_service.config.files import MAX_CONFIG_BYTES
from authz_service.config.layout import line_of, scan
from config.conftest import PARSERS

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LEVELS = 32
HANG_GUARD = 10.0  # seconds of processor time, of which a look takes one or two, and a quadratic one any number
DEEP = "is nested deeper than 32 levels"


# Against the parsers.


class Collection(NamedTuple):
    column: int
    is_mapping: bool
    counts: bool  # whether a bracket or a column of its own begins it


def levels(text: str, parser: Any) -> int:
    """The depth by a parser's events; counts collections that begin with a bracket or a column of their own."""
    deepest, around = 0, list[Collection]()
    for event in yaml.parse(text, Loader=parser):
        if isinstance(event, yaml.CollectionStartEvent):
            start: Any = event.start_mark
            if event.flow_style:
                counts = text[start.index] in "[{"
            else:  # the dashes of a list may be in the column of the keys around it
                dashes = isinstance(event, yaml.SequenceStartEvent) and bool(around)
                counts = not (dashes and around[-1].is_mapping and around[-1].column == start.column)
            around.append(Collection(start.column, isinstance(event, yaml.MappingStartEvent), counts))
            deepest = max(deepest, sum(collection.counts for collection in around))
        elif isinstance(event, yaml.CollectionEndEvent):
            around.pop()
    return deepest


def seen_levels(text: str) -> int:
    return next(most for most in range(len(text) + 1) if scan(text, max_levels=most).too_deep is None)


PIECES = st.sampled_from(
    ["a", "b: ", "c", " ", "  ", "\n", "\n  ", "\n    ", "\n- ", "\n  - ", "- ", ": ", "? ", "[", "]", "{", "}", ", ",
     "'", '"', "#", " #", "|\n", ">\n", "|2\n", "a:b", "\\", "'x'", '"y"', "-", "?", ":", "\n---\n", "...", "\u2028",
     "\r\n", "@", "*a", "%", "\t"]
)  # fmt: skip


@pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS)
@given(text=st.lists(PIECES, max_size=20).map("".join))
@example(text="a: it's [\nb: 'it''s ['\n")
@example(text="a: x\n  'y [\nb: [z]\n")
@example(text="a: |\n  [[\n    '\n\n # \" {\nb: {c: [d]}\n")
@example(text="- - a: [{b: c}]\n    d:\n    - e\n  - ? f\n    : - g\n")
@example(text="- a: 'x\ny'\n  b: [c,\nd]\n  e: f\n")
@settings(deadline=None, max_examples=500)
def test_the_scan_agrees_with_the_parsers_about_depth(text: str, parser: Any) -> None:
    assume(not re.search(r"[\]}]\s*:", text))  # only the colon shows that a key in brackets is within its mapping
    try:
        expected = levels(text, parser)
    except (yaml.YAMLError, ValueError, OverflowError):
        return
    assert seen_levels(text) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
)


@given(JSON, st.sampled_from([True, False, None]), st.sampled_from([None, '"', "'", "|", ">"]))
@settings(deadline=None)
def test_the_scan_agrees_with_the_parsers_on_generated_yaml(value: Any, flow: bool | None, style: str | None) -> None:  # noqa: FBT001
    text = yaml.safe_dump(value, default_flow_style=flow, default_style=style, allow_unicode=True, width=20)
    assert seen_levels(text) == levels(text, yaml.CSafeLoader)


# What is open.


@pytest.mark.parametrize(
    ("text", "quote", "brackets"),
    [
        ("a: [b, {c: d", None, [3, 7]),
        ("a: [b]", None, []),
        ("a: ]", None, []),
        ("a: 'b", 3, []),
        ("a: ['b'", None, [3]),
        ('a: ["\\"]', 4, [3]),
        ("a: b'c", None, []),
        ("# '[", None, []),
        ("a: b # '[", None, []),
        ("a: b#'[", None, []),
    ],
)
def test_open_quotes_and_brackets_are_found_at_their_places(text: str, quote: int | None, brackets: list[int]) -> None:
    layout = scan(text)
    assert (layout.quote, layout.brackets) == (quote, brackets)


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", "\x85", "\u2028", "\u2029"])
def test_lines_are_counted_as_yaml_breaks_them(line_break: str) -> None:
    text = f"a{line_break}{line_break}b"
    assert (line_of(text, 1), line_of(text, len(text))) == (1, 3)


# What a parser reads.


@pytest.fixture
def guarded() -> Iterator[None]:
    """Ends a test that would otherwise run for hours."""

    def hangs(*_: object) -> NoReturn:
        raise TimeoutError("more than linear")

    before = signal.signal(signal.SIGVTALRM, hangs)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_GUARD)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


def unreachable(*_arguments: object, **_options: object) -> NoReturn:
    raise AssertionError("a parser was called")


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[" * 33, 1),
        ("a: [\n" * 33, 32),  # the mapping around them is the first level
        ("[{" * 17, 1),
        ("- " * 33, 1),
        ("? " * 33, 1),
        ("? - " * 17, 1),
        ("".join(f"{' ' * level}a:\n" for level in range(33)), 33),
        ("".join(f"{' ' * level}- \n" for level in range(33)), 33),
        ("a:\n  " + "- " * 16 + "[" * 16, 2),
        ("[" * 500_000, 1),
        ("{" * 500_000, 1),
        ("- " * 500_000, 1),
    ],
)
@pytest.mark.usefixtures("guarded")
def test_a_parser_reads_no_further_than_the_maximum_depth(
    monkeypatch: pytest.MonkeyPatch, text: str, line: int, parser: str
) -> None:
    events: list[object] = []
    real = yaml.parse
    monkeypatch.setattr(document, "_PARSER", PARSERS[parser])
    monkeypatch.setattr(yaml, "parse", lambda *given, **options: map(recorded, real(*given, **options)))

    def recorded(event: object) -> object:
        events.append(event)
        return event

    with pytest.raises(document.Unreadable) as refusal:
        document.parse(text.encode())
    assert refusal.value.problem == document.Problem((), DEEP, line)
    assert len(events) <= 2 + 3 * MAX_LEVELS + 1  # begin of stream and document; at most a key and two collections each


@pytest.mark.parametrize("data", [b"a: 1\nb: \xff\n", b"a: 1\nb: \x07\n", b"#" * ((1 << 20) + 1)])
def test_text_that_is_too_long_or_has_control_characters_never_reaches_a_parser(
    monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(yaml, "parse", unreachable)
    with pytest.raises(document.Unreadable):
        document.parse(data)


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 31 + "]" * 31,
        "a: |\n" + f"  {'[' * 40}\n  {'- ' * 40}\n",
        f"a: '{'[' * 40}'\nb: \"{'{' * 40}\"\nc: x{'[' * 40}\nd: x\n  {'[' * 40} {'- ' * 40}\n# {'[' * 40}\n",
        "a:\n" + "- [[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]\n" * 40,
        "".join(f"a{level}:\n  - b: c\n" for level in range(40)),
    ],
)
def test_text_that_only_looks_deep_is_read(monkeypatch: pytest.MonkeyPatch, parser: str, text: str) -> None:
    monkeypatch.setattr(document, "_PARSER", PARSERS[parser])
    assert document.parse(text.encode()).value


@pytest.mark.parametrize("parser", PARSERS)
def test_levels_without_a_bracket_or_column_are_bounded_too(monkeypatch: pytest.MonkeyPatch, parser: str) -> None:
    monkeypatch.setattr(document, "_PARSER", PARSERS[parser])
    text = f"a: {'[b: ' * 16}{']' * 16}"  # each item is a mapping without braces
    assert scan(text, max_levels=MAX_LEVELS).too_deep is None
    with pytest.raises(document.Unreadable) as refusal:
        document.parse(text.encode())
    assert refusal.value.problem == document.Problem((), DEEP, 1)


# In linear time.


@pytest.mark.parametrize(
    ("before", "unit"),
    [("", "'"), ("", '"'), ('"', "\\"), ('a: "', '\\"'), ("['", "''"), ("a: ", "["), ("", "{"), ("", "- "), ("", "? "),
     ("", "a"), ("", "a "), ("", ":"), ("[", ":a"), ("", " "), ("", "#"), ("a: ", "\n"), ("a: |\n", " \n"),
     ("", "'x' "), ("", "[] "), ("", "a: "), ("", "- a: |\n   b\n"), ("", "&a ")],
)  # fmt: skip
@pytest.mark.usefixtures("guarded")
def test_a_text_of_the_maximum_size_is_scanned_in_linear_time(before: str, unit: str) -> None:
    scan(before + unit * (MAX_CONFIG_BYTES // len(unit)), max_levels=MAX_LEVELS)
