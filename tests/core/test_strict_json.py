"""JSON with exactly one reading is accepted, anything else refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core import strict_json

SECRET = "s3cret"


def _nested(depth: int, opening: str = "[", closing: str = "]", core: str = "") -> bytes:
    return (opening * depth + core + closing * depth).encode()


_REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \n",
    "no JSON": SECRET.encode(),
    "two values": b"{}{}",
    "a value and something": b"{} s3cret",
    "single quotes": b"{'a': 1}",
    "a comment": b"{} // s3cret",
    "a comma at the end": b'{"a": 1,}',
    "no-break space": b"\xc2\xa0{}",
    "vertical tab": b"\x0b{}",
    "NUL behind": b"{}\x00",
    "a raw control in a string": b'{"a": "\n"}',
    "a raw NUL in a string": b'{"a": "\x00"}',
    "an unknown escape": b'{"a": "\\x41"}',
    "half an escape": b'{"a": "\\u12"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16 with a mark": '{"a": 1}'.encode("utf-16"),
    "UTF-16-LE": '{"a": 1}'.encode("utf-16-le"),
    "UTF-16-BE": '{"a": 1}'.encode("utf-16-be"),
    "UTF-32 with a mark": '{"a": 1}'.encode("utf-32"),
    "UTF-32-LE": '{"a": 1}'.encode("utf-32-le"),
    "UTF-32-BE": '{"a": 1}'.encode("utf-32-be"),
    "Latin-1": b'{"a": "\xe9"}',
    "overlong UTF-8": b'{"a": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "beyond Unicode": b'{"a": "\xf4\x90\x80\x80"}',
    "an escaped lone surrogate": b'{"a": "\\ud800"}',
    "an escaped low surrogate": b'"\\udc00"',
    "surrogates in the wrong order": b'["\\udc00\\ud800"]',
    "a lone surrogate as a name": b'{"\\ud800": 1}',
    "a lone surrogate deep down": b'{"a": [[{"b": ["\\udfff"]}]]}',
    "a duplicate member": b'{"a": 1, "a": 1}',
    "a duplicate with an escape": b'{"a": 1, "\\u0061": 2}',
    "a duplicate within": b'{"a": {"b": 1, "c": 2, "b": 3}}',
    "a duplicate in a list": b'[{"a": 1, "a": 2}]',
    "a duplicate of nothing": b'{"": 1, "": 2}',
    "NaN": b'{"exp": NaN}',
    "Infinity": b'{"exp": Infinity}',
    "-Infinity": b'{"exp": -Infinity}',
    "a float that is too large": b'{"exp": 1e999}',
    "one below all bounds": b'{"exp": -1e999}',
    "one of the like within": b"[[1E+400]]",
    "an integer of 41 digits": b"1" + b"0" * 40,
    "an integer of 5000 digits": b'{"exp": ' + b"9" * 5000 + b"}",
    "a plus": b"+1",
    "a leading zero": b"01",
    "hexadecimal": b"0x1",
    "no digit behind the point": b"1.",
    "no digit before it": b".1",
    "Arabic digits": "\u0661".encode(),
    "True": b"True",
    "33 levels": _nested(33),
    "a value below 32 levels": _nested(32, core="1"),
    "33 levels of objects": _nested(33, '{"a":', "}", "0"),
    "100 000 levels": _nested(100_000),
    "100 000 levels of objects": _nested(100_000, '{"a":', "}", "0"),
    "100 000 levels that never close": b"[" * 100_000,
}


@pytest.mark.parametrize("data", _REFUSED.values(), ids=_REFUSED)
def test_ambiguous_json_is_refused_without_quoting_it(data: bytes) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the messages are compared below
        strict_json.loads(data)
    assert type(refused.value) is ValueError
    assert SECRET not in str(refused.value)
    assert len(str(refused.value)) < 150
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("utf-16", "not JSON|not UTF-8"),
        ('{"a":1,"a":1}', "duplicate"),
        ("[NaN]", "NaN or Infinity"),
        ("[1e999]", "too large"),
        ("9" * 5000, "digits"),
        ('"\\ud800"', "surrogate"),
        ("[" * 33 + "]" * 33, "deep"),
    ],
)
def test_the_error_names_the_cause(data: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        strict_json.loads(data.encode())


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"{}", {}),
        (b" \r\n\t{ } ", {}),
        (b'{"a":1,"A":2}', {"a": 1, "A": 2}),
        ('{"a": "é\U0001f600"}'.encode(), {"a": "é\U0001f600"}),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\\u0000"', "\0"),  # refused where it would become a header
        (b"[true,false,null]", [True, False, None]),
        (b"9007199254740993", 2**53 + 1),
        (b"-" + b"9" * 39, 1 - 10**39),
        (b"1e308", 1e308),
        (b"1e-999", 0.0),
        (_nested(32), json.loads(_nested(32))),
    ],
)
def test_unambiguous_json_is_accepted(data: bytes, value: Any) -> None:
    assert strict_json.loads(data) == value


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**38), max_value=10**38)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda below: (
        st.lists(below, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), below, max_size=4)
    ),
    max_leaves=15,
)


@given(value=_JSON, ascii_only=st.booleans())
def test_every_value_survives_a_round_trip(value: Any, *, ascii_only: bool) -> None:
    assert strict_json.loads(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary() | st.text(st.sampled_from('{}[]":,\\u01eE+-.ad nN ')).map(str.encode))
def test_any_bytes_give_a_value_or_a_value_error(data: bytes) -> None:
    try:
        value = strict_json.loads(data)
    except ValueError as refused:
        assert type(refused) is ValueError
    else:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # finite, and no lone surrogate
        assert not isinstance(value, float) or math.isfinite(value)
